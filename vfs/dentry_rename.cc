// rename(2) between dentries. Linux: fs/namei.c, vfs_rename().
#include <linux/fs.h>

#include <optional>

#include "vfs/dentry.h"
#include "vfs/dentry_cache.h"

namespace caisson {
namespace {

Mutex<LockRank::kRename>& rename_mutex() {
  static auto* const mutex = new Mutex<LockRank::kRename>();
  return *mutex;
}

}  // namespace

// The conditional second lock is beyond the analysis.
Result<void> Dentry::rename(Dentry& old_directory, Dentry& old_child, Dentry& new_directory,
                            Dentry& new_child, uint32_t flags) NO_THREAD_SAFETY_ANALYSIS {
  using Lock = MutexLockSameRank<Mutex<LockRank::kDentry>>;
  const bool exchange = (flags & RENAME_EXCHANGE) != 0;
  RefOrNull<Dentry> kept_old, kept_new;  // dropped after the locks
  Children negatives;
  RefOrNull<Dentry> former_parent;

  MutexLock whole(rename_mutex());
  // Nothing moves between directories now, so who is above whom is settled.
  if (&old_child == &new_directory || old_child.is_ancestor_of(new_directory)) return Errno(EINVAL);
  if (&new_child == &old_directory || new_child.is_ancestor_of(old_directory))
    return exchange ? Errno(EINVAL) : Errno(ENOTEMPTY);

  std::optional<Lock> first, second, replaced_lock;
  if (&old_directory == &new_directory) {
    first.emplace(old_directory.mu_);
  } else {
    bool old_first =
        old_directory.is_ancestor_of(new_directory) ||
        (!new_directory.is_ancestor_of(old_directory) && &old_directory < &new_directory);
    first.emplace(old_first ? old_directory.mu_ : new_directory.mu_);
    second.emplace(old_first ? new_directory.mu_ : old_directory.mu_);
  }
  if (new_directory.is_removed()) return Errno(ENOENT);
  TRY(old_directory.check_current_locked(old_child));
  TRY(new_directory.check_current_locked(new_child));
  if (old_child.is_negative()) return Errno(ENOENT);
  if (exchange && new_child.is_negative()) return Errno(ENOENT);
  if ((flags & RENAME_NOREPLACE) != 0 && !new_child.is_negative()) return Errno(EEXIST);

  Inode& moved = old_child.inode();
  RefOrNull<Inode> target = new_child.inode_or_null();
  if (target.get() == &moved) return {};  // two names of one file: nothing to do
  if (target && !exchange) {
    if (moved.is_directory() && !target->is_directory()) return Errno(ENOTDIR);
    if (!moved.is_directory() && target->is_directory()) return Errno(EISDIR);
  }
  if (old_child.mount_count.load() != 0 || new_child.mount_count.load() != 0) return Errno(EBUSY);
  const bool replaces_directory = target && !exchange && target->is_directory();
  if (replaces_directory) replaced_lock.emplace(new_child.mu_);

  const std::string old_name = old_child.name();
  const std::string new_name = new_child.name();
  TRY(old_directory.inode().rename(old_name, moved, new_directory.inode(), new_name, target.get(),
                                   exchange));

  kept_old = old_directory.detach_locked(old_child).or_null();
  kept_new = new_directory.detach_locked(new_child).or_null();
  ++old_directory.generation_;
  ++new_directory.generation_;
  auto place = [&](Dentry& child, Dentry& directory, const std::string& name)
                   NO_THREAD_SAFETY_ANALYSIS {
                     {
                       MutexLock lock(child.name_mu_);
                       former_parent = std::exchange(child.parent_, RefOrNull<Dentry>(&directory));
                       child.name_ = name;
                     }
                     directory.children_.emplace(name, Ref<Dentry>(child));
                     DentryCache::instance().add(child);
                     // former_parent is one of the two directories, which the caller holds.
                     former_parent = nullptr;
                   };
  if (exchange) {
    place(new_child, old_directory, old_name);
  } else if (target) {
    new_child.removed_.store(true, std::memory_order_release);
    if (replaces_directory) {
      for (auto& [name, negative] : new_child.children_) DentryCache::instance().remove(*negative);
      negatives.swap(new_child.children_);
    }
  }
  place(old_child, new_directory, new_name);
  return {};
}

}  // namespace caisson
