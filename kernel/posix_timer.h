// PosixTimer: timer_create(2). Linux: kernel/time/posix-timers.c.
//
// Its signal is queued once; further expirations while it is pending are counted as overrun when it
// is taken, and only then does an interval timer go on. So a timer that nobody listens to costs
// nothing.
#pragma once

#include <atomic>
#include <cstdint>

#include "kernel/signal/pending_signals.h"
#include "kernel/time/timer.h"

namespace caisson {

class Task;
class ThreadGroup;

enum class TimerNotify : uint8_t { kSignal, kNone, kThread };

class PosixTimer final : public Timer {
 public:
  struct Event {
    TimerNotify notify = TimerNotify::kSignal;
    int signo = SIGALRM;
    uint64_t value = 0;
    bool value_is_id = false;  // no sigevent given: the value is the timer's id
  };
  PosixTimer(host::EventLoop& events, int32_t clock, Event event, ThreadGroup& group,
             RefOrNull<Task> task);
  ~PosixTimer() override;

  int32_t clock() const { return clock_; }
  void set_id(int id) { id_ = id; }
  // timer_getoverrun(2): of the last signal that was taken.
  int overrun() const { return overrun_.load(std::memory_order_relaxed); }
  void reset_overrun() { overrun_.store(0, std::memory_order_relaxed); }
  // timer_delete: drops the pending signal and the references that make a cycle.
  void detach();
  // The expiry of a CPU-time timer, which another object measures.
  void fire() { expired_times(1); }
  TimerNotify notify() const { return event_.notify; }

 private:
  class Source;
  void expired_times(uint64_t count) override;
  bool rearms_itself() const override { return event_.notify == TimerNotify::kNone; }
  void signal_taken(SigInfo& info);

  const int32_t clock_;
  const Event event_;
  int id_ = 0;  // set once before start
  std::atomic<int> overrun_{0};
  mutable Mutex<LockRank::kLeaf> target_mu_;
  RefOrNull<ThreadGroup> group_ GUARDED_BY(target_mu_);
  RefOrNull<Task> task_ GUARDED_BY(target_mu_);  // SIGEV_THREAD_ID
  RefOrNull<SignalSource> source_ GUARDED_BY(target_mu_);
};

}  // namespace caisson
