#include "fs/hostfs/host_inode.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "host/raw_syscall.h"
#include "mm/host_file_mappable.h"
#include "mm/user_buffer.h"
#include "vfs/directory_file.h"
#include "vfs/path.h"
#include "vfs/regular_file.h"

namespace caisson {
namespace {

using host::raw_arg;
using host::raw_syscall;

constexpr unsigned kStatxMountId = 0x1000;

// MS_NOEXEC and MS_NOSUID of the mount that holds `name`, where a mount begins.
Result<uint32_t> mount_flags_at(int directory_fd, const char* name) {
  UniqueFd place;
  if (*name != '\0') {
    abi::OpenHow how{};
    how.flags = O_PATH | O_CLOEXEC | O_NOFOLLOW;
    how.resolve = abi::kResolveBeneath | abi::kResolveNoMagicLinks;
    long fd = TRY(
        raw_syscall(SYS_openat2, directory_fd, raw_arg(name), raw_arg(&how), sizeof how).result());
    place.reset(static_cast<int>(fd));
    directory_fd = place.get();
  }
  struct statfs host;
  TRY(raw_syscall(SYS_fstatfs, directory_fd, raw_arg(&host)).result());
  // ST_NOEXEC and ST_NOSUID have the same bits.
  return static_cast<uint32_t>(host.f_flags) & (MS_NOEXEC | MS_NOSUID);
}

FileTime to_time(const statx_timestamp& time) { return FileTime{time.tv_sec, time.tv_nsec}; }

}  // namespace

Result<FileStat> host_stat(int fd, const char* name, const HostFilesystemOptions& options,
                           uint64_t* mount_id) {
  abi::Statx host{};
  TRY(raw_syscall(SYS_statx, fd, raw_arg(name),
                  AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | AT_NO_AUTOMOUNT,
                  STATX_BASIC_STATS | STATX_BTIME | kStatxMountId, raw_arg(&host))
          .result());
  constexpr uint32_t kOverflowId = 65534;
  FileStat stat;
  stat.device = make_device(host.stx_dev_major, host.stx_dev_minor);
  stat.ino = host.stx_ino;
  stat.mode = host.stx_mode;
  stat.link_count = host.stx_nlink;
  stat.uid = host.stx_uid == kOverflowId ? options.overflow_uid : host.stx_uid;
  stat.gid = host.stx_gid == kOverflowId ? options.overflow_gid : host.stx_gid;
  stat.special_device = make_device(host.stx_rdev_major, host.stx_rdev_minor);
  stat.size = host.stx_size;
  stat.block_size = host.stx_blksize;
  stat.blocks = host.stx_blocks;
  stat.accessed = to_time(host.stx_atime);
  stat.modified = to_time(host.stx_mtime);
  stat.changed = to_time(host.stx_ctime);
  if (mount_id != nullptr) *mount_id = host.stx_mnt_id;
  if ((host.stx_mask & STATX_BTIME) != 0) stat.born = to_time(host.stx_btime);
  return stat;
}

HostInode::HostInode(Ref<HostFilesystem> filesystem, const FileStat& attributes, std::string path,
                     uint64_t mount_id, uint32_t mount_flags)
    : Inode(std::move(filesystem), attributes.ino, attributes.mode, attributes.uid, attributes.gid),
      attributes_(attributes),
      path_(std::move(path)),
      mount_id_(mount_id) {
  host_mount_flags_ = mount_flags;
}

HostInode::~HostInode() { host().forget(this); }

Result<Ref<Inode>> HostInode::make(HostFilesystem& filesystem, const HostInode* directory,
                                   int directory_fd, const char* name, std::string path) {
  uint64_t mount_id = 0;
  FileStat attributes = TRY(host_stat(directory_fd, name, filesystem.options(), &mount_id));
  uint32_t flags = directory != nullptr ? directory->host_mount_flags() : 0;
  if (directory == nullptr || directory->mount_id_ != mount_id)
    flags = mount_flags_at(directory_fd, name).value_or(MS_NOEXEC | MS_NOSUID);
  return Ref<Inode>(adopt_ref(new HostInode(Ref<HostFilesystem>(filesystem), attributes,
                                            std::move(path), mount_id, flags)));
}

Result<HostFilesystem::SharedFd> HostInode::fd() {
  if (!is_directory() && !is_regular()) return Errno(ENXIO);
  HostFilesystem::SharedFd fd = TRY(host().open_shared(this, path_, is_directory(), &attributes_));
  return fd;
}

Result<RefOrNull<Inode>> HostInode::lookup(std::string_view name) {
  if (!is_directory()) return Errno(ENOTDIR);
  if (name.find('/') != std::string_view::npos || name == "." || name == ".." || name.empty())
    return Errno(ENOENT);  // never from the path walk; one guard more
  std::shared_ptr<const Names> names;
  bool want_names;
  {
    MutexLock lock(mu_);
    names = names_;
    want_names = names == nullptr && ++lookups_ > kLookupsBeforeList;
  }
  if (want_names) {
    Result<std::shared_ptr<const Names>> read = this->names();
    if (read.ok()) names = read.value();  // an unreadable directory may still be searched
  }
  if (names != nullptr && !names->index.contains(name)) return RefOrNull<Inode>();

  HostFilesystem::SharedFd directory;
  Result<HostFilesystem::SharedFd> opened = fd();
  std::string text(name);
  std::string path = path_.empty() ? text : path_ + "/" + text;
  if (!opened.ok()) return opened.error();
  directory = opened.value();
  Result<Ref<Inode>> found = make(host(), this, directory->get(), text.c_str(), std::move(path));
  if (found.ok()) return found.value().or_null();
  if (found.error() == Errno(ENOENT)) return RefOrNull<Inode>();
  return found.error();
}

Result<std::shared_ptr<const HostInode::Names>> HostInode::names() {
  {
    MutexLock lock(mu_);
    if (names_ != nullptr) return names_;
  }
  if (!is_directory()) return Errno(ENOTDIR);
  // A descriptor of its own: two readers of a shared one would take each other's entries.
  abi::OpenHow how{};
  how.flags = O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_DIRECTORY;
  how.resolve = abi::kResolveBeneath | abi::kResolveNoMagicLinks | abi::kResolveNoSymlinks;
  long opened =
      TRY(raw_syscall(SYS_openat2, host().root_fd(), raw_arg(path_.empty() ? "." : path_.c_str()),
                      raw_arg(&how), sizeof how)
              .result());
  UniqueFd directory(static_cast<int>(opened));
  auto entries = std::make_shared<std::vector<DirectoryEntry>>();
  std::vector<std::byte> buffer(64 * 1024);
  for (;;) {
    long got = TRY(raw_syscall(SYS_getdents64, directory.get(), raw_arg(buffer.data()),
                               static_cast<long>(buffer.size()))
                       .result());
    if (got == 0) break;
    for (size_t at = 0; at + sizeof(abi::DirentHeader) < static_cast<size_t>(got);) {
      abi::DirentHeader header;
      std::memcpy(&header, &buffer[at], sizeof header);
      const char* name = reinterpret_cast<const char*>(&buffer[at + sizeof header]);
      std::string_view text(name);
      if (text != "." && text != "..")
        entries->push_back(DirectoryEntry{std::string(text), header.ino, header.type});
      at += header.record_length;
    }
  }
  auto names = std::make_shared<Names>();
  names->index.reserve(entries->size());
  for (size_t i = 0; i < entries->size(); ++i) names->index.emplace((*entries)[i].name, i);
  names->listing = std::move(entries);
  MutexLock lock(mu_);
  if (names_ == nullptr) names_ = std::move(names);
  return names_;
}

Result<DirectoryListing> HostInode::list() { return TRY(names())->listing; }

Result<LinkTarget> HostInode::link_target(const Caller&) {
  if (!is_symlink()) return Errno(EINVAL);
  {
    MutexLock lock(mu_);
    if (target_ != nullptr) return LinkTarget(*target_);
  }
  // Read by its name in its directory, which cannot be a link itself (RESOLVE_NO_SYMLINKS).
  size_t slash = path_.rfind('/');
  std::string directory_path = slash == std::string::npos ? "" : path_.substr(0, slash);
  std::string name = slash == std::string::npos ? path_ : path_.substr(slash + 1);
  HostFilesystem::SharedFd directory = TRY(host().open_shared(this, directory_path, true, nullptr));
  char buffer[4096];
  Result<long> length = raw_syscall(SYS_readlinkat, directory->get(), raw_arg(name.c_str()),
                                    raw_arg(buffer), sizeof buffer)
                            .result();
  host().forget(this);  // the descriptor was the directory's
  auto target = std::make_shared<const std::string>(buffer, static_cast<size_t>(TRY(length)));
  MutexLock lock(mu_);
  if (target_ == nullptr) target_ = target;
  return LinkTarget(*target_);
}

Result<size_t> HostInode::read_at(UserBuffer& to, uint64_t offset) {
  if (!is_regular()) return Errno(is_directory() ? EISDIR : EINVAL);
  if (offset > INT64_MAX) return Errno(EINVAL);
  HostFilesystem::SharedFd file = TRY(fd());
  // Through a buffer of this worker's, so that no host call writes into guest memory.
  constexpr size_t kPiece = 64 * 1024;
  static thread_local std::unique_ptr<std::byte[]> piece;
  if (piece == nullptr) piece.reset(new std::byte[kPiece]);
  if (offset < attributes_.size) to.expect_write(attributes_.size - offset);
  size_t done = 0;
  while (to.remaining() != 0) {
    size_t wanted = std::min<uint64_t>(kPiece, to.remaining());
    Result<long> got = raw_syscall(SYS_pread64, file->get(), raw_arg(piece.get()),
                                   static_cast<long>(wanted), static_cast<long>(offset + done))
                           .result();
    if (!got.ok()) {
      if (done != 0) break;
      return got.error();
    }
    size_t length = static_cast<size_t>(got.value());
    if (length == 0) break;
    Result<size_t> moved = to.write(piece.get(), length);
    if (!moved.ok()) {
      if (done != 0) break;
      return moved.error();
    }
    done += moved.value();
    if (moved.value() != length || length < wanted) break;
  }
  return done;
}

Result<uint64_t> HostInode::seek_data(uint64_t offset, bool hole) {
  if (!is_regular()) return Errno(EINVAL);
  HostFilesystem::SharedFd file = TRY(fd());
  return static_cast<uint64_t>(TRY(
      raw_syscall(SYS_lseek, file->get(), static_cast<long>(offset), hole ? SEEK_HOLE : SEEK_DATA)
          .result()));
}

RefOrNull<Mappable> HostInode::mappable() {
  if (!is_regular() || host().platform() == nullptr) return nullptr;
  {
    MutexLock lock(mu_);
    if (mappable_) return mappable_;
  }
  Result<HostFilesystem::SharedFd> file = fd();
  if (!file.ok()) return nullptr;
  host::RawResult copy = raw_syscall(SYS_fcntl, file.value()->get(), F_DUPFD_CLOEXEC, 0);
  if (!copy.ok()) return nullptr;
  MappedFileInfo info;
  info.device_major = device_major(attributes_.device);
  info.device_minor = device_minor(attributes_.device);
  info.inode = attributes_.ino;
  info.path = "/" + path_;
  Ref<HostFileMappable> fresh = make_ref<HostFileMappable>(
      *host().platform(), UniqueFd(static_cast<int>(copy.value())), std::move(info));
  MutexLock lock(mu_);
  if (!mappable_) mappable_ = fresh.or_null();
  return mappable_;
}

Result<Ref<FileDescription>> HostInode::open(const Path& path, uint32_t flags, const Caller&) {
  if ((flags & O_ACCMODE) != O_RDONLY) return Errno(EROFS);
  if (is_directory()) return Ref<FileDescription>(DirectoryFile::create(path, flags));
  if (!is_regular()) return Errno(ENXIO);  // nothing special on the host is ever opened
  HostFilesystem::SharedFd file = TRY(fd());
  (void)file;
  return Ref<FileDescription>(RegularFile::create(path, flags));
}

}  // namespace caisson
