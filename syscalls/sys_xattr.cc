// Extended attributes, xattr(7). Linux: fs/xattr.c; which names there are follows tmpfs: user,
// trusted and security; the system ones (ACLs) are not supported.
#include "syscalls/sys_xattr.h"

#include <sys/xattr.h>

#include "syscalls/path_at.h"
#include "vfs/permissions.h"

namespace caisson {
namespace {

constexpr size_t kNameMax = 255;
constexpr size_t kSizeMax = 65536;

Result<std::string> copy_in_name(CurrentTask& task, UserCString name) {
  Result<std::string> text = task.copy_in_string(name, kNameMax + 1);
  if (!text.ok()) return text.error() == Errno(ENAMETOOLONG) ? Errno(ERANGE) : text.error();
  if (text->empty()) return Errno(ERANGE);
  return text;
}

// xattr_permission() and the choice of the handler.
Result<void> check(const Credentials& credentials, const Path& place, const std::string& name,
                   bool write) {
  if (write) TRY(check_writable(*place.mount));
  Inode& inode = place.inode();
  if (name.starts_with("trusted.")) {
    if (!credentials.has(Capability::kSysAdmin)) return write ? Errno(EPERM) : Errno(ENODATA);
    return {};
  }
  if (name.starts_with("user.")) {
    if (!inode.is_regular() && !inode.is_directory()) return write ? Errno(EPERM) : Errno(ENODATA);
    if (write && inode.is_directory() && (inode.mode() & S_ISVTX) != 0 &&
        !is_owner_or_capable(credentials, inode))
      return Errno(EPERM);
    return check_permission(credentials, inode, write ? kMayWrite : kMayRead);
  }
  if (name.starts_with("security.")) {
    if (write && !credentials.has(Capability::kSysAdmin)) return Errno(EPERM);
    return {};
  }
  return Errno(EOPNOTSUPP);
}

SyscallResult set(CurrentTask& task, const Path& place, UserCString name, UserIn<std::byte> value,
                  size_t size, int flags) {
  if ((flags & ~(XATTR_CREATE | XATTR_REPLACE)) != 0) return Errno(EINVAL);
  std::string text = TRY(copy_in_name(task, name));
  if (size > kSizeMax) return Errno(E2BIG);
  std::string content(size, '\0');
  TRY(task.copy_in_bytes(content.data(), value.addr(), size));
  TRY(check(task.credentials(), place, text, true));
  return place.inode().set_xattr(text, content, flags);
}

SyscallResult get(CurrentTask& task, const Path& place, UserCString name, UserOut<std::byte> value,
                  size_t size) {
  std::string text = TRY(copy_in_name(task, name));
  TRY(check(task.credentials(), place, text, false));
  std::string content = TRY(place.inode().get_xattr(text));
  if (size == 0) return content.size();
  if (size < content.size()) return Errno(ERANGE);
  TRY(task.copy_out_bytes(value.addr(), content.data(), content.size()));
  return content.size();
}

SyscallResult list(CurrentTask& task, const Path& place, UserOut<char> to, size_t size) {
  std::string all;
  for (const std::string& name : TRY(place.inode().list_xattrs())) {
    if (name.starts_with("trusted.") && !task.credentials().has(Capability::kSysAdmin)) continue;
    all.append(name).push_back('\0');
  }
  if (size == 0) return all.size();
  if (size < all.size()) return Errno(ERANGE);
  TRY(task.copy_out_bytes(to.addr(), all.data(), all.size()));
  return all.size();
}

SyscallResult remove(CurrentTask& task, const Path& place, UserCString name) {
  std::string text = TRY(copy_in_name(task, name));
  TRY(check(task.credentials(), place, text, true));
  return place.inode().remove_xattr(text);
}

Result<Path> place_of(CurrentTask& task, UserCString path, bool follow) {
  std::string text = TRY(task.copy_in_path(path));
  TaskCaller caller(task);
  return place_at(task, caller, AT_FDCWD, text, follow ? 0 : AT_SYMLINK_NOFOLLOW);
}
Result<Path> place_of(CurrentTask& task, int fd) { return TRY(task.files().get(fd))->path(); }

}  // namespace

SyscallResult sys_setxattr(CurrentTask& task, UserCString path, UserCString name,
                           UserIn<std::byte> value, size_t size, int flags) {
  return set(task, TRY(place_of(task, path, true)), name, value, size, flags);
}
SyscallResult sys_lsetxattr(CurrentTask& task, UserCString path, UserCString name,
                            UserIn<std::byte> value, size_t size, int flags) {
  return set(task, TRY(place_of(task, path, false)), name, value, size, flags);
}
SyscallResult sys_fsetxattr(CurrentTask& task, int fd, UserCString name, UserIn<std::byte> value,
                            size_t size, int flags) {
  return set(task, TRY(place_of(task, fd)), name, value, size, flags);
}
SyscallResult sys_getxattr(CurrentTask& task, UserCString path, UserCString name,
                           UserOut<std::byte> value, size_t size) {
  return get(task, TRY(place_of(task, path, true)), name, value, size);
}
SyscallResult sys_lgetxattr(CurrentTask& task, UserCString path, UserCString name,
                            UserOut<std::byte> value, size_t size) {
  return get(task, TRY(place_of(task, path, false)), name, value, size);
}
SyscallResult sys_fgetxattr(CurrentTask& task, int fd, UserCString name, UserOut<std::byte> value,
                            size_t size) {
  return get(task, TRY(place_of(task, fd)), name, value, size);
}
SyscallResult sys_listxattr(CurrentTask& task, UserCString path, UserOut<char> to, size_t size) {
  return list(task, TRY(place_of(task, path, true)), to, size);
}
SyscallResult sys_llistxattr(CurrentTask& task, UserCString path, UserOut<char> to, size_t size) {
  return list(task, TRY(place_of(task, path, false)), to, size);
}
SyscallResult sys_flistxattr(CurrentTask& task, int fd, UserOut<char> to, size_t size) {
  return list(task, TRY(place_of(task, fd)), to, size);
}
SyscallResult sys_removexattr(CurrentTask& task, UserCString path, UserCString name) {
  return remove(task, TRY(place_of(task, path, true)), name);
}
SyscallResult sys_lremovexattr(CurrentTask& task, UserCString path, UserCString name) {
  return remove(task, TRY(place_of(task, path, false)), name);
}
SyscallResult sys_fremovexattr(CurrentTask& task, int fd, UserCString name) {
  return remove(task, TRY(place_of(task, fd)), name);
}

}  // namespace caisson
