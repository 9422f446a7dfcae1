// Reading clocks and sleeping: clock_gettime(2), nanosleep(2). Linux: kernel/time/time.c,
// hrtimer.c.
#include "syscalls/sys_time.h"

#include <time.h>

#include <algorithm>

#include "kernel/kernel.h"
#include "kernel/run_operation.h"
#include "kernel/task.h"
#include "kernel/task_clock.h"
#include "kernel/time/clock.h"

namespace caisson {
namespace {

constexpr uint64_t kNsPerTick = 10'000'000;  // USER_HZ is 100

// Sleeps until a host CLOCK_MONOTONIC time.
class SleepOperation final : public Operation {
 public:
  // `left` is where an interrupted relative sleep tells the rest.
  SleepOperation(uint64_t deadline, bool is_absolute, UserOut<TimeSpec> left)
      : deadline_(deadline), is_absolute_(is_absolute), left_(left) {}

  StepResult step(CurrentTask&) override {
    if (host::monotonic_ns() >= deadline_) return uint64_t{0};
    return MustWait{};
  }
  void arm(CurrentTask&, Waiter&) override {}
  void disarm() override {}
  std::optional<uint64_t> deadline_ns() const override { return deadline_; }
  StepResult timed_out(CurrentTask&) override { return uint64_t{0}; }
  StepResult interrupted(CurrentTask& current) override {
    if (is_absolute_) return Errno(kERESTARTNOHAND);
    uint64_t now = host::monotonic_ns();
    if (!left_.is_null()) {
      TimeSpec rest = to_timespec(deadline_ > now ? deadline_ - now : 0);
      Result<void> stored = current.copy_out(left_, rest);
      if (!stored.ok()) return stored.error();
    }
    current.task().restart_block = [deadline = deadline_, left = left_](CurrentTask& task) {
      return run(task, SleepOperation(deadline, false, left));
    };
    return Errno(kERESTART_RESTARTBLOCK);
  }
  const char* name() const override { return "hrtimer_nanosleep"; }

 private:
  uint64_t deadline_;
  bool is_absolute_;
  UserOut<TimeSpec> left_;
};

// Sleeps until a process has used CPU time. Looks again when it could have, at the earliest.
class CpuSleepOperation final : public Operation {
 public:
  CpuSleepOperation(CpuClock clock, uint64_t until_ns, bool is_absolute, UserOut<TimeSpec> left)
      : clock_(std::move(clock)), until_ns_(until_ns), is_absolute_(is_absolute), left_(left) {}

  StepResult step(CurrentTask&) override {
    if (clock_.now_ns() >= until_ns_) return uint64_t{0};
    return MustWait{};
  }
  void arm(CurrentTask&, Waiter&) override {}
  void disarm() override {}
  std::optional<uint64_t> deadline_ns() const override {
    constexpr uint64_t kShortest = 1'000'000;
    uint64_t now = clock_.now_ns();
    uint64_t missing = until_ns_ > now ? until_ns_ - now : 0;
    return add_ns(host::monotonic_ns(), std::max(missing / 4, kShortest));
  }
  StepResult timed_out(CurrentTask&) override { return MustWait{}; }
  StepResult interrupted(CurrentTask& current) override {
    if (is_absolute_) return Errno(kERESTARTNOHAND);
    if (!left_.is_null()) {
      uint64_t now = clock_.now_ns();
      TimeSpec rest = to_timespec(until_ns_ > now ? until_ns_ - now : 0);
      Result<void> stored = current.copy_out(left_, rest);
      if (!stored.ok()) return stored.error();
    }
    current.task().restart_block = [clock = clock_, until = until_ns_,
                                    left = left_](CurrentTask& task) {
      return run(task, CpuSleepOperation(clock, until, false, left));
    };
    return Errno(kERESTART_RESTARTBLOCK);
  }
  const char* name() const override { return "cpu_nanosleep"; }

