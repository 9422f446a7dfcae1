// Mutex<LockRank::kX>: a short-held lock that states its place in the lock order at its
// declaration.
//
// Guards only: there is no public lock() without a guard object. Kernel code never sleeps on
// anything else while it holds one (DESIGN: no lock is held across a host call that can block or a
// wait for a stub).
#pragma once

#include <mutex>

#include "base/lock_rank.h"
#include "base/thread_annotations.h"

namespace caisson {

// Rank bookkeeping of this thread; empty functions in release builds.
#if !defined(NDEBUG) || defined(CAISSON_LOCK_RANKS)
inline constexpr bool kCheckLockRanks = true;
#else
inline constexpr bool kCheckLockRanks = false;
#endif
void note_lock_taken(LockRank rank, bool same_rank_allowed);
void note_lock_released(LockRank rank);

template <LockRank kRank>
class CAPABILITY("mutex") Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

 private:
  template <typename M>
  friend class MutexLock;
  template <typename M>
  friend class MutexLockSameRank;

  void lock(bool same_rank_allowed) ACQUIRE() {
    if constexpr (kCheckLockRanks) note_lock_taken(kRank, same_rank_allowed);
    mutex_.lock();
  }
  void unlock() RELEASE() {
    mutex_.unlock();
    if constexpr (kCheckLockRanks) note_lock_released(kRank);
  }

  std::mutex mutex_;
};

template <typename M>
class SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(M& mutex) ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(false); }
  ~MutexLock() RELEASE() { mutex_.unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  M& mutex_;
};

// For a second lock of a rank already held; the rank's comment says in which order.
template <typename M>
class SCOPED_CAPABILITY MutexLockSameRank {
 public:
  explicit MutexLockSameRank(M& mutex) ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(true); }
  ~MutexLockSameRank() RELEASE() { mutex_.unlock(); }
  MutexLockSameRank(const MutexLockSameRank&) = delete;
  MutexLockSameRank& operator=(const MutexLockSameRank&) = delete;

 private:
  M& mutex_;
};

}  // namespace caisson
