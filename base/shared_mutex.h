// SharedMutex<LockRank::kX>: a ranked lock with many readers or one writer (Linux: rw_semaphore).
//
// Guards only: ReadLock and WriteLock. The same rules as Mutex; a reader may not become a writer.
#pragma once

#include <shared_mutex>

#include "base/mutex.h"

namespace caisson {

template <LockRank kRank>
class CAPABILITY("mutex") SharedMutex {
 public:
  SharedMutex() = default;
  SharedMutex(const SharedMutex&) = delete;
  SharedMutex& operator=(const SharedMutex&) = delete;

 private:
  template <typename M>
  friend class ReadLock;
  template <typename M>
  friend class WriteLock;
  template <typename M>
  friend class WriteLockSameRank;

  void lock(bool same_rank_allowed) ACQUIRE() {
    if constexpr (kCheckLockRanks) note_lock_taken(kRank, same_rank_allowed);
    mutex_.lock();
  }
  void unlock() RELEASE() {
    mutex_.unlock();
    if constexpr (kCheckLockRanks) note_lock_released(kRank);
  }
  void lock_shared() ACQUIRE_SHARED() {
    if constexpr (kCheckLockRanks) note_lock_taken(kRank, false);
    mutex_.lock_shared();
  }
  void unlock_shared() RELEASE_SHARED() {
    mutex_.unlock_shared();
    if constexpr (kCheckLockRanks) note_lock_released(kRank);
  }

  std::shared_mutex mutex_;
};

template <typename M>
class SCOPED_CAPABILITY ReadLock {
 public:
  explicit ReadLock(M& mutex) ACQUIRE_SHARED(mutex) : mutex_(mutex) { mutex_.lock_shared(); }
  ~ReadLock() RELEASE_GENERIC() { mutex_.unlock_shared(); }
  ReadLock(const ReadLock&) = delete;
  ReadLock& operator=(const ReadLock&) = delete;

 private:
  M& mutex_;
};

template <typename M>
class SCOPED_CAPABILITY WriteLock {
 public:
  explicit WriteLock(M& mutex) ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(false); }
  ~WriteLock() RELEASE() { mutex_.unlock(); }
  WriteLock(const WriteLock&) = delete;
  WriteLock& operator=(const WriteLock&) = delete;

 private:
  M& mutex_;
};

// For a second lock of a rank already held; the rank's comment says in which order.
template <typename M>
class SCOPED_CAPABILITY WriteLockSameRank {
 public:
  explicit WriteLockSameRank(M& mutex) ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(true); }
  ~WriteLockSameRank() RELEASE() { mutex_.unlock(); }
  WriteLockSameRank(const WriteLockSameRank&) = delete;
  WriteLockSameRank& operator=(const WriteLockSameRank&) = delete;

 private:
  M& mutex_;
};

}  // namespace caisson
