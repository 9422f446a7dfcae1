#include "kernel/time/timer.h"

#include <utility>

namespace caisson {

Timer::Setting Timer::set(Setting setting) {
  Setting former;
  uint64_t cancelled = 0;
  {
    MutexLock lock(mu_);
    former = std::exchange(setting_, setting);
    cancelled = std::exchange(armed_ns_, 0);
    arm_locked();
    if (armed_ns_ == cancelled) cancelled = 0;  // the same deadline twice is one
  }
  if (cancelled != 0) events_.cancel_deadline(cancelled, *this);
  return former;
}

Timer::Setting Timer::get() const {
  MutexLock lock(mu_);
  return setting_;
}

void Timer::arm_locked() {
  armed_ns_ = setting_.next_ns;
  if (armed_ns_ != 0) events_.add_deadline(armed_ns_, Ref<host::DeadlineTarget>(*this));
}

void Timer::expired(uint64_t armed_at) {
  uint64_t count = 1;
  {
    MutexLock lock(mu_);
    if (armed_ns_ != armed_at || setting_.next_ns != armed_at) return;  // set anew meanwhile
    armed_ns_ = 0;
    if (setting_.interval_ns == 0) {
      setting_.next_ns = 0;
    } else if (rearms_itself()) {
      uint64_t now = host::monotonic_ns();
      if (now > armed_at) count += (now - armed_at) / setting_.interval_ns;
      setting_.next_ns = armed_at + count * setting_.interval_ns;
      arm_locked();
    }
  }
  expired_times(count);
}

uint64_t Timer::rearm() {
  MutexLock lock(mu_);
  if (setting_.interval_ns == 0 || setting_.next_ns == 0 || armed_ns_ != 0) return 0;
  uint64_t now = host::monotonic_ns();
  uint64_t overrun = 0;
  if (now > setting_.next_ns) overrun = (now - setting_.next_ns) / setting_.interval_ns;
  setting_.next_ns += (overrun + 1) * setting_.interval_ns;
  arm_locked();
  return overrun;
}

}  // namespace caisson
