// ProcessTimers: the timers of one thread group: alarm(2), setitimer(2), timer_create(2),
// RLIMIT_CPU. Linux: signal_struct::real_timer, posix_timers, cputimers.
//
// Timers name their group weakly: they hold a reference to it that clear() drops when the group
// ends.
#pragma once

#include <map>

#include "base/mutex.h"
#include "kernel/cpu_timers.h"
#include "kernel/posix_timer.h"
#include "kernel/time/timer.h"

namespace caisson {

class ThreadGroup;

// ITIMER_REAL.
class RealIntervalTimer final : public Timer {
 public:
  RealIntervalTimer(host::EventLoop& events, ThreadGroup& group);
  void forget_group();

 private:
  void expired_times(uint64_t count) override;
  mutable Mutex<LockRank::kLeaf> group_mu_;
  RefOrNull<ThreadGroup> group_ GUARDED_BY(group_mu_);
};

class ProcessTimers {
 public:
  explicit ProcessTimers(ThreadGroup& group);
  ~ProcessTimers();

  // Made at first use. After clear() nothing is made any more: null.
  RefOrNull<RealIntervalTimer> real() EXCLUDES(mu_);
  RefOrNull<CpuTimers> cpu() EXCLUDES(mu_);
  // Null if never used.
  RefOrNull<CpuTimers> cpu_if_any() const EXCLUDES(mu_);

  // timer_create(2): EAGAIN beyond the limit (RLIMIT_SIGPENDING).
  Result<int> add(Ref<PosixTimer> timer, size_t limit) EXCLUDES(mu_);
  RefOrNull<PosixTimer> find(int id) const EXCLUDES(mu_);
  RefOrNull<PosixTimer> remove(int id) EXCLUDES(mu_);
  // exec removes POSIX timers only.
  void remove_posix_timers() EXCLUDES(mu_);
  // The end of the process.
  void clear() EXCLUDES(mu_);

 private:
  ThreadGroup& group_;
  mutable Mutex<LockRank::kTimers> mu_;
  RefOrNull<RealIntervalTimer> real_ GUARDED_BY(mu_);
  RefOrNull<CpuTimers> cpu_ GUARDED_BY(mu_);
  std::map<int, Ref<PosixTimer>> posix_ GUARDED_BY(mu_);
  int next_id_ GUARDED_BY(mu_) = 0;
  bool is_closed_ GUARDED_BY(mu_) = false;
};

}  // namespace caisson
