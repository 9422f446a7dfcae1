#include "caisson/sys/fork_lock.h"

#include <utility>

namespace caisson::sys {

ForkLock& fork_lock() {
  static ForkLock lock;
  return lock;
}

bool ForkLock::try_enter(Side side) {
  MutexLock lock(mu_);
  State& other = sides_[1 - side];
  if (other.inside != 0 || other.waiting != 0 || other.admitted != 0) return false;
  ++sides_[side].inside;
  return true;
}

void ForkLock::enter(Side side) {
  bool queued = false;
  for (;;) {
    uint32_t turn;
    {
      MutexLock lock(mu_);
      State& mine = sides_[side];
      State& other = sides_[1 - side];
      if (!queued && other.inside == 0 && other.waiting == 0 && other.admitted == 0) {
        ++mine.inside;
        return;
      }
      if (!queued) {
        queued = true;
        // Nobody is inside but the other side is about to enter: it goes first, then we.
        ++mine.waiting;
      } else if (mine.admitted > 0) {
        --mine.admitted;
        ++mine.inside;
        return;
      }
      turn = turn_.load(std::memory_order_relaxed);
    }
    turn_.wait(turn);
  }
}

void ForkLock::leave(Side side) {
  {
    MutexLock lock(mu_);
    State& mine = sides_[side];
    State& other = sides_[1 - side];
    --mine.inside;
    if (mine.inside != 0 || mine.admitted != 0) return;
    if (other.waiting != 0) {
      other.admitted = std::exchange(other.waiting, 0);
    } else if (mine.waiting != 0) {
      mine.admitted = std::exchange(mine.waiting, 0);
    } else {
      return;
    }
    turn_.fetch_add(1, std::memory_order_relaxed);
  }
  turn_.notify_all();
}

}  // namespace caisson::sys
