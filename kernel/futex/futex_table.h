// FutexTable: sleeping and waking on 32-bit words of guest memory, futex(2). Linux: kernel/futex/.
//
// One per Kernel; private and shared futexes share its buckets, a key tells them apart. A waiter is
// a part of the operation that waits (sys_futex): it is queued in its key's bucket until woken,
// requeued or removed.
//
// Locks: Bucket::mu, rank kFutexBucket; two buckets (requeue) in address order. Guest words are
// read with the bucket locked, so that a waker that changes the word and then wakes can't be
// missed.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "base/intrusive_list.h"
#include "base/mutex.h"
#include "base/result.h"
#include "kernel/waiter/wait_queue.h"
#include "mm/futex_key.h"

namespace caisson {

class FutexTable;

class FutexWaiter : public ListNode<FutexTable> {
 public:
  FutexWaiter() = default;
  bool was_woken() const { return woken_.load(std::memory_order_acquire); }

 private:
  friend class FutexTable;
  FutexKey key_;  // guarded by the bucket that bucket_ names
  uint32_t bitset_ = 0;
  Waiter* waiter_ = nullptr;
  std::atomic<size_t> bucket_{~size_t{0}};  // index; changes by requeue under both buckets
  std::atomic<bool> woken_{false};
};

class FutexTable {
 public:
  static constexpr uint32_t kMatchAny = ~0u;

  // Queues `waiter` if `check` says so with the bucket locked. EAGAIN: the word has another value.
  // `check` returns void or an error.
  template <typename Check>
  Result<void> wait(FutexWaiter& waiter, const FutexKey& key, uint32_t bitset, Waiter& wake,
                    Check check) {
    Bucket& bucket = buckets_[index_of(key)];
    MutexLock lock(bucket.mu);
    TRY(check());
    enqueue_locked(bucket, waiter, key, bitset, wake);
    return {};
  }
  // After a wait, woken or not. Afterwards no wake-up of this waiter is running.
  void remove(FutexWaiter& waiter);

  // How many were woken.
  int wake(const FutexKey& key, int count, uint32_t bitset);
  // FUTEX_WAKE_OP: `operate` changes the second word and says whether to wake there too; it runs
  // with both buckets locked.
  template <typename Operate>
  Result<int> wake_op(const FutexKey& first, int count, const FutexKey& second, int second_count,
                      Operate operate) {
    PairLock lock(*this, index_of(first), index_of(second));
    bool wake_second = TRY(operate());
    int woken = wake_locked(buckets_[index_of(first)], first, count, kMatchAny);
    if (wake_second)
      woken += wake_locked(buckets_[index_of(second)], second, second_count, kMatchAny);
    return woken;
  }
  // FUTEX_REQUEUE and FUTEX_CMP_REQUEUE. The number of waiters woken plus requeued.
  template <typename Check>
  Result<int> requeue(const FutexKey& from, int wake_count, const FutexKey& to, int requeue_count,
                      Check check) {
    PairLock lock(*this, index_of(from), index_of(to));
    TRY(check());
    return requeue_locked(from, wake_count, to, requeue_count);
  }

 private:
  static constexpr size_t kBuckets = 256;
  struct Bucket {
    Mutex<LockRank::kFutexBucket> mu;
    IntrusiveList<FutexWaiter, FutexTable> waiters;  // guarded by mu
  };
  // Both buckets in index order; one if they are the same.
  class PairLock {
   public:
    PairLock(FutexTable& table, size_t a, size_t b);
    ~PairLock();

   private:
    struct Guards;
    alignas(8) unsigned char storage_[4 * sizeof(void*)];
    bool two_;
  };

  static size_t index_of(const FutexKey& key) { return key.hash() % kBuckets; }
  void enqueue_locked(Bucket& bucket, FutexWaiter& waiter, const FutexKey& key, uint32_t bitset,
                      Waiter& wake);
  int wake_locked(Bucket& bucket, const FutexKey& key, int count, uint32_t bitset);
  int requeue_locked(const FutexKey& from, int wake_count, const FutexKey& to, int requeue_count);

  std::array<Bucket, kBuckets> buckets_;
};

}  // namespace caisson
