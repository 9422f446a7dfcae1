// Names and attributes: mkdir(2), unlink(2), rename(2), link(2), chdir(2), chmod(2), chown(2),
// utimensat(2) and their *at forms. Linux: fs/namei.c, fs/open.c, fs/utimes.c, fs/d_path.c.
#include "syscalls/sys_dir.h"

#include <linux/fs.h>
#include <sys/resource.h>
#include <sys/time.h>

#include "abi/signal.h"
#include "mm/memory_manager.h"
#include "mm/user_buffer.h"
#include "syscalls/path_at.h"
#include "vfs/path_calls.h"
#include "vfs/permissions.h"

namespace caisson {

SyscallResult sys_getdents64(CurrentTask& task, uint32_t fd, UserOut<std::byte> buffer,
                             uint32_t size) {
  Ref<FileDescription> file = TRY(task.files().get(static_cast<int>(fd)));
  UserBuffer to = TRY(UserBuffer::create(task.mm(), buffer.addr(), size));
  return file->getdents(to);
}

SyscallResult sys_mkdirat(CurrentTask& task, int dirfd, UserCString path, uint32_t mode) {
  std::string text = TRY(task.copy_in_path(path));
  TaskCaller caller(task);
  Path at = TRY(directory_at(task, caller, dirfd, text));
  return make_directory(caller.caller(), at, text, mode);
}
SyscallResult sys_mkdir(CurrentTask& task, UserCString path, uint32_t mode) {
  return sys_mkdirat(task, AT_FDCWD, path, mode);
}

SyscallResult sys_mknodat(CurrentTask& task, int dirfd, UserCString path, uint32_t mode,
                          uint32_t device) {
  std::string text = TRY(task.copy_in_path(path));
  TaskCaller caller(task);
  Path at = TRY(directory_at(task, caller, dirfd, text));
  if ((mode & S_IFMT) == 0) mode |= S_IFREG;
  uint32_t type = mode & S_IFMT;
  uint64_t number = type == S_IFCHR || type == S_IFBLK ? device : 0;
  return make_node(caller.caller(), at, text, mode & (S_IFMT | 07777), number);
}
SyscallResult sys_mknod(CurrentTask& task, UserCString path, uint32_t mode, uint32_t device) {
  return sys_mknodat(task, AT_FDCWD, path, mode, device);
}

SyscallResult sys_unlinkat(CurrentTask& task, int dirfd, UserCString path, int flags) {
  if ((flags & ~AT_REMOVEDIR) != 0) return Errno(EINVAL);
  std::string text = TRY(task.copy_in_path(path));
  TaskCaller caller(task);
  Path at = TRY(directory_at(task, caller, dirfd, text));
  if ((flags & AT_REMOVEDIR) != 0) return remove_directory(caller.caller(), at, text);
  return remove_file(caller.caller(), at, text);
}
SyscallResult sys_rmdir(CurrentTask& task, UserCString path) {
  return sys_unlinkat(task, AT_FDCWD, path, AT_REMOVEDIR);
}
SyscallResult sys_unlink(CurrentTask& task, UserCString path) {
  return sys_unlinkat(task, AT_FDCWD, path, 0);
}

SyscallResult sys_symlinkat(CurrentTask& task, UserCString target, int dirfd, UserCString path) {
  std::string content = TRY(task.copy_in_path(target));
  std::string text = TRY(task.copy_in_path(path));
  if (content.empty()) return Errno(ENOENT);
  TaskCaller caller(task);
  Path at = TRY(directory_at(task, caller, dirfd, text));
  return make_symlink(caller.caller(), content, at, text);
}
SyscallResult sys_symlink(CurrentTask& task, UserCString target, UserCString path) {
  return sys_symlinkat(task, target, AT_FDCWD, path);
}

SyscallResult sys_linkat(CurrentTask& task, int old_dirfd, UserCString old_path, int new_dirfd,
                         UserCString new_path, int flags) {
  if ((flags & ~(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH)) != 0) return Errno(EINVAL);
  std::string old_text = TRY(task.copy_in_path(old_path));
  std::string new_text = TRY(task.copy_in_path(new_path));
  if (old_text.empty() && (flags & AT_EMPTY_PATH) != 0 &&
      !task.credentials().has(Capability::kDacReadSearch))
    return Errno(ENOENT);
  TaskCaller caller(task);
  int how = (flags & AT_EMPTY_PATH) | ((flags & AT_SYMLINK_FOLLOW) != 0 ? 0 : AT_SYMLINK_NOFOLLOW);
  Path file = TRY(place_at(task, caller, old_dirfd, old_text, how));
  Path at = TRY(directory_at(task, caller, new_dirfd, new_text));
  return make_link(caller.caller(), file, at, new_text);
}
SyscallResult sys_link(CurrentTask& task, UserCString old_path, UserCString new_path) {
  return sys_linkat(task, AT_FDCWD, old_path, AT_FDCWD, new_path, 0);
}

SyscallResult sys_renameat2(CurrentTask& task, int old_dirfd, UserCString old_path, int new_dirfd,
                            UserCString new_path, uint32_t flags) {
  if ((flags & ~uint32_t{RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT}) != 0)
    return Errno(EINVAL);
  std::string old_text = TRY(task.copy_in_path(old_path));
  std::string new_text = TRY(task.copy_in_path(new_path));
  TaskCaller caller(task);
  Path old_at = TRY(directory_at(task, caller, old_dirfd, old_text));
  Path new_at = TRY(directory_at(task, caller, new_dirfd, new_text));
  return rename_path(caller.caller(), old_at, old_text, new_at, new_text, flags);
}
SyscallResult sys_renameat(CurrentTask& task, int old_dirfd, UserCString old_path, int new_dirfd,
                           UserCString new_path) {
  return sys_renameat2(task, old_dirfd, old_path, new_dirfd, new_path, 0);
}
SyscallResult sys_rename(CurrentTask& task, UserCString old_path, UserCString new_path) {
  return sys_renameat2(task, AT_FDCWD, old_path, AT_FDCWD, new_path, 0);
}

SyscallResult sys_chdir(CurrentTask& task, UserCString path) {
  std::string text = TRY(task.copy_in_path(path));
  TaskCaller caller(task);
  Path place =
      TRY(resolve_path(caller.caller(), caller.working_directory(), text, {true, true, 0}));
  TRY(check_permission(task.credentials(), place.inode(), kMayExecute));
  task.fs().set_working_directory(std::move(place));
  return 0;
}
SyscallResult sys_fchdir(CurrentTask& task, int fd) {
  Ref<FileDescription> file = TRY(task.files().get_any(fd));
  if (!file->inode().is_directory()) return Errno(ENOTDIR);
  TRY(check_permission(task.credentials(), file->inode(), kMayExecute));
  task.fs().set_working_directory(file->path());
  return 0;
}
SyscallResult sys_chroot(CurrentTask& task, UserCString path) {
  std::string text = TRY(task.copy_in_path(path));
  TaskCaller caller(task);
  Path place =
      TRY(resolve_path(caller.caller(), caller.working_directory(), text, {true, true, 0}));
  TRY(check_permission(task.credentials(), place.inode(), kMayExecute));
  TRY(task.credentials().require(Capability::kSysChroot));
  task.fs().set_root(std::move(place));
  return 0;
}

SyscallResult sys_getcwd(CurrentTask& task, UserOut<char> buffer, uint64_t size) {
  TaskCaller caller(task);
  PathText text = describe_path(caller.caller().mounts, caller.root(), caller.working_directory());
  if (text.deleted) return Errno(ENOENT);
  if (!text.reachable) text.text = "(unreachable)" + text.text;
  if (text.text.size() + 1 > abi::kPathMax) return Errno(ENAMETOOLONG);
  if (text.text.size() + 1 > size) return Errno(ERANGE);
  TRY(task.copy_out_bytes(buffer.addr(), text.text.c_str(), text.text.size() + 1));
  return text.text.size() + 1;
}

SyscallResult sys_umask(CurrentTask& task, int mask) {
  return task.fs().set_umask(static_cast<uint32_t>(mask));
}

SyscallResult sys_fchmodat2(CurrentTask& task, int dirfd, UserCString path, uint32_t mode,
                            int flags) {
  if ((flags & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)) != 0) return Errno(EINVAL);
  std::string text = TRY(task.copy_in_path(path));
  TaskCaller caller(task);
  return change_mode(caller.caller(), TRY(place_at(task, caller, dirfd, text, flags)), mode);
}
SyscallResult sys_fchmodat(CurrentTask& task, int dirfd, UserCString path, uint32_t mode) {
  return sys_fchmodat2(task, dirfd, path, mode, 0);
}
SyscallResult sys_chmod(CurrentTask& task, UserCString path, uint32_t mode) {
  return sys_fchmodat2(task, AT_FDCWD, path, mode, 0);
}
SyscallResult sys_fchmod(CurrentTask& task, int fd, uint32_t mode) {
  Ref<FileDescription> file = TRY(task.files().get(fd));
  TaskCaller caller(task);
  return change_mode(caller.caller(), file->path(), mode);
}

