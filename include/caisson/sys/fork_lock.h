// ForkLock: keeps the creation of descriptors that cannot be born close-on-exec apart from starts.
//
// One per process: fork_lock(). A holder of lock_shared() may create a descriptor and then mark it;
// no start clones meanwhile. Starts hold it against the holders, but not against each other. Fair
// in phases: a newcomer waits behind the other side if that side is already waiting. Not recursive.
// start_process() lets no unlisted descriptor through anyway; the lock matters to programs that
// also fork by other means, or start with `keep_other_files`.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/mutex.h"

namespace caisson::sys {

class ForkLock {
 public:
  // Creators of descriptors. std::shared_lock<ForkLock> works.
  void lock_shared() { enter(kCreators); }
  void unlock_shared() { leave(kCreators); }
  bool try_lock_shared() { return try_enter(kCreators); }

  // Those who fork. Shared among themselves; std::lock_guard<ForkLock> works.
  void lock() { enter(kForkers); }
  void unlock() { leave(kForkers); }
  bool try_lock() { return try_enter(kForkers); }

 private:
  enum Side : uint8_t { kCreators = 0, kForkers = 1 };
  struct State {
    uint32_t inside = 0;
    uint32_t waiting = 0;
    uint32_t admitted = 0;  // waiters let in by the other side's last leave
  };

  void enter(Side side);
  void leave(Side side);
  bool try_enter(Side side);

  Mutex<LockRank::kLeaf> mu_;
  State sides_[2] GUARDED_BY(mu_);
  std::atomic<uint32_t> turn_{0};  // atomic: counts changes that a waiter must look at
};

ForkLock& fork_lock();

}  // namespace caisson::sys
