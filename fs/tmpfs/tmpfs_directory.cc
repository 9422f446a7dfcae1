#include "fs/tmpfs/tmpfs_directory.h"

#include <optional>

#include "vfs/flat_release.h"

namespace caisson {

TmpfsDirectory::~TmpfsDirectory() {
  Names names;
  RefOrNull<TmpfsDirectory> above;
  {
    MutexLock lock(mu_);
    names.swap(names_);
    above = std::move(found_in_);
    found_in_ = nullptr;
  }
  for (auto& [name, inode] : names) release_flat(RefOrNull<Inode>(std::move(inode)));
  release_flat(RefOrNull<Inode>(std::move(above)));
}

Result<RefOrNull<Inode>> TmpfsDirectory::lookup(std::string_view name) {
  {
    MutexLock lock(mu_);
    auto it = names_.find(name);
    if (it != names_.end()) return RefOrNull<Inode>(it->second);
  }
  if (!lower_) return RefOrNull<Inode>();
  RefOrNull<Inode> below = TRY(lower_->lookup(name));
  if (!below) return RefOrNull<Inode>();
  Ref<TmpfsInode> inode = TRY(make_over(tmpfs(), Ref<Inode>::from(std::move(below))));
  MutexLock lock(inode->mu_);  // nobody else has it yet
  inode->found_in_ = RefOrNull<TmpfsDirectory>(this);
  inode->found_as_ = std::string(name);
  return RefOrNull<Inode>(inode.get());
}

void TmpfsDirectory::keep(const std::string& name, TmpfsInode& child) {
  MutexLock lock(mu_);
  names_.try_emplace(name, RefOrNull<TmpfsInode>(&child));
}

Result<DirectoryListing> TmpfsDirectory::list() {
  {
    MutexLock lock(mu_);
    if (merged_ != nullptr) return merged_;
  }
  DirectoryListing below;
  if (lower_) below = TRY(lower_->list());
  auto all = std::make_shared<std::vector<DirectoryEntry>>();
  MutexLock lock(mu_);
  all->reserve(names_.size() + (below ? below->size() : 0));
  for (const auto& [name, inode] : names_) {
    if (inode) all->push_back(DirectoryEntry{name, inode->ino(), dirent_type(inode->mode())});
  }
  if (below) {
    for (const DirectoryEntry& entry : *below) {
      if (!names_.contains(entry.name)) all->push_back(entry);
    }
  }
  merged_ = all;
  return merged_;
}

void TmpfsDirectory::insert_locked(std::string_view name, TmpfsInode& inode) {
  names_.insert_or_assign(std::string(name), RefOrNull<TmpfsInode>(&inode));
  merged_ = nullptr;
  modified_now_locked();
}

RefOrNull<TmpfsInode> TmpfsDirectory::erase_locked(std::string_view name) {
  RefOrNull<TmpfsInode> before;
  auto it = names_.find(name);
  if (it != names_.end()) {
    before = std::move(it->second);
    names_.erase(it);
  }
  // Without asking whether the lower directory has the name: a needless whiteout does no harm.
  if (lower_) names_.insert_or_assign(std::string(name), nullptr);
  merged_ = nullptr;
  modified_now_locked();
  return before;
}

Result<Ref<Inode>> TmpfsDirectory::create(std::string_view name, const NewFile& file) {
  Ref<TmpfsInode> inode = TRY(make(tmpfs(), file));
  inode->host_mount_flags_ = host_mount_flags();
  pin();
  MutexLock lock(mu_);
  insert_locked(name, *inode);
  if (inode->is_directory()) add_links_locked(1);
  return Ref<Inode>(inode);
}

Result<Ref<Inode>> TmpfsDirectory::create_unnamed(const NewFile& file) {
  Ref<Inode> inode = TRY(tmpfs().make_unnamed(file));
  static_cast<TmpfsInode&>(*inode).host_mount_flags_ = host_mount_flags();
  return inode;
}

Result<void> TmpfsDirectory::link(std::string_view name, Inode& file) {
  if (&file.filesystem() != &filesystem()) return Errno(EXDEV);
  auto& inode = static_cast<TmpfsInode&>(file);
  inode.pin();
  pin();
  MutexLock lock(mu_);
  MutexLockSameRank file_lock(inode.mu_);
  inode.add_links_locked(1);
  insert_locked(name, inode);
  return {};
}

Result<void> TmpfsDirectory::unlink(std::string_view name, Inode& file) {
  auto& inode = static_cast<TmpfsInode&>(file);
  RefOrNull<TmpfsInode> before;  // dropped after the locks
  RefOrNull<TmpfsDirectory> found_in;
  pin();
  MutexLock lock(mu_);
  before = erase_locked(name);
  MutexLockSameRank file_lock(inode.mu_);
  found_in = std::move(inode.found_in_);  // nothing is left to keep it for
  inode.found_in_ = nullptr;
  inode.add_links_locked(-1);
  return {};
}

Result<bool> TmpfsDirectory::is_empty() {
  DirectoryListing below;
  if (lower_) below = TRY(lower_->list());
  MutexLock lock(mu_);
  for (const auto& [name, inode] : names_) {
    if (inode) return false;
  }
  if (below) {
    for (const DirectoryEntry& entry : *below) {
      if (!names_.contains(entry.name)) return false;
    }
  }
  return true;
}

Result<void> TmpfsDirectory::rmdir(std::string_view name, Inode& directory) {
  auto& inode = static_cast<TmpfsDirectory&>(directory);
  if (!TRY(inode.is_empty())) return Errno(ENOTEMPTY);
  RefOrNull<TmpfsInode> before;
  RefOrNull<TmpfsDirectory> found_in;
  pin();
  MutexLock lock(mu_);
  before = erase_locked(name);
  add_links_locked(-1);
  MutexLockSameRank child_lock(inode.mu_);
  found_in = std::move(inode.found_in_);
  inode.found_in_ = nullptr;
  inode.link_count_ = 0;
  inode.changed_now_locked();
  return {};
}

Result<void> TmpfsDirectory::rename(std::string_view old_name, Inode& file, Inode& new_directory,
                                    std::string_view new_name, Inode* replaced,
                                    bool exchange) NO_THREAD_SAFETY_ANALYSIS {
  using Lock = MutexLockSameRank<Mutex<LockRank::kInode>>;
  if (&new_directory.filesystem() != &filesystem()) return Errno(EXDEV);
  auto& moved = static_cast<TmpfsInode&>(file);
  auto& target = static_cast<TmpfsDirectory&>(new_directory);
  auto* victim = static_cast<TmpfsInode*>(replaced);
  if (victim != nullptr && !exchange && victim->is_directory() &&
      !TRY(static_cast<TmpfsDirectory*>(victim)->is_empty()))
    return Errno(ENOTEMPTY);
  moved.pin();
  if (victim != nullptr) victim->pin();
  pin();
  target.pin();
  RefOrNull<TmpfsInode> before_old, before_new;  // dropped after the locks
  // The dentry layer has both directories locked and only one rename at a time moves between two:
  // any order of these two locks does.
  Lock lock(mu_);
  std::optional<Lock> second;
  if (&target != this) second.emplace(target.mu_);
  before_old = erase_locked(old_name);
  before_new = target.erase_locked(new_name);
  target.insert_locked(new_name, moved);
  if (exchange) insert_locked(old_name, *victim);
  if (moved.is_directory() && &target != this) {
    add_links_locked(-1);
    target.add_links_locked(1);
  }
  {
    Lock moved_lock(moved.mu_);
    moved.changed_now_locked();
  }
  if (victim == nullptr) return {};
  if (victim->is_directory()) {
    if (!exchange || &target != this) target.add_links_locked(-1);
    if (exchange && &target != this) add_links_locked(1);
  }
  Lock victim_lock(victim->mu_);
  if (exchange) {
    victim->changed_now_locked();
  } else if (victim->is_directory()) {
    victim->link_count_ = 0;
    victim->changed_now_locked();
  } else {
    victim->add_links_locked(-1);
  }
  return {};
}

}  // namespace caisson
