#include "kernel/executable.h"

#include <fcntl.h>
#include <linux/mount.h>

#include "mm/user_buffer.h"
#include "vfs/inode.h"
#include "vfs/mount.h"
#include "vfs/path_walk.h"
#include "vfs/permissions.h"

namespace caisson {

Result<Ref<OpenedExecutable>> OpenedExecutable::open(const Caller& caller, const Path& place) {
  Inode& inode = place.inode();
  if (inode.is_symlink()) return Errno(ELOOP);
  if (!inode.is_regular()) return Errno(EACCES);
  if ((place.mount_flags() & MS_NOEXEC) != 0) return Errno(EACCES);
  TRY(check_access(caller.credentials, place, kMayExecute));
  TRY(inode.deny_write());
  Result<Ref<FileDescription>> file = inode.open(place, O_RDONLY, caller);
  if (!file.ok()) {
    inode.allow_write();
    return file.error();
  }
  Result<FileStat> stat = file.value()->stat();
  uint64_t size = stat.ok() ? stat->size : 0;
  auto result = adopt_ref(new OpenedExecutable(file.value(), size));
  if (!stat.ok()) return stat.error();
  return result;
}

OpenedExecutable::~OpenedExecutable() { file_->inode().allow_write(); }

Result<size_t> OpenedExecutable::pread(uint64_t offset, std::span<std::byte> out) {
  UserBuffer buffer = UserBuffer::of_kernel(out);
  size_t done = 0;
  while (done < out.size()) {
    size_t got = TRY(file_->pread(buffer, offset + done, IoFlags{}));
    if (got == 0) break;
    done += got;
  }
  return done;
}

Result<Ref<Mappable>> OpenedExecutable::mappable() {
  RefOrNull<Mappable> mappable = file_->mappable();
  if (!mappable) return Errno(ENODEV);
  return Ref<Mappable>::from(std::move(mappable));
}

ExecPrivileges OpenedExecutable::privileges(bool no_new_privileges) const {
  ExecPrivileges result;
  const Path& path = file_->path();
  Inode& inode = path.inode();
  if (no_new_privileges || (path.mount_flags() & MS_NOSUID) != 0) return result;
  uint32_t mode = inode.mode();
  result.file_uid = inode.uid();
  result.file_gid = inode.gid();
  result.setuid = (mode & S_ISUID) != 0;
  // Without group execute permission the bit means mandatory locking.
  result.setgid = (mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP);
  return result;
}

bool OpenedExecutable::is_readable_by(const Credentials& credentials) const {
  return check_permission(credentials, file_->inode(), kMayRead).ok();
}

Result<Ref<ExecutableFile>> CallerProgramOpener::open_program(std::string_view path) {
  Path place = TRY(resolve_path(caller_, caller_.working_directory, path));
  Ref<OpenedExecutable> file = TRY(OpenedExecutable::open(caller_, place));
  return Ref<ExecutableFile>(file);
}

}  // namespace caisson
