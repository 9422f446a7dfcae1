// Timer: calls expired_times() at a deadline, once or at an interval. Base of interval timers,
// POSIX timers and timerfd. Linux: struct hrtimer.
//
// Settings are host CLOCK_MONOTONIC nanoseconds. An interval timer re-arms itself at expiry unless
// it waits for its signal to be taken (rearms_itself()). Nothing runs while it is off.
//
// Lock: mu_, rank kTimers. expired_times() is called on the event loop's thread without it.
#pragma once

#include <cstdint>

#include "base/mutex.h"
#include "host/event_loop.h"

namespace caisson {

class Timer : public host::DeadlineTarget {
 public:
  struct Setting {
    uint64_t next_ns = 0;  // 0: off
    uint64_t interval_ns = 0;
  };

  explicit Timer(host::EventLoop& events) : events_(events) {}

  // Answers the former setting.
  Setting set(Setting setting) EXCLUDES(mu_);
  Setting get() const EXCLUDES(mu_);
  void stop() EXCLUDES(mu_) { (void)set({}); }
  void expired(uint64_t armed_at) final;

 protected:
  // `count` intervals have passed, at least 1.
  virtual void expired_times(uint64_t count) = 0;
  virtual bool rearms_itself() const { return true; }
  // For a timer that does not re-arm itself: goes on after its signal was taken. How many further
  // intervals have passed since the expiry (the overrun).
  uint64_t rearm() EXCLUDES(mu_);

 private:
  void arm_locked() REQUIRES(mu_);

  host::EventLoop& events_;
  mutable Mutex<LockRank::kTimers> mu_;
  Setting setting_ GUARDED_BY(mu_);
  uint64_t armed_ns_ GUARDED_BY(mu_) = 0;  // deadline known to the event loop; 0: none
};

}  // namespace caisson
