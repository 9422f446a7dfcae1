#include "vfs/file_locks.h"

#include <sys/file.h>

#include <algorithm>
#include <map>

namespace caisson {
namespace {

bool overlap(const RangeLock& a, const RangeLock& b) {
  return a.first <= b.last && b.first <= a.last;
}
bool same_owner(const RangeLock& a, const RangeLock& b) {
  return a.owner == b.owner && a.is_ofd == b.is_ofd;
}

// Who waits for whom, among owners of POSIX locks of the whole sandbox.
struct WaitGraph {
  Mutex<LockRank::kLeaf> mu;
  std::map<const void*, const void*> blocked_on GUARDED_BY(mu);
};
WaitGraph& wait_graph() {
  static auto* const graph = new WaitGraph();
  return *graph;
}

}  // namespace

std::optional<RangeLock> FileLocks::find_conflict_locked(const RangeLock& lock) const {
  for (const RangeLock& other : ranges_) {
    if (same_owner(other, lock) || !overlap(other, lock)) continue;
    if (other.exclusive || lock.exclusive) return other;
  }
  return std::nullopt;
}

std::optional<RangeLock> FileLocks::find_conflict(const RangeLock& lock) const {
  MutexLock guard(mu_);
  return find_conflict_locked(lock);
}

void FileLocks::cut_locked(const RangeLock& range) {
  std::vector<RangeLock> kept;
  kept.reserve(ranges_.size() + 1);
  for (const RangeLock& lock : ranges_) {
    if (!same_owner(lock, range) || !overlap(lock, range)) {
      kept.push_back(lock);
      continue;
    }
    if (lock.first < range.first) {
      RangeLock left = lock;
      left.last = range.first - 1;
      kept.push_back(left);
    }
    if (lock.last > range.last) {
      RangeLock right = lock;
      right.first = range.last + 1;
      kept.push_back(right);
    }
  }
  ranges_.swap(kept);
}

Result<void> FileLocks::set(const RangeLock& lock) {
  {
    MutexLock guard(mu_);
    if (find_conflict_locked(lock)) return Errno(EAGAIN);
    cut_locked(lock);
    // Neighbours of the same owner and kind become one, so that the list stays small.
    RangeLock joined = lock;
    std::erase_if(ranges_, [&](const RangeLock& other) {
      if (!same_owner(other, joined) || other.exclusive != joined.exclusive) return false;
      bool touches = (other.last != UINT64_MAX && other.last + 1 == joined.first) ||
                     (joined.last != UINT64_MAX && joined.last + 1 == other.first);
      if (!touches) return false;
      joined.first = std::min(joined.first, other.first);
      joined.last = std::max(joined.last, other.last);
      return true;
    });
    if (ranges_.size() >= 65536) return Errno(ENOLCK);  // a guest's memory bomb
    ranges_.push_back(joined);
  }
  queue_.notify(kEventOut);  // an exclusive lock may have become a shared one
  return {};
}

void FileLocks::unlock(const RangeLock& range) {
  {
    MutexLock guard(mu_);
    cut_locked(range);
  }
  queue_.notify(kEventOut);
}

Result<void> FileLocks::flock(const FileDescription& file, int operation) {
  bool blocked = false;
  bool released = false;
  {
    MutexLock guard(mu_);
    bool exclusive = operation == LOCK_EX;
    auto mine = std::find_if(whole_.begin(), whole_.end(),
                             [&](const WholeLock& lock) { return lock.owner == &file; });
    if (mine != whole_.end()) {
      if (operation != LOCK_UN && mine->exclusive == exclusive) return {};
      whole_.erase(mine);
      released = true;
    } else if (operation == LOCK_UN) {
      return {};
    }
    if (operation != LOCK_UN) {
      for (const WholeLock& other : whole_) {
        if (other.exclusive || exclusive) blocked = true;
      }
      if (!blocked) whole_.push_back(WholeLock{&file, exclusive});
    }
  }
  // Nothing else: who only tried again would wake himself, for ever.
  if (released) queue_.notify(kEventOut);
  if (blocked) return Errno(EWOULDBLOCK);
  return {};
}

void FileLocks::remove_posix(const FdTable* owner) {
  size_t removed;
  {
    MutexLock guard(mu_);
    removed = std::erase_if(
        ranges_, [&](const RangeLock& lock) { return !lock.is_ofd && lock.owner == owner; });
  }
  if (removed != 0) queue_.notify(kEventOut);
}

void FileLocks::remove_all_of_file(const FileDescription& file) {
  size_t removed;
  {
    MutexLock guard(mu_);
    removed = std::erase_if(
        ranges_, [&](const RangeLock& lock) { return lock.is_ofd && lock.owner == &file; });
    removed += std::erase_if(whole_, [&](const WholeLock& lock) { return lock.owner == &file; });
  }
  if (removed != 0) queue_.notify(kEventOut);
}

Result<void> FileLocks::note_blocked(const void* owner, const void* on) {
  WaitGraph& graph = wait_graph();
  MutexLock guard(graph.mu);
  const void* walk = on;
  for (size_t steps = 0; steps <= graph.blocked_on.size(); ++steps) {
    if (walk == owner) return Errno(EDEADLK);
    auto it = graph.blocked_on.find(walk);
    if (it == graph.blocked_on.end()) break;
    walk = it->second;
  }
  graph.blocked_on[owner] = on;
  return {};
}

void FileLocks::unblock(const void* owner) {
  WaitGraph& graph = wait_graph();
  MutexLock guard(graph.mu);
  graph.blocked_on.erase(owner);
}

}  // namespace caisson