SyscallResult sys_fchownat(CurrentTask& task, int dirfd, UserCString path, uint32_t uid,
                           uint32_t gid, int flags) {
  if ((flags & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)) != 0) return Errno(EINVAL);
  std::string text = TRY(task.copy_in_path(path));
  TaskCaller caller(task);
  return change_owner(caller.caller(), TRY(place_at(task, caller, dirfd, text, flags)), uid, gid);
}
SyscallResult sys_chown(CurrentTask& task, UserCString path, uint32_t uid, uint32_t gid) {
  return sys_fchownat(task, AT_FDCWD, path, uid, gid, 0);
}
SyscallResult sys_lchown(CurrentTask& task, UserCString path, uint32_t uid, uint32_t gid) {
  return sys_fchownat(task, AT_FDCWD, path, uid, gid, AT_SYMLINK_NOFOLLOW);
}
SyscallResult sys_fchown(CurrentTask& task, int fd, uint32_t uid, uint32_t gid) {
  Ref<FileDescription> file = TRY(task.files().get(fd));
  TaskCaller caller(task);
  return change_owner(caller.caller(), file->path(), uid, gid);
}

SyscallResult sys_truncate(CurrentTask& task, UserCString path, int64_t length) {
  if (length < 0) return Errno(EINVAL);
  std::string text = TRY(task.copy_in_path(path));
  TaskCaller caller(task);
  Path place = TRY(place_at(task, caller, AT_FDCWD, text, 0));
  if (place.inode().is_regular() && static_cast<uint64_t>(length) > task.limit(RLIMIT_FSIZE)) {
    task.raise(SIGXFSZ);
    return Errno(EFBIG);
  }
  return truncate_path(caller.caller(), place, static_cast<uint64_t>(length));
}

