#include "vfs/permissions.h"

#include <linux/mount.h>
#include <linux/securebits.h>

namespace caisson {

Result<void> check_permission(const Credentials& credentials, const Inode& inode, AccessMask mask) {
  uint32_t mode = inode.mode();
  AccessMask granted;
  if (credentials.fsuid == inode.uid()) {
    granted = mode >> 6;
  } else if (credentials.in_group(inode.gid())) {
    granted = mode >> 3;
  } else {
    granted = mode;
  }
  if ((mask & ~granted & 7) == 0) return {};
  if (inode.is_directory()) {
    if ((mask & kMayWrite) == 0 && credentials.has(Capability::kDacReadSearch)) return {};
    if (credentials.has(Capability::kDacOverride)) return {};
    return Errno(EACCES);
  }
  if (mask == kMayRead && credentials.has(Capability::kDacReadSearch)) return {};
  if ((mask & kMayExecute) == 0 || (mode & 0111) != 0) {
    if (credentials.has(Capability::kDacOverride)) return {};
  }
  return Errno(EACCES);
}

Result<void> check_access(const Credentials& credentials, const Path& path, AccessMask mask) {
  const Inode& inode = path.inode();
  uint32_t type = inode.type();
  if ((mask & kMayWrite) != 0 && path.mount->is_read_only() &&
      (type == S_IFREG || type == S_IFDIR || type == S_IFLNK))
    return Errno(EROFS);
  if ((mask & kMayExecute) != 0 && type == S_IFREG && (path.mount_flags() & MS_NOEXEC) != 0)
    return Errno(EACCES);
  return check_permission(credentials, inode, mask);
}

Result<void> check_writable(const Mount& mount) {
  if (mount.is_read_only()) return Errno(EROFS);
  return {};
}

Result<void> check_create(const Credentials& credentials, const Path& directory) {
  if (directory.dentry->is_removed()) return Errno(ENOENT);
  return check_permission(credentials, directory.inode(), kMayWrite | kMayExecute);
}

Result<void> check_delete(const Credentials& credentials, const Inode& directory,
                          const Inode& victim) {
  TRY(check_permission(credentials, directory, kMayWrite | kMayExecute));
  if ((directory.mode() & S_ISVTX) == 0) return {};
  if (victim.uid() == credentials.fsuid || directory.uid() == credentials.fsuid) return {};
  if (credentials.has(Capability::kFowner)) return {};
  return Errno(EPERM);
}

bool is_owner_or_capable(const Credentials& credentials, const Inode& inode) {
  return credentials.fsuid == inode.uid() || credentials.has(Capability::kFowner);
}

NewFile new_file_in(const Credentials& credentials, const Inode& directory, uint32_t mode,
                    uint32_t umask) {
  NewFile file;
  file.mode = (mode & S_IFMT) == S_IFLNK ? mode : mode & ~(umask & 0777);
  file.uid = credentials.fsuid;
  file.gid = credentials.fsgid;
  if ((directory.mode() & S_ISGID) != 0) {
    file.gid = directory.gid();
    if ((mode & S_IFMT) == S_IFDIR) {
      file.mode |= S_ISGID;
    } else if ((file.mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP) &&
               !credentials.in_group(file.gid) && !credentials.has(Capability::kFsetid)) {
      file.mode &= ~static_cast<uint32_t>(S_ISGID);
    }
  }
  return file;
}

Ref<Credentials> real_credentials(const Credentials& credentials) {
  CredentialsData data = credentials.edit();
  data.fsuid = data.ruid;
  data.fsgid = data.rgid;
  if ((data.securebits & (1u << SECURE_NO_SETUID_FIXUP)) == 0) {
    data.effective = data.ruid == 0 ? data.permitted : CapabilitySet();
  }
  return make_ref<Credentials>(std::move(data));
}

}  // namespace caisson
