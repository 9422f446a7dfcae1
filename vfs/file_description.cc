#include "vfs/file_description.h"

#include <unistd.h>

#include <atomic>

#include "mm/mappable.h"
#include "mm/user_buffer.h"
#include "vfs/epoll_links.h"
#include "vfs/file_locks.h"
#include "vfs/filesystem.h"

namespace caisson {

FileDescription::FileDescription(Path path, uint32_t flags)
    : path_(std::move(path)),
      flags_(flags & ~static_cast<uint32_t>(O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_CLOEXEC)),
      readable_((flags & O_PATH) == 0 && (flags & O_ACCMODE) != O_WRONLY),
      writable_((flags & O_PATH) == 0 && (flags & O_ACCMODE) != O_RDONLY) {}

FileDescription::~FileDescription() {
  if (counted_as_writer_) inode().remove_writer();
}

void FileDescription::last_reference_gone() const {
  if (in_epoll_.load(std::memory_order_acquire)) EpollLinks::file_is_gone(*this);
  if (FileLocks* locks = inode().locks_or_null()) locks->remove_all_of_file(*this);
}

Result<size_t> FileDescription::read(UserBuffer&, IoFlags) { return Errno(EINVAL); }
Result<size_t> FileDescription::write(UserBuffer&, IoFlags) { return Errno(EINVAL); }
Result<size_t> FileDescription::pread(UserBuffer&, uint64_t, IoFlags) { return Errno(ESPIPE); }
Result<size_t> FileDescription::pwrite(UserBuffer&, uint64_t, IoFlags) { return Errno(ESPIPE); }
Result<uint64_t> FileDescription::lseek(int64_t, int) { return Errno(ESPIPE); }
Result<FileStat> FileDescription::stat() { return inode().stat(); }
Result<void> FileDescription::truncate(uint64_t) { return Errno(EINVAL); }
Result<void> FileDescription::allocate(int, uint64_t, uint64_t) { return Errno(ENODEV); }
Result<void> FileDescription::fsync(bool) { return Errno(EINVAL); }
Result<size_t> FileDescription::getdents(UserBuffer&) { return Errno(ENOTDIR); }
Result<uint64_t> FileDescription::ioctl(CurrentTask&, uint32_t, uint64_t) { return Errno(ENOTTY); }
RefOrNull<Mappable> FileDescription::mappable() { return nullptr; }
Result<uint64_t> FileDescription::bytes_readable() { return Errno(ENOTTY); }

EventMask FileDescription::readiness(EventMask mask) {
  return mask & (kEventIn | kEventOut | 0x40 /* POLLRDNORM */ | 0x100 /* POLLWRNORM */);
}
void FileDescription::add_waiter(WaitEntry&) {}
void FileDescription::remove_waiter(WaitEntry&) {}

Result<void> FileDescription::set_status_flags(uint32_t flags) {
  constexpr uint32_t kSettable = O_APPEND | O_ASYNC | O_DIRECT | O_NOATIME | O_NONBLOCK;
  uint32_t before = flags_.load(std::memory_order_relaxed);
  uint32_t after;
  do {
    after = (before & ~kSettable) | (flags & kSettable);
  } while (!flags_.compare_exchange_weak(before, after, std::memory_order_relaxed));
  return {};
}

Result<void> FileDescription::count_as_writer() {
  if (!writable_ || !inode().is_regular() || counted_as_writer_) return {};
  TRY(inode().add_writer());
  counted_as_writer_ = true;
  return {};
}

namespace {

// The filesystem of pipes, sockets and anonymous files. Linux: pipefs, sockfs, anon_inodefs.
class AnonymousFilesystem final : public Filesystem {
 public:
  const char* name() const override { return "anon_inodefs"; }
  Result<FilesystemStat> stat() override {
    FilesystemStat stat;
    stat.magic = 0x09041934;  // ANON_INODE_FS_MAGIC
    return stat;
  }
};

class AnonymousInode final : public Inode {
 public:
  AnonymousInode(Ref<Filesystem> filesystem, uint64_t ino, uint32_t mode)
      : Inode(std::move(filesystem), ino, mode, 0, 0), born_(file_time_now()) {}
  Result<FileStat> stat() override {
    FileStat stat;
    stat.device = filesystem().device();
    stat.ino = ino();
    stat.mode = mode();
    stat.uid = uid();
    stat.gid = gid();
    stat.accessed = stat.modified = stat.changed = born_;
    return stat;
  }
  Result<void> set_attributes(const AttributeChange& change) override {
    if (change.mode) mode_.store((mode() & S_IFMT) | (*change.mode & 07777));
    if (change.uid) uid_.store(*change.uid);
    if (change.gid) gid_.store(*change.gid);
    return {};
  }

 private:
  const FileTime born_;
};

struct AnonymousTree {
  Ref<Filesystem> filesystem = make_ref<AnonymousFilesystem>();
  Ref<Mount> mount = Mount::create(
      filesystem,
      Dentry::create_root(
          make_ref<AnonymousInode>(filesystem, uint64_t{1}, uint32_t{S_IFDIR | 0500}), "anon:"),
      0, "none");
  std::atomic<uint64_t> next_ino{2};
};
AnonymousTree& anonymous_tree() {
  static auto* const tree = new AnonymousTree();  // never destroyed
  return *tree;
}

}  // namespace

Path make_anonymous_path(std::string name, Ref<Inode> inode) {
  return Path{anonymous_tree().mount, Dentry::create_root(std::move(inode), std::move(name))};
}

Path make_anonymous_path(std::string name, uint32_t mode) {
  AnonymousTree& tree = anonymous_tree();
  uint64_t ino = tree.next_ino.fetch_add(1);
  if (!name.empty() && name.back() == ':') name += "[" + std::to_string(ino) + "]";
  return make_anonymous_path(std::move(name), make_ref<AnonymousInode>(tree.filesystem, ino, mode));
}

Ref<Filesystem> anonymous_filesystem() { return anonymous_tree().filesystem; }

}  // namespace caisson