namespace {

SyscallResult set_times(CurrentTask& task, int dirfd, UserCString path, int flags,
                        const TimePair& times) {
  TaskCaller caller(task);
  if (path.is_null()) {  // futimens(3)
    if (flags != 0) return Errno(EINVAL);
    if (dirfd == AT_FDCWD) return Errno(EFAULT);
    return change_times(caller.caller(), TRY(task.files().get(dirfd))->path(), times);
  }
  std::string text = TRY(task.copy_in_path(path));
  return change_times(caller.caller(), TRY(place_at(task, caller, dirfd, text, flags)), times);
}

Result<TimePair> from_timevals(CurrentTask& task, UserIn<timeval> times) {
  TimePair pair;
  pair.accessed_now = pair.modified_now = times.is_null();
  if (times.is_null()) return pair;
  std::vector<timeval> given = TRY(task.copy_in_array(times, 2));
  for (const timeval& time : given) {
    if (time.tv_usec < 0 || time.tv_usec >= 1'000'000) return Errno(EINVAL);
  }
  pair.accessed = {given[0].tv_sec, static_cast<uint32_t>(given[0].tv_usec * 1000)};
  pair.modified = {given[1].tv_sec, static_cast<uint32_t>(given[1].tv_usec * 1000)};
  return pair;
}

}  // namespace

SyscallResult sys_utimensat(CurrentTask& task, int dirfd, UserCString path, UserIn<timespec> times,
                            int flags) {
  TimePair pair;
  pair.accessed_now = pair.modified_now = times.is_null();
  if (!times.is_null()) {
    std::vector<timespec> given = TRY(task.copy_in_array(times, 2));
    if (given[0].tv_nsec == UTIME_OMIT && given[1].tv_nsec == UTIME_OMIT) return 0;
    auto take = [](const timespec& from, FileTime& to, bool& now, bool& omit) {
      now = from.tv_nsec == UTIME_NOW;
      omit = from.tv_nsec == UTIME_OMIT;
      if (now || omit) return true;
      to = {from.tv_sec, static_cast<uint32_t>(from.tv_nsec)};
      return from.tv_nsec >= 0 && from.tv_nsec < 1'000'000'000;
    };
    if (!take(given[0], pair.accessed, pair.accessed_now, pair.accessed_omit) ||
        !take(given[1], pair.modified, pair.modified_now, pair.modified_omit))
      return Errno(EINVAL);
  }
  if ((flags & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)) != 0) return Errno(EINVAL);
  return set_times(task, dirfd, path, flags, pair);
}

SyscallResult sys_futimesat(CurrentTask& task, int dirfd, UserCString path, UserIn<timeval> times) {
  return set_times(task, dirfd, path, 0, TRY(from_timevals(task, times)));
}
SyscallResult sys_utimes(CurrentTask& task, UserCString path, UserIn<timeval> times) {
  return sys_futimesat(task, AT_FDCWD, path, times);
}
SyscallResult sys_utime(CurrentTask& task, UserCString path, UserIn<int64_t> times) {
  TimePair pair;
  pair.accessed_now = pair.modified_now = times.is_null();
  if (!times.is_null()) {
    std::vector<int64_t> given = TRY(task.copy_in_array(times, 2));
    pair.accessed.seconds = given[0];
    pair.modified.seconds = given[1];
  }
  return set_times(task, AT_FDCWD, path, 0, pair);
}

}  // namespace caisson
