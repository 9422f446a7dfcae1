#include "vfs/dentry.h"

#include <utility>
#include <vector>

#include "vfs/dentry_cache.h"
#include "vfs/filesystem.h"
#include "vfs/flat_release.h"

namespace caisson {

Dentry::Dentry(RefOrNull<Dentry> parent, std::string name, RefOrNull<Inode> inode)
    : parent_(std::move(parent)), name_(std::move(name)), is_root_(!parent_) {
  if (inode) set_inode(*inode);
}

Ref<Dentry> Dentry::create_root(Ref<Inode> inode, std::string name) {
  return adopt_ref(new Dentry(nullptr, std::move(name), std::move(inode).or_null()));
}

Dentry::~Dentry() {
  Inode* inode = inode_.load(std::memory_order_acquire);
  if (inode != nullptr) inode->unref();
  RefOrNull<Dentry> parent;
  {
    MutexLock lock(name_mu_);
    parent = std::move(parent_);
  }
  release_flat(std::move(parent));
}

RefOrNull<Inode> Dentry::inode_or_null() const {
  return RefOrNull<Inode>(inode_.load(std::memory_order_acquire));
}

Inode& Dentry::inode() const {
  Inode* inode = inode_.load(std::memory_order_acquire);
  CHECK(inode != nullptr);
  return *inode;
}

void Dentry::set_inode(Inode& inode) {
  inode.ref();
  Inode* before = inode_.exchange(&inode, std::memory_order_release);
  CHECK(before == nullptr);
}

std::string Dentry::name() const {
  MutexLock lock(name_mu_);
  return name_;
}

Ref<Dentry> Dentry::parent() const {
  MutexLock lock(name_mu_);
  if (parent_) return Ref<Dentry>::from(parent_);
  return Ref<Dentry>(const_cast<Dentry&>(*this));
}

bool Dentry::is_ancestor_of(const Dentry& other) const {
  Ref<Dentry> walk = other.parent();
  for (;;) {
    if (walk.get() == this) return true;
    if (walk->is_root()) return false;
    walk = walk->parent();
  }
}

RefOrNull<Dentry> Dentry::find_cached_locked(std::string_view name) {
  auto it = children_.find(name);
  if (it == children_.end()) return nullptr;
  if (!it->second->used_.load(std::memory_order_relaxed))
    it->second->used_.store(true, std::memory_order_relaxed);
  return it->second.or_null();
}

Result<void> Dentry::check_current_locked(const Dentry& child) const {
  // Where names come and go by themselves, callers can't change them.
  if (!inode().filesystem().caches_dentries()) return Errno(child.is_negative() ? ENOENT : EPERM);
  auto it = children_.find(child.name());
  if (it == children_.end() || it->second.get() != &child) return Errno(kLookUpAgain);
  return {};
}

Ref<Dentry> Dentry::detach_locked(Dentry& child) {
  auto it = children_.find(child.name());
  CHECK(it != children_.end() && it->second.get() == &child);
  Ref<Dentry> kept = std::move(it->second);
  children_.erase(it);
  DentryCache::instance().remove(child);
  return kept;
}

Result<Ref<Dentry>> Dentry::lookup(std::string_view name) {
  if (name.size() > abi::kNameMax) return Errno(ENAMETOOLONG);
  for (;;) {
    uint64_t generation;
    {
      MutexLock lock(mu_);
      RefOrNull<Dentry> cached = find_cached_locked(name);
      if (cached) return Ref<Dentry>::from(std::move(cached));
      generation = generation_;
    }
    RefOrNull<Inode> found = TRY(inode().lookup(name));
    Ref<Dentry> child =
        adopt_ref(new Dentry(RefOrNull<Dentry>(this), std::string(name), std::move(found)));
    if (!inode().filesystem().caches_dentries()) return child;
    {
      MutexLock lock(mu_);
      RefOrNull<Dentry> cached = find_cached_locked(name);
      if (cached) return Ref<Dentry>::from(std::move(cached));
      if (generation != generation_) continue;  // a change overtook the look-up
      if (is_removed()) return child;           // nothing is kept in a removed directory
      children_.emplace(std::string(name), child);
      DentryCache::instance().add(*child);
    }
    DentryCache::instance().shrink();
    return child;
  }
}

Result<Ref<Inode>> Dentry::create(Dentry& child, const NewFile& file) {
  MutexLock lock(mu_);
  if (is_removed()) return Errno(ENOENT);
  TRY(check_current_locked(child));
  if (!child.is_negative()) return Errno(EEXIST);
  Ref<Inode> inode = TRY(this->inode().create(child.name(), file));
  child.set_inode(*inode);
  ++generation_;
  return inode;
}

Result<void> Dentry::link(Dentry& child, Inode& file) {
  MutexLock lock(mu_);
  if (is_removed()) return Errno(ENOENT);
  TRY(check_current_locked(child));
  if (!child.is_negative()) return Errno(EEXIST);
  TRY(inode().link(child.name(), file));
  child.set_inode(file);
  ++generation_;
  return {};
}

Result<void> Dentry::unlink(Dentry& child) {
  RefOrNull<Dentry> kept;  // dropped after the lock
  MutexLock lock(mu_);
  TRY(check_current_locked(child));
  if (child.is_negative()) return Errno(ENOENT);
  if (child.inode().is_directory()) return Errno(EISDIR);
  if (child.mount_count.load() != 0) return Errno(EBUSY);
  TRY(inode().unlink(child.name(), child.inode()));
  child.removed_.store(true, std::memory_order_release);
  kept = detach_locked(child).or_null();
  ++generation_;
  return {};
}

Result<void> Dentry::rmdir(Dentry& child) NO_THREAD_SAFETY_ANALYSIS {
  RefOrNull<Dentry> kept;
  Children negatives;
  MutexLock lock(mu_);
  TRY(check_current_locked(child));
  if (child.is_negative()) return Errno(ENOENT);
  if (!child.inode().is_directory()) return Errno(ENOTDIR);
  if (child.mount_count.load() != 0) return Errno(EBUSY);
  MutexLockSameRank child_lock(child.mu_);  // parent before child; nothing is made in it meanwhile
  TRY(inode().rmdir(child.name(), child.inode()));
  child.removed_.store(true, std::memory_order_release);
  for (auto& [name, negative] : child.children_) DentryCache::instance().remove(*negative);
  negatives.swap(child.children_);
  kept = detach_locked(child).or_null();
  ++generation_;
  return {};
}

void Dentry::forget_children() {
  std::vector<Ref<Dentry>> all{Ref<Dentry>(*this)};
  for (size_t i = 0; i < all.size(); ++i) {
    Dentry& directory = *all[i];
    MutexLock lock(directory.mu_);
    for (auto& [name, child] : directory.children_) {
      DentryCache::instance().remove(*child);
      all.push_back(child);
    }
    directory.children_.clear();
    ++directory.generation_;
  }
  while (!all.empty()) all.pop_back();  // deepest first
}

}  // namespace caisson
