// DentryCache: keeps the number of cached dentries bounded, whatever names a guest asks for.
//
// One per kernel process. Every child that a directory keeps is on its list; when there are too
// many, those that nobody uses go, oldest first, with a second chance for those that were found
// again (the clock algorithm). Lock: mu_, rank kLeaf. Linux: the dentry LRU of a superblock.
#pragma once

#include <cstddef>

#include "base/intrusive_list.h"
#include "base/mutex.h"
#include "vfs/dentry.h"

namespace caisson {

class DentryCache {
 public:
  static DentryCache& instance();

  // The parent keeps `child` from now on, or has dropped it. Called with the parent locked.
  void add(Dentry& child) EXCLUDES(mu_);
  void remove(Dentry& child) EXCLUDES(mu_);
  // Called with no dentry locked.
  void shrink() EXCLUDES(mu_);

  size_t count() const EXCLUDES(mu_);
  void set_limit(size_t limit) EXCLUDES(mu_);

 private:
  bool evict_one() EXCLUDES(mu_);

  mutable Mutex<LockRank::kLeaf> mu_;
  IntrusiveList<Dentry, DentryCacheTag> list_ GUARDED_BY(mu_);
  size_t count_ GUARDED_BY(mu_) = 0;
  size_t limit_ GUARDED_BY(mu_) = 32768;
};

}  // namespace caisson
