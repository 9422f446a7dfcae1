// Who may do what with a file: inode_permission() and its kin of Linux' fs/namei.c and fs/attr.c.
#pragma once

#include "base/result.h"
#include "kernel/auth/credentials.h"
#include "vfs/inode.h"
#include "vfs/path.h"

namespace caisson {

// EACCES unless the mode bits, or a capability, allow everything in `mask` to the file-system ids.
Result<void> check_permission(const Credentials& credentials, const Inode& inode, AccessMask mask);
// The same for a place: EROFS on read-only mounts, EACCES for executing on noexec ones.
Result<void> check_access(const Credentials& credentials, const Path& path, AccessMask mask);

// EROFS on a read-only mount.
Result<void> check_writable(const Mount& mount);
// May names be added to this directory? May `victim` be removed from it (sticky bit: EPERM)?
Result<void> check_create(const Credentials& credentials, const Path& directory);
Result<void> check_delete(const Credentials& credentials, const Inode& directory,
                          const Inode& victim);
// The owner of the file or CAP_FOWNER.
bool is_owner_or_capable(const Credentials& credentials, const Inode& inode);

// Owner, group and mode of a new file in `directory`: set-group-id directories hand theirs on.
NewFile new_file_in(const Credentials& credentials, const Inode& directory, uint32_t mode,
                    uint32_t umask);

// The credentials that access(2) checks with: the real ids, and capabilities only for real uid 0.
Ref<Credentials> real_credentials(const Credentials& credentials);

}  // namespace caisson