 private:
  CpuClock clock_;
  uint64_t until_ns_;
  bool is_absolute_;
  UserOut<TimeSpec> left_;
};

}  // namespace

SyscallResult sys_time(CurrentTask& task, UserOut<int64_t> seconds) {
  int64_t now = static_cast<int64_t>(real_clock_ns() / kNsPerSecond);
  if (!seconds.is_null()) TRY(task.copy_out(seconds, now));
  return now;
}

SyscallResult sys_gettimeofday(CurrentTask& task, UserOut<TimeVal> time, UserOut<TimeZone> zone) {
  if (!time.is_null()) TRY(task.copy_out(time, to_timeval(real_clock_ns())));
  if (!zone.is_null()) TRY(task.copy_out(zone, TimeZone{}));
  return 0;
}

// Nobody inside may set the host's clock.
SyscallResult sys_settimeofday(CurrentTask& task, UserIn<TimeVal> time, UserIn<TimeZone> zone) {
  if (!time.is_null()) {
    TimeVal wanted = TRY(task.copy_in(time));
    if (wanted.microseconds < 0 || wanted.microseconds > 1'000'000) return Errno(EINVAL);
  }
  if (!zone.is_null()) TRY(task.copy_in(zone));
  return Errno(EPERM);
}

SyscallResult sys_clock_gettime(CurrentTask& task, int clock, UserOut<TimeSpec> time) {
  uint64_t now = TRY(read_clock(task.task(), clock));
  return task.copy_out(time, to_timespec(now));
}

SyscallResult sys_clock_settime(CurrentTask& task, int clock, UserIn<TimeSpec> time) {
  if (clock != CLOCK_REALTIME) return Errno(EINVAL);
  TimeSpec wanted = TRY(task.copy_in(time));
  if (!is_valid(wanted)) return Errno(EINVAL);
  return Errno(EPERM);
}

SyscallResult sys_clock_getres(CurrentTask& task, int clock, UserOut<TimeSpec> resolution) {
  TimeSpec result{0, 1};
  if (is_host_clock(clock)) {
    timespec host{};
    clock_getres(clock == CLOCK_REALTIME_ALARM   ? CLOCK_REALTIME
                 : clock == CLOCK_BOOTTIME_ALARM ? CLOCK_BOOTTIME
                                                 : clock,
                 &host);
    result = {host.tv_sec, host.tv_nsec};
  } else if (is_cpu_clock(clock)) {
    (void)TRY(find_cpu_clock(task.task(), clock));
  } else {
    return Errno(EINVAL);
  }
  if (resolution.is_null()) return 0;
  return task.copy_out(resolution, result);
}

SyscallResult sys_nanosleep(CurrentTask& task, UserIn<TimeSpec> time, UserOut<TimeSpec> left) {
  TimeSpec wanted = TRY(task.copy_in(time));
  if (!is_valid(wanted)) return Errno(EINVAL);
  uint64_t deadline = add_ns(host::monotonic_ns(), to_ns(wanted));
  return run(task, SleepOperation(deadline, false, left));
}

SyscallResult sys_clock_nanosleep(CurrentTask& task, int clock, int flags, UserIn<TimeSpec> time,
                                  UserOut<TimeSpec> left) {
  bool can_sleep = clock == CLOCK_REALTIME || clock == CLOCK_MONOTONIC || clock == CLOCK_BOOTTIME ||
                   clock == CLOCK_TAI || clock == CLOCK_REALTIME_ALARM ||
                   clock == CLOCK_BOOTTIME_ALARM;
  // CLOCK_THREAD_CPUTIME_ID would never end; the others have no timers.
  if ((is_host_clock(clock) && !can_sleep) || clock == CLOCK_THREAD_CPUTIME_ID)
    return Errno(EOPNOTSUPP);
  if (!can_sleep && !is_cpu_clock(clock)) return Errno(EINVAL);
  TimeSpec wanted = TRY(task.copy_in(time));
  if (!is_valid(wanted)) return Errno(EINVAL);
  bool is_absolute = (flags & TIMER_ABSTIME) != 0;
  if (!can_sleep) {
    CpuClock cpu = TRY(find_cpu_clock(task.task(), clock));
    if (cpu.task.get() == &task.task()) return Errno(EINVAL);  // it would never end
    uint64_t until = is_absolute ? to_ns(wanted) : add_ns(cpu.now_ns(), to_ns(wanted));
    return run(task, CpuSleepOperation(std::move(cpu), until, is_absolute, left));
  }
  if (clock == CLOCK_REALTIME_ALARM) clock = CLOCK_REALTIME;
  if (clock == CLOCK_BOOTTIME_ALARM) clock = CLOCK_BOOTTIME;
  uint64_t deadline = is_absolute ? monotonic_deadline(clock, to_ns(wanted))
                                  : add_ns(host::monotonic_ns(), to_ns(wanted));
  return run(task, SleepOperation(deadline, is_absolute, left));
}

SyscallResult sys_times(CurrentTask& task, UserOut<ProcessTimes> times) {
  if (!times.is_null()) {
    ProcessTimes result{};
    result.user = static_cast<int64_t>(process_cpu_ns(task.group()) / kNsPerTick);
    {
      MutexLock tree(task_tree_mu);
      task.group().assert_tree_locked();
      result.children_user = static_cast<int64_t>(task.group().children_use.cpu_ns / kNsPerTick);
    }
    TRY(task.copy_out(times, result));
  }
  return static_cast<int64_t>(boot_clock_ns() / kNsPerTick);
}

}  // namespace caisson
