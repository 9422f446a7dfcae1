#include "vfs/dentry_cache.h"

namespace caisson {

DentryCache& DentryCache::instance() {
  static DentryCache* const cache = new DentryCache();  // never destroyed: dentries outlive statics
  return *cache;
}

void DentryCache::add(Dentry& child) {
  MutexLock lock(mu_);
  list_.push_back(child);
  ++count_;
}

void DentryCache::remove(Dentry& child) {
  MutexLock lock(mu_);
  if (!static_cast<ListNode<DentryCacheTag>&>(child).linked()) return;
  list_.remove(child);
  --count_;
}

size_t DentryCache::count() const {
  MutexLock lock(mu_);
  return count_;
}

void DentryCache::set_limit(size_t limit) {
  MutexLock lock(mu_);
  limit_ = limit;
}

void DentryCache::shrink() {
  // A few more than what one look-up adds, so that the number comes down while it is above the
  // limit, and never a long pause.
  for (int i = 0; i < 4; ++i) {
    if (!evict_one()) return;
  }
}

bool DentryCache::evict_one() {
  RefOrNull<Dentry> candidate;
  {
    MutexLock lock(mu_);
    if (count_ <= limit_) return false;
    Dentry* oldest = list_.pop_front();
    list_.push_back(*oldest);  // its turn comes again if it stays
    if (oldest->used_.exchange(false, std::memory_order_relaxed)) return true;
    candidate = RefOrNull<Dentry>(oldest);  // alive: its parent holds it while it is listed
  }
  Ref<Dentry> parent = candidate->parent();
  MutexLock lock(parent->mu_);
  // In use by someone besides the parent and us (children count as users), or gone meanwhile.
  if (candidate->ref_count() != 2 || candidate->mount_count.load() != 0) return true;
  if (!parent->check_current_locked(*candidate).ok()) return true;
  Ref<Dentry> detached = parent->detach_locked(*candidate);
  return true;
}

}  // namespace caisson
