#include "caisson/sys/files.h"

#include <climits>
#include <cstring>

#include "host/raw_syscall.h"

namespace caisson::sys {

using host::raw_arg;
using host::raw_syscall;
using host::RawResult;

namespace {

// A path as the kernel takes it.
class CPath {
 public:
  static Result<CPath> from(std::string_view path) {
    if (path.find('\0') != std::string_view::npos) return Errno(EINVAL);
    if (path.size() >= PATH_MAX) return Errno(ENAMETOOLONG);
    return CPath(path);
  }
  long arg() const { return raw_arg(text_.c_str()); }

 private:
  explicit CPath(std::string_view path) : text_(path) {}
  std::string text_;
};

Result<Stat> stat_at(std::string_view path, int flags) {
  const CPath name = TRY(CPath::from(path));
  Stat result{};
  TRY(raw_syscall(SYS_newfstatat, AT_FDCWD, name.arg(), raw_arg(&result), flags).result());
  return result;
}

bool in_group(gid_t gid, bool effective) {
  if (static_cast<gid_t>(raw_syscall(effective ? SYS_getegid : SYS_getgid).value()) == gid)
    return true;
  const RawResult count = raw_syscall(SYS_getgroups, 0, 0);
  if (!count.ok() || count.value() == 0) return false;
  std::string storage(static_cast<size_t>(count.value()) * sizeof(gid_t), '\0');
  const RawResult got = raw_syscall(SYS_getgroups, count.value(), raw_arg(storage.data()));
  for (long i = 0; got.ok() && i < got.value(); ++i) {
    gid_t member;
    std::memcpy(&member, storage.data() + i * sizeof(gid_t), sizeof(member));
    if (member == gid) return true;
  }
  return false;
}

// What the kernel's own check does, from the mode bits alone.
Result<void> access_by_mode(int dirfd, const CPath& path, uint32_t mode, int flags) {
  Stat file{};
  TRY(raw_syscall(SYS_newfstatat, dirfd, path.arg(), raw_arg(&file), flags & AT_SYMLINK_NOFOLLOW)
          .result());
  if (mode == 0) return {};
  const bool effective = (flags & AT_EACCESS) != 0;
  const uid_t uid = static_cast<uid_t>(raw_syscall(effective ? SYS_geteuid : SYS_getuid).value());
  if (uid == 0) {
    const bool wants_execute = (mode & 1) != 0;
    if (!wants_execute || S_ISDIR(file.st_mode) || (file.st_mode & 0111) != 0) return {};
    return Errno(EACCES);
  }
  uint32_t granted = file.st_mode & 7;
  if (file.st_uid == uid) {
    granted = file.st_mode >> 6 & 7;
  } else if (in_group(file.st_gid, effective)) {
    granted = file.st_mode >> 3 & 7;
  }
  if ((granted & mode) == mode) return {};
  return Errno(EACCES);
}

}  // namespace

Result<UniqueFd> open(std::string_view path, int flags, uint32_t mode) {
  const CPath name = TRY(CPath::from(path));
  return UniqueFd(
      static_cast<int>(TRY(raw_syscall(SYS_openat, AT_FDCWD, name.arg(), flags, mode).result())));
}

Result<void> close(int fd) {
  TRY(raw_syscall(SYS_close, fd).result());
  return {};
}

Result<size_t> read(int fd, std::span<std::byte> buffer) {
  return static_cast<size_t>(
      TRY(raw_syscall(SYS_read, fd, raw_arg(buffer.data()), static_cast<long>(buffer.size()))
              .result()));
}

Result<int64_t> seek(int fd, int64_t offset, int whence) {
  return TRY(raw_syscall(SYS_lseek, fd, offset, whence).result());
}

Result<Pipe> pipe() { return pipe2(0); }

Result<Pipe> pipe2(int flags) {
  int ends[2];
  TRY(raw_syscall(SYS_pipe2, raw_arg(ends), flags).result());
  return Pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

Result<void> close_on_exec(int fd) {
  TRY(raw_syscall(SYS_fcntl, fd, F_SETFD, FD_CLOEXEC).result());
  return {};
}

Result<void> set_nonblock(int fd, bool nonblocking) {
  const long before = TRY(raw_syscall(SYS_fcntl, fd, F_GETFL).result());
  const long after = nonblocking ? before | O_NONBLOCK : before & ~long{O_NONBLOCK};
  if (after != before) TRY(raw_syscall(SYS_fcntl, fd, F_SETFL, after).result());
  return {};
}

Result<Stat> stat(std::string_view path) { return stat_at(path, 0); }
Result<Stat> lstat(std::string_view path) { return stat_at(path, AT_SYMLINK_NOFOLLOW); }

Result<void> faccessat(int dirfd, std::string_view path, uint32_t mode, int flags) {
  const CPath name = TRY(CPath::from(path));
  if (flags == 0) {
    TRY(raw_syscall(SYS_faccessat, dirfd, name.arg(), mode).result());
    return {};
  }
  const RawResult checked = raw_syscall(SYS_faccessat2, dirfd, name.arg(), mode, flags);
  if (checked.ok()) return {};
  if (checked.value() != -ENOSYS && checked.value() != -EPERM) return checked.error();
  // EPERM is of the file (an immutable one), or of a filter that does not know the call.
  if (checked.value() == -EPERM &&
      raw_syscall(SYS_faccessat2, AT_FDCWD, raw_arg("/"), F_OK, AT_EACCESS).ok())
    return checked.error();
  if ((flags & ~(AT_SYMLINK_NOFOLLOW | AT_EACCESS)) != 0 || (mode & ~7u) != 0) return Errno(EINVAL);
  return access_by_mode(dirfd, name, mode, flags);
}

Result<size_t> getcwd(std::span<char> buffer) {
  return static_cast<size_t>(TRY(
      raw_syscall(SYS_getcwd, raw_arg(buffer.data()), static_cast<long>(buffer.size())).result()));
}

Result<std::string> getwd() {
  char buffer[PATH_MAX];
  const size_t size = TRY(getcwd(buffer));
  if (size < 1 || size > sizeof(buffer) || buffer[size - 1] != '\0') return Errno(EINVAL);
  // "(unreachable)/..." since Linux 2.6.36.
  if (buffer[0] != '/') return Errno(ENOENT);
  return std::string(buffer, size - 1);
}

}  // namespace caisson::sys
