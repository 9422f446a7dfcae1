// Attributes of files: stat(2) and its kin, statfs(2), access(2), readlink(2). Linux: fs/stat.c,
// fs/statfs.c, fs/open.c.
#include "syscalls/sys_stat.h"

#include <linux/mount.h>
#include <linux/stat.h>

#include <algorithm>

#include "syscalls/path_at.h"
#include "vfs/permissions.h"

namespace caisson {
namespace {

timespec to_timespec(FileTime time) {
  return timespec{static_cast<time_t>(time.seconds), static_cast<long>(time.nanoseconds)};
}
statx_timestamp to_statx_time(FileTime time) {
  return statx_timestamp{time.seconds, time.nanoseconds, {}};
}

SyscallResult copy_stat(CurrentTask& task, const Result<FileStat>& stat, UserOut<abi::Stat> to) {
  if (!stat.ok()) return stat.error();
  abi::Stat out{};
  out.st_dev = stat->device;
  out.st_ino = stat->ino;
  out.st_nlink = stat->link_count;
  out.st_mode = stat->mode;
  out.st_uid = stat->uid;
  out.st_gid = stat->gid;
  out.st_rdev = stat->special_device;
  out.st_size = static_cast<int64_t>(stat->size);
  out.st_blksize = stat->block_size;
  out.st_blocks = static_cast<int64_t>(stat->blocks);
  out.st_atim = to_timespec(stat->accessed);
  out.st_mtim = to_timespec(stat->modified);
  out.st_ctim = to_timespec(stat->changed);
  return task.copy_out(to, out);
}

// fstat(2) and the empty path ask the open file, which may know more than its inode.
Result<FileStat> stat_at(CurrentTask& task, int dirfd, UserCString path, int flags,
                         uint64_t* mount_id, bool* is_mount_root) {
  std::string text;
  // A null path with AT_EMPTY_PATH is an empty one since Linux 6.11.
  if (!((flags & AT_EMPTY_PATH) != 0 && path.is_null())) text = TRY(task.copy_in_path(path));
  auto note = [&](const Path& place) {
    if (mount_id != nullptr) *mount_id = static_cast<uint64_t>(place.mount->id());
    if (is_mount_root != nullptr) *is_mount_root = place.dentry == place.mount->root();
  };
  if (text.empty() && (flags & AT_EMPTY_PATH) != 0 && dirfd != AT_FDCWD) {
    Ref<FileDescription> file = TRY(task.files().get_any(dirfd));
    note(file->path());
    return file->stat();
  }
  TaskCaller caller(task);
  Path place = TRY(place_at(task, caller, dirfd, text, flags));
  note(place);
  return place.inode().stat();
}

SyscallResult copy_statfs(CurrentTask& task, const Path& place, UserOut<abi::Statfs> to) {
  Filesystem& filesystem = place.mount->filesystem();
  FilesystemStat stat = TRY(filesystem.stat());
  abi::Statfs out{};
  out.type = static_cast<int64_t>(stat.magic);
  out.bsize = out.frsize = stat.block_size;
  out.blocks = stat.blocks;
  out.bfree = out.bavail = stat.blocks_free;
  out.files = stat.files;
  out.ffree = stat.files_free;
  out.fsid[0] = static_cast<int32_t>(filesystem.device());
  out.namelen = abi::kNameMax;
  // ST_* equal MS_* for these; ST_VALID is set, ST_RELATIME has a bit of its own.
  uint64_t flags = place.mount_flags();
  out.flags = 0x20 | static_cast<int64_t>(flags & (MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC |
                                                   MS_NOATIME | MS_NODIRATIME));
  if ((flags & MS_RELATIME) != 0) out.flags |= 0x1000;
  return task.copy_out(to, out);
}

}  // namespace

SyscallResult sys_newfstatat(CurrentTask& task, int dirfd, UserCString path,
                             UserOut<abi::Stat> result, int flags) {
  if ((flags & ~(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH)) != 0) return Errno(EINVAL);
  return copy_stat(task, stat_at(task, dirfd, path, flags, nullptr, nullptr), result);
}

SyscallResult sys_stat(CurrentTask& task, UserCString path, UserOut<abi::Stat> result) {
  return sys_newfstatat(task, AT_FDCWD, path, result, 0);
}
SyscallResult sys_lstat(CurrentTask& task, UserCString path, UserOut<abi::Stat> result) {
  return sys_newfstatat(task, AT_FDCWD, path, result, AT_SYMLINK_NOFOLLOW);
}
SyscallResult sys_fstat(CurrentTask& task, int fd, UserOut<abi::Stat> result) {
  return copy_stat(task, TRY(task.files().get_any(fd))->stat(), result);
}

SyscallResult sys_statx(CurrentTask& task, int dirfd, UserCString path, uint32_t flags,
                        uint32_t mask, UserOut<abi::Statx> result) {
  if ((mask & STATX__RESERVED) != 0) return Errno(EINVAL);
  constexpr uint32_t kSyncBits = AT_STATX_FORCE_SYNC | AT_STATX_DONT_SYNC;
  if ((flags & kSyncBits) == kSyncBits) return Errno(EINVAL);
  if ((flags & ~(kSyncBits | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH)) != 0)
    return Errno(EINVAL);
  uint64_t mount_id = 0;
  bool is_mount_root = false;
  FileStat stat =
      TRY(stat_at(task, dirfd, path, static_cast<int>(flags), &mount_id, &is_mount_root));
  abi::Statx out{};
  out.stx_mask = STATX_BASIC_STATS | 0x1000 /* STATX_MNT_ID */;
  out.stx_blksize = stat.block_size;
  out.stx_attributes_mask = 0x2000;  // STATX_ATTR_MOUNT_ROOT
  if (is_mount_root) out.stx_attributes |= 0x2000;
  out.stx_nlink = stat.link_count;
  out.stx_uid = stat.uid;
  out.stx_gid = stat.gid;
  out.stx_mode = static_cast<uint16_t>(stat.mode);
  out.stx_ino = stat.ino;
  out.stx_size = stat.size;
  out.stx_blocks = stat.blocks;
  out.stx_atime = to_statx_time(stat.accessed);
  out.stx_mtime = to_statx_time(stat.modified);
  out.stx_ctime = to_statx_time(stat.changed);
  if (stat.born) {
    out.stx_mask |= STATX_BTIME;
    out.stx_btime = to_statx_time(*stat.born);
  }
  out.stx_rdev_major = device_major(stat.special_device);
  out.stx_rdev_minor = device_minor(stat.special_device);
  out.stx_dev_major = device_major(stat.device);
  out.stx_dev_minor = device_minor(stat.device);
  // stx_mnt_id, at a place that older headers call spare.
  std::copy_n(reinterpret_cast<const uint8_t*>(&mount_id), sizeof mount_id,
              reinterpret_cast<uint8_t*>(&out) + 0x90);
  return task.copy_out(result, out);
}

SyscallResult sys_statfs(CurrentTask& task, UserCString path, UserOut<abi::Statfs> result) {
  std::string text = TRY(task.copy_in_path(path));
  TaskCaller caller(task);
  return copy_statfs(task, TRY(place_at(task, caller, AT_FDCWD, text, 0)), result);
}
SyscallResult sys_fstatfs(CurrentTask& task, int fd, UserOut<abi::Statfs> result) {
  return copy_statfs(task, TRY(task.files().get_any(fd))->path(), result);
}

SyscallResult sys_faccessat2(CurrentTask& task, int dirfd, UserCString path, int mode, int flags) {
  if ((mode & ~7) != 0) return Errno(EINVAL);
  if ((flags & ~(AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)) != 0) return Errno(EINVAL);
  std::string text = TRY(task.copy_in_path(path));
  TaskCaller caller(task);
  // The real ids look the path up too.
  Ref<Credentials> credentials =
      (flags & AT_EACCESS) != 0 ? task.credentials_ref() : real_credentials(task.credentials());
  Caller real{*credentials,
              caller.caller().mounts,
              caller.root(),
              caller.working_directory(),
              caller.caller().umask,
              caller.caller().process_id,
              caller.caller().thread_id};
  Path place = caller.working_directory();
  if (text.empty() && (flags & AT_EMPTY_PATH) != 0) {
    place = TRY(place_at(task, caller, dirfd, text, flags));
  } else {
    Path at = TRY(directory_at(task, caller, dirfd, text));
    place = TRY(resolve_path(real, at, text, {(flags & AT_SYMLINK_NOFOLLOW) == 0, false, 0}));
  }
  if (mode == F_OK) return 0;
  return check_access(*credentials, place, static_cast<AccessMask>(mode));
}

SyscallResult sys_faccessat(CurrentTask& task, int dirfd, UserCString path, int mode) {
  return sys_faccessat2(task, dirfd, path, mode, 0);
}
SyscallResult sys_access(CurrentTask& task, UserCString path, int mode) {
  return sys_faccessat2(task, AT_FDCWD, path, mode, 0);
}

SyscallResult sys_readlinkat(CurrentTask& task, int dirfd, UserCString path, UserOut<char> buffer,
                             int size) {
  if (size <= 0) return Errno(EINVAL);
  std::string text = TRY(task.copy_in_path(path));
  TaskCaller caller(task);
  // An empty path means the link that an O_PATH descriptor refers to.
  Path place = TRY(place_at(task, caller, dirfd, text,
                            AT_SYMLINK_NOFOLLOW | (text.empty() ? AT_EMPTY_PATH : 0)));
  if (!place.inode().is_symlink()) return text.empty() ? Errno(ENOENT) : Errno(EINVAL);
  LinkTarget target = TRY(place.inode().link_target(caller.caller()));
  std::string content =
      std::holds_alternative<std::string>(target)
          ? std::get<std::string>(target)
          : describe_path(caller.caller().mounts, caller.root(), std::get<Path>(target)).text;
  size_t length = std::min(content.size(), static_cast<size_t>(size));
  TRY(task.copy_out_bytes(buffer.addr(), content.data(), length));
  return length;
}
SyscallResult sys_readlink(CurrentTask& task, UserCString path, UserOut<char> buffer, int size) {
  return sys_readlinkat(task, AT_FDCWD, path, buffer, size);
}

}  // namespace caisson
