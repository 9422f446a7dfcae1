#include "fs/tmpfs/tmpfs.h"

#include <linux/magic.h>
#include <sys/xattr.h>

#include <algorithm>

#include "fs/tmpfs/tmpfs_directory.h"
#include "fs/tmpfs/tmpfs_file.h"
#include "vfs/path.h"

namespace caisson {
namespace {

constexpr size_t kMaxXattrBytes = 65536;  // of one inode: XATTR_SIZE_MAX

}  // namespace

Ref<Tmpfs> Tmpfs::create(MemoryFile& memory, TmpfsOptions options) {
  return adopt_ref(new Tmpfs(memory, options));
}

Result<FilesystemStat> Tmpfs::stat() {
  FilesystemStat stat;
  stat.magic = TMPFS_MAGIC;
  uint64_t limit = std::min(options_.max_bytes, memory_.size());
  uint64_t used = bytes_.load(std::memory_order_relaxed);
  stat.blocks = limit / kPageSize;
  stat.blocks_free = (limit - std::min(limit, used)) / kPageSize;
  stat.files = options_.max_inodes;
  stat.files_free = options_.max_inodes - std::min(options_.max_inodes, inodes_.load());
  return stat;
}

Result<Ref<Inode>> Tmpfs::make_root(RefOrNull<Inode> lower) {
  if (lower) {
    next_ino_.store(uint64_t{1} << 40);
    Ref<TmpfsInode> root = TRY(TmpfsInode::make_over(*this, Ref<Inode>::from(lower)));
    return Ref<Inode>(root);
  }
  NewFile file;
  file.mode = S_IFDIR | options_.root_mode;
  file.uid = options_.root_uid;
  file.gid = options_.root_gid;
  Ref<TmpfsInode> root = TRY(TmpfsInode::make(*this, file));
  return Ref<Inode>(root);
}

Result<Ref<Inode>> Tmpfs::make_unnamed(const NewFile& file) {
  Ref<TmpfsInode> inode = TRY(TmpfsInode::make(*this, file));
  MutexLock lock(inode->mu_);
  inode->link_count_ = 0;
  return Ref<Inode>(inode);
}

Result<Ref<Mount>> Tmpfs::mount(MemoryFile& memory, TmpfsOptions options, uint64_t mount_flags,
                                std::string source, RefOrNull<Inode> lower) {
  Ref<Tmpfs> tmpfs = create(memory, options);
  Ref<Inode> root = TRY(tmpfs->make_root(std::move(lower)));
  return Mount::create(tmpfs, Dentry::create_root(std::move(root)), mount_flags, std::move(source));
}

Result<void> Tmpfs::charge(uint64_t bytes) {
  uint64_t used = bytes_.fetch_add(bytes, std::memory_order_relaxed) + bytes;
  if (used <= options_.max_bytes) return {};
  uncharge(bytes);
  return Errno(ENOSPC);
}
void Tmpfs::uncharge(uint64_t bytes) { bytes_.fetch_sub(bytes, std::memory_order_relaxed); }

Result<void> Tmpfs::charge_inode() {
  if (inodes_.fetch_add(1, std::memory_order_relaxed) < options_.max_inodes) return {};
  uncharge_inode();
  return Errno(ENOSPC);
}
void Tmpfs::uncharge_inode() { inodes_.fetch_sub(1, std::memory_order_relaxed); }

uint64_t Tmpfs::ino_of_lower(const FileStat& lower) {
  MutexLock lock(devices_mu_);
  auto it = std::find(lower_devices_.begin(), lower_devices_.end(), lower.device);
  uint64_t index = static_cast<uint64_t>(it - lower_devices_.begin());
  if (it == lower_devices_.end()) lower_devices_.push_back(lower.device);
  return lower.ino ^ (index << 48);
}

TmpfsInode::TmpfsInode(Ref<Tmpfs> tmpfs, uint64_t ino, const NewFile& file)
    : Inode(tmpfs, ino, file.mode, file.uid, file.gid),
      special_device_(file.special_device),
      link_target_(file.link_target) {
  accessed_ = modified_ = changed_ = born_ = file_time_now();
  size_of_rest_ = file.link_target.size();
  if ((file.mode & S_IFMT) == S_IFDIR) link_count_ = 2;
  charged_ = true;
}

TmpfsInode::TmpfsInode(Ref<Tmpfs> tmpfs, uint64_t ino, const FileStat& attributes, Ref<Inode> lower)
    : Inode(tmpfs, ino, attributes.mode, attributes.uid, attributes.gid),
      lower_(std::move(lower).or_null()),
      accessed_(attributes.accessed),
      modified_(attributes.modified),
      changed_(attributes.changed),
      born_(attributes.born.value_or(attributes.changed)),
      link_count_(attributes.link_count),
      size_of_rest_(attributes.size),
      blocks_of_rest_(attributes.blocks),
      special_device_(attributes.special_device) {
  host_mount_flags_ = lower_->host_mount_flags();
}

TmpfsInode::~TmpfsInode() {
  if (charged_) tmpfs().uncharge_inode();
}

Result<Ref<TmpfsInode>> TmpfsInode::make(Tmpfs& tmpfs, const NewFile& file) {
  TRY(tmpfs.charge_inode());
  Ref<Tmpfs> owner(tmpfs);
  uint64_t ino = tmpfs.next_ino();
  switch (file.mode & S_IFMT) {
    case S_IFREG:
      return Ref<TmpfsInode>(adopt_ref(new TmpfsFile(std::move(owner), ino, file)));
    case S_IFDIR:
      return Ref<TmpfsInode>(adopt_ref(new TmpfsDirectory(std::move(owner), ino, file)));
    default:
      return adopt_ref(new TmpfsInode(std::move(owner), ino, file));
  }
}

Result<Ref<TmpfsInode>> TmpfsInode::make_over(Tmpfs& tmpfs, Ref<Inode> lower) {
  FileStat attributes = TRY(lower->stat());
  uint64_t ino = tmpfs.ino_of_lower(attributes);
  Ref<Tmpfs> owner(tmpfs);
  switch (attributes.mode & S_IFMT) {
    case S_IFREG:
      return Ref<TmpfsInode>(
          adopt_ref(new TmpfsFile(std::move(owner), ino, attributes, std::move(lower))));
    case S_IFDIR:
      return Ref<TmpfsInode>(
          adopt_ref(new TmpfsDirectory(std::move(owner), ino, attributes, std::move(lower))));
    default:
      return adopt_ref(new TmpfsInode(std::move(owner), ino, attributes, std::move(lower)));
  }
}

void TmpfsInode::pin() {
  // From here up until a directory that stays already. Iterative: guests choose the depth.
  RefOrNull<TmpfsInode> inode(this);
  while (inode) {
    RefOrNull<TmpfsDirectory> directory;
    std::string name;
    {
      MutexLock lock(inode->mu_);
      directory = std::move(inode->found_in_);
      inode->found_in_ = nullptr;
      name = inode->found_as_;
    }
    if (!directory) return;
    directory->keep(name, *inode);
    inode = directory;
  }
}

void TmpfsInode::add_links_locked(int count) {
  link_count_ += static_cast<uint32_t>(count);
  changed_now_locked();
}

Result<FileStat> TmpfsInode::stat() {
  FileStat stat;
  stat.device = filesystem().device();
  stat.ino = ino();
  stat.mode = mode();
  stat.uid = uid();
  stat.gid = gid();
  stat.special_device = special_device_;
  MutexLock lock(mu_);
  stat.link_count = link_count_;
  stat.size = size_locked();
  stat.blocks = blocks_locked();
  stat.accessed = accessed_;
  stat.modified = modified_;
  stat.changed = changed_;
  stat.born = born_;
  return stat;
}

Result<void> TmpfsInode::set_attributes(const AttributeChange& change) {
  pin();
  MutexLock lock(mu_);
  if (change.mode) mode_.store((mode() & S_IFMT) | (*change.mode & 07777));
  if (change.uid) uid_.store(*change.uid);
  if (change.gid) gid_.store(*change.gid);
  if (change.accessed) accessed_ = *change.accessed;
  if (change.modified) modified_ = *change.modified;
  changed_now_locked();
  return {};
}

Result<LinkTarget> TmpfsInode::link_target(const Caller& caller) {
  if (!is_symlink()) return Errno(EINVAL);
  if (lower_) return lower_->link_target(caller);
  return LinkTarget(link_target_);
}

Result<std::string> TmpfsInode::get_xattr(std::string_view name) {
  MutexLock lock(mu_);
  if (!xattrs_) return Errno(ENODATA);
  auto it = xattrs_->find(name);
  if (it == xattrs_->end()) return Errno(ENODATA);
  return it->second;
}

Result<void> TmpfsInode::set_xattr(std::string_view name, std::string_view value, int flags) {
  pin();
  MutexLock lock(mu_);
  if (!xattrs_) xattrs_ = std::make_unique<std::map<std::string, std::string, std::less<>>>();
  auto it = xattrs_->find(name);
  if ((flags & XATTR_CREATE) != 0 && it != xattrs_->end()) return Errno(EEXIST);
  if ((flags & XATTR_REPLACE) != 0 && it == xattrs_->end()) return Errno(ENODATA);
  size_t total = name.size() + value.size();
  for (const auto& [other, content] : *xattrs_) {
    if (other != name) total += other.size() + content.size();
  }
  if (total > kMaxXattrBytes) return Errno(ENOSPC);
  xattrs_->insert_or_assign(std::string(name), std::string(value));
  changed_now_locked();
  return {};
}

Result<void> TmpfsInode::remove_xattr(std::string_view name) {
  MutexLock lock(mu_);
  if (!xattrs_) return Errno(ENODATA);
  auto it = xattrs_->find(name);
  if (it == xattrs_->end()) return Errno(ENODATA);
  xattrs_->erase(it);
  changed_now_locked();
  return {};
}

Result<std::vector<std::string>> TmpfsInode::list_xattrs() {
  std::vector<std::string> names;
  MutexLock lock(mu_);
  if (xattrs_) {
    for (const auto& [name, value] : *xattrs_) names.push_back(name);
  }
  return names;
}

}  // namespace caisson
