#include "vfs/inode.h"

#include "mm/mappable.h"
#include "vfs/directory_file.h"
#include "vfs/file_locks.h"
#include "vfs/filesystem.h"
#include "vfs/path.h"
#include "vfs/regular_file.h"
#include "vfs/special_files.h"

namespace caisson {

Inode::Inode(Ref<Filesystem> filesystem, uint64_t ino, uint32_t mode, uint32_t uid, uint32_t gid)
    : mode_(mode), uid_(uid), gid_(gid), filesystem_(std::move(filesystem)), ino_(ino) {}

Inode::~Inode() { delete locks_.load(std::memory_order_acquire); }

Result<void> Inode::set_attributes(const AttributeChange&) { return Errno(EPERM); }
Result<RefOrNull<Inode>> Inode::lookup(std::string_view) { return Errno(ENOTDIR); }
Result<DirectoryListing> Inode::list() { return Errno(ENOTDIR); }
Result<Ref<Inode>> Inode::create(std::string_view, const NewFile&) { return Errno(EACCES); }
Result<Ref<Inode>> Inode::create_unnamed(const NewFile&) { return Errno(EOPNOTSUPP); }
Result<void> Inode::link(std::string_view, Inode&) { return Errno(EPERM); }
Result<void> Inode::unlink(std::string_view, Inode&) { return Errno(EPERM); }
Result<void> Inode::rmdir(std::string_view, Inode&) { return Errno(EPERM); }
Result<void> Inode::rename(std::string_view, Inode&, Inode&, std::string_view, Inode*, bool) {
  return Errno(EPERM);
}
Result<LinkTarget> Inode::link_target(const Caller&) { return Errno(EINVAL); }
Result<size_t> Inode::read_at(UserBuffer&, uint64_t) { return Errno(EINVAL); }
Result<size_t> Inode::write_at(UserBuffer&, WritePosition&) { return Errno(EINVAL); }
Result<void> Inode::truncate(uint64_t) { return Errno(EINVAL); }
Result<void> Inode::allocate(int, uint64_t, uint64_t) { return Errno(EOPNOTSUPP); }
Result<uint64_t> Inode::seek_data(uint64_t offset, bool hole) {
  uint64_t size = TRY(stat()).size;
  if (offset >= size) return Errno(ENXIO);
  return hole ? size : offset;
}
RefOrNull<Mappable> Inode::mappable() { return nullptr; }

Result<Ref<FileDescription>> Inode::open(const Path& path, uint32_t flags, const Caller& caller) {
  switch (type()) {
    case S_IFREG:
      return Ref<FileDescription>(RegularFile::create(path, flags));
    case S_IFDIR:
      return Ref<FileDescription>(DirectoryFile::create(path, flags));
    case S_IFCHR:
    case S_IFBLK:
    case S_IFIFO:
      return open_special_file(path, flags, caller);
    default:
      return Errno(ENXIO);  // sockets
  }
}

Result<std::string> Inode::get_xattr(std::string_view) { return Errno(EOPNOTSUPP); }
Result<void> Inode::set_xattr(std::string_view, std::string_view, int) { return Errno(EOPNOTSUPP); }
Result<void> Inode::remove_xattr(std::string_view) { return Errno(EOPNOTSUPP); }
Result<std::vector<std::string>> Inode::list_xattrs() { return std::vector<std::string>(); }

FileLocks& Inode::locks() {
  FileLocks* locks = locks_.load(std::memory_order_acquire);
  if (locks != nullptr) return *locks;
  auto* fresh = new FileLocks();
  if (locks_.compare_exchange_strong(locks, fresh, std::memory_order_acq_rel)) return *fresh;
  delete fresh;
  return *locks;
}

Result<void> Inode::add_writer() {
  int32_t count = writers_.load(std::memory_order_relaxed);
  do {
    if (count < 0) return Errno(ETXTBSY);
  } while (!writers_.compare_exchange_weak(count, count + 1, std::memory_order_acq_rel));
  return {};
}
void Inode::remove_writer() { writers_.fetch_sub(1, std::memory_order_acq_rel); }

Result<void> Inode::deny_write() {
  int32_t count = writers_.load(std::memory_order_relaxed);
  do {
    if (count > 0) return Errno(ETXTBSY);
  } while (!writers_.compare_exchange_weak(count, count - 1, std::memory_order_acq_rel));
  return {};
}
void Inode::allow_write() { writers_.fetch_add(1, std::memory_order_acq_rel); }

}  // namespace caisson
