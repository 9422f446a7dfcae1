#include "kernel/futex/futex_table.h"

#include <algorithm>
#include <new>

namespace caisson {

using BucketMutex = Mutex<LockRank::kFutexBucket>;

struct FutexTable::PairLock::Guards {
  MutexLock<BucketMutex> first;
};

// Two scoped locks whose number is known at run time only: outside what the analysis can follow.
FutexTable::PairLock::PairLock(FutexTable& table, size_t a, size_t b) NO_THREAD_SAFETY_ANALYSIS
    : two_(a != b) {
  static_assert(sizeof(MutexLock<BucketMutex>) + sizeof(MutexLockSameRank<BucketMutex>) <=
                sizeof storage_);
  size_t low = std::min(a, b), high = std::max(a, b);
  new (storage_) MutexLock<BucketMutex>(table.buckets_[low].mu);
  if (two_)
    new (storage_ + sizeof(MutexLock<BucketMutex>))
        MutexLockSameRank<BucketMutex>(table.buckets_[high].mu);
}

FutexTable::PairLock::~PairLock() NO_THREAD_SAFETY_ANALYSIS {
  using First = MutexLock<BucketMutex>;
  using Second = MutexLockSameRank<BucketMutex>;
  if (two_) std::launder(reinterpret_cast<Second*>(storage_ + sizeof(First)))->~Second();
  std::launder(reinterpret_cast<First*>(storage_))->~First();
}

void FutexTable::enqueue_locked(Bucket& bucket, FutexWaiter& waiter, const FutexKey& key,
                                uint32_t bitset, Waiter& wake) {
  waiter.key_ = key;
  waiter.bitset_ = bitset;
  waiter.waiter_ = &wake;
  waiter.woken_.store(false, std::memory_order_relaxed);
  waiter.bucket_.store(static_cast<size_t>(&bucket - buckets_.data()), std::memory_order_release);
  bucket.waiters.push_back(waiter);
}

void FutexTable::remove(FutexWaiter& waiter) {
  for (;;) {
    size_t index = waiter.bucket_.load(std::memory_order_acquire);
    if (index >= kBuckets) return;  // was never queued
    Bucket& bucket = buckets_[index];
    MutexLock lock(bucket.mu);
    // A requeue may have moved it before the lock was ours.
    if (waiter.bucket_.load(std::memory_order_acquire) != index) continue;
    if (waiter.linked()) bucket.waiters.remove(waiter);
    return;
  }
}

int FutexTable::wake(const FutexKey& key, int count, uint32_t bitset) {
  Bucket& bucket = buckets_[index_of(key)];
  MutexLock lock(bucket.mu);
  return wake_locked(bucket, key, count, bitset);
}

int FutexTable::wake_locked(Bucket& bucket, const FutexKey& key, int count, uint32_t bitset) {
  int woken = 0;
  FutexWaiter* waiter = bucket.waiters.front();
  while (waiter != nullptr && woken < count) {
    FutexWaiter* next = bucket.waiters.next(*waiter);
    if (waiter->key_ == key && (waiter->bitset_ & bitset) != 0) {
      bucket.waiters.remove(*waiter);
      ++woken;
      // remove() takes the bucket's lock, so the waiter outlives this call.
      waiter->woken_.store(true, std::memory_order_release);
      waiter->waiter_->notified(kEventIn);
    }
    waiter = next;
  }
  return woken;
}

int FutexTable::requeue_locked(const FutexKey& from, int wake_count, const FutexKey& to,
                               int requeue_count) {
  Bucket& source = buckets_[index_of(from)];
  Bucket& target = buckets_[index_of(to)];
  int done = wake_locked(source, from, wake_count, kMatchAny);
  int moved = 0;
  // The end of the queue now: what is moved within one bucket is not looked at again.
  FutexWaiter* waiter = source.waiters.front();
  while (waiter != nullptr && moved < requeue_count) {
    FutexWaiter* next = source.waiters.next(*waiter);
    if (waiter->key_ == from) {
      ++moved;
      waiter->key_ = to;
      if (&source != &target) {
        source.waiters.remove(*waiter);
        target.waiters.push_back(*waiter);
        waiter->bucket_.store(static_cast<size_t>(&target - buckets_.data()),
                              std::memory_order_release);
      }
    }
    waiter = next;
  }
  return done + moved;
}

}  // namespace caisson
