// The calls that change names and attributes, on paths: mkdir, mknod, symlink, link, unlink, rmdir,
// rename, chmod, chown, utimensat, truncate. Linux: do_mkdirat() and so on in fs/namei.c,
// fs/open.c.
//
// All of them: resolve, check permissions in Linux's order of errors, change through the dentry.
#pragma once

#include <string_view>

#include "base/result.h"
#include "vfs/caller.h"
#include "vfs/file_types.h"
#include "vfs/path.h"

namespace caisson {

// `mode` has the type bits; for directories, FIFOs, devices, sockets and regular files (mknod).
Result<void> make_node(const Caller& caller, const Path& at, std::string_view path, uint32_t mode,
                       uint64_t device);
Result<void> make_directory(const Caller& caller, const Path& at, std::string_view path,
                            uint32_t mode);
Result<void> make_symlink(const Caller& caller, std::string_view target, const Path& at,
                          std::string_view path);
Result<void> make_link(const Caller& caller, const Path& file, const Path& at,
                       std::string_view path);
Result<void> remove_file(const Caller& caller, const Path& at, std::string_view path);
Result<void> remove_directory(const Caller& caller, const Path& at, std::string_view path);
Result<void> rename_path(const Caller& caller, const Path& old_at, std::string_view old_path,
                         const Path& new_at, std::string_view new_path, uint32_t flags);

Result<void> change_mode(const Caller& caller, const Path& place, uint32_t mode);
// ~0u leaves an id as it is.
Result<void> change_owner(const Caller& caller, const Path& place, uint32_t uid, uint32_t gid);
// Null: now. UTIME_NOW and UTIME_OMIT count.
struct TimePair {
  FileTime accessed, modified;
  bool accessed_now = false, modified_now = false, accessed_omit = false, modified_omit = false;
};
Result<void> change_times(const Caller& caller, const Path& place, const TimePair& times);
Result<void> truncate_path(const Caller& caller, const Path& place, uint64_t size);

}  // namespace caisson
