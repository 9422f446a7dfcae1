// Timers that send signals: alarm(2), setitimer(2), timer_create(2). Linux: kernel/time/itimer.c,
// posix-timers.c.
#include "syscalls/sys_timer.h"

#include <time.h>

#include <algorithm>

#include "abi/limits.h"
#include "kernel/kernel.h"
#include "kernel/process_timers.h"
#include "kernel/task.h"
#include "kernel/task_clock.h"
#include "kernel/time/clock.h"

namespace caisson {
namespace {

struct Remaining {
  uint64_t value_ns = 0;
  uint64_t interval_ns = 0;
};

// What is left of a setting at `now`. An armed timer never shows 0.
Remaining remaining(uint64_t next_ns, uint64_t interval_ns, uint64_t now) {
  if (next_ns == 0) return {0, interval_ns};
  if (next_ns > now) return {next_ns - now, interval_ns};
  if (interval_ns == 0) return {1, 0};
  return {interval_ns - (now - next_ns) % interval_ns, interval_ns};
}

IntervalTimerValue to_timer_value(Remaining left) {
  TimeVal value = to_timeval(left.value_ns);
  if (left.value_ns != 0 && value.seconds == 0 && value.microseconds == 0) value.microseconds = 1;
  return {to_timeval(left.interval_ns), value};
}

CpuTimers::Slot slot_of(int which) {
  return which == ITIMER_VIRTUAL ? CpuTimers::kVirtual : CpuTimers::kProf;
}

Remaining get_interval_timer(CurrentTask& task, int which) {
  ProcessTimers& timers = *task.group().timers;
  if (which == ITIMER_REAL) {
    RefOrNull<RealIntervalTimer> timer = timers.real();
    if (!timer) return {};
    Timer::Setting setting = timer->get();
    return remaining(setting.next_ns, setting.interval_ns, host::monotonic_ns());
  }
  RefOrNull<CpuTimers> cpu = timers.cpu_if_any();
  if (!cpu) return {};
  CpuTimers::Setting setting = cpu->get(slot_of(which));
  return remaining(setting.at_ns, setting.interval_ns, process_cpu_ns(task.group()));
}

void set_interval_timer(CurrentTask& task, int which, Remaining wanted) {
  ProcessTimers& timers = *task.group().timers;
  if (which == ITIMER_REAL) {
    RefOrNull<RealIntervalTimer> timer = timers.real();
    if (!timer) return;
    uint64_t next = wanted.value_ns == 0 ? 0 : add_ns(host::monotonic_ns(), wanted.value_ns);
    timer->set({next, wanted.value_ns == 0 ? 0 : wanted.interval_ns});
    return;
  }
  RefOrNull<CpuTimers> cpu = timers.cpu();
  if (!cpu) return;
  uint64_t at = wanted.value_ns == 0 ? 0 : add_ns(process_cpu_ns(task.group()), wanted.value_ns);
  cpu->set(slot_of(which), {at, wanted.interval_ns});
}

bool is_interval_timer(int which) {
  return which == ITIMER_REAL || which == ITIMER_VIRTUAL || which == ITIMER_PROF;
}

IntervalTimerSpec to_timer_spec(Remaining left) {
  return {to_timespec(left.interval_ns), to_timespec(left.value_ns)};
}

Remaining get_posix_timer(CurrentTask& task, PosixTimer& timer) {
  if (!is_cpu_clock(timer.clock())) {
    Timer::Setting setting = timer.get();
    return remaining(setting.next_ns, setting.interval_ns, host::monotonic_ns());
  }
  RefOrNull<CpuTimers> cpu = task.group().timers->cpu();
  if (!cpu) return {};
  CpuTimers::Setting setting = cpu->get_posix(timer);
  Result<uint64_t> now = read_clock(task.task(), timer.clock());
  return remaining(setting.at_ns, setting.interval_ns, now.ok() ? now.value() : 0);
}

Result<void> set_posix_timer(CurrentTask& task, PosixTimer& timer, Remaining wanted,
                             bool is_absolute) {
  timer.reset_overrun();
  if (is_cpu_clock(timer.clock())) {
    RefOrNull<CpuTimers> cpu = task.group().timers->cpu();
    if (!cpu) return {};
    CpuClock clock = TRY(find_cpu_clock(task.task(), timer.clock()));
    uint64_t at = wanted.value_ns;
    if (at != 0 && !is_absolute) at = add_ns(clock.now_ns(), at);
    cpu->set_posix(Ref<PosixTimer>(timer), clock.task ? clock.task->tid() : 0,
                   {at, wanted.interval_ns});
    return {};
  }
  int32_t clock = timer.clock();
  if (clock == CLOCK_REALTIME_ALARM) clock = CLOCK_REALTIME;
  if (clock == CLOCK_BOOTTIME_ALARM) clock = CLOCK_BOOTTIME;
  uint64_t next = 0;
  if (wanted.value_ns != 0)
    next = is_absolute ? monotonic_deadline(clock, wanted.value_ns)
                       : add_ns(host::monotonic_ns(), wanted.value_ns);
  timer.set({next, wanted.interval_ns});
  return {};
}

}  // namespace

SyscallResult sys_alarm(CurrentTask& task, uint32_t seconds) {
  Remaining before = get_interval_timer(task, ITIMER_REAL);
  set_interval_timer(task, ITIMER_REAL, {uint64_t{seconds} * kNsPerSecond, 0});
  if (before.value_ns == 0) return 0;
  // Rounded, but never to "no alarm".
  return std::max<uint64_t>((before.value_ns + kNsPerSecond / 2) / kNsPerSecond, 1);
}

SyscallResult sys_getitimer(CurrentTask& task, int which, UserOut<IntervalTimerValue> value) {
  if (!is_interval_timer(which)) return Errno(EINVAL);
  return task.copy_out(value, to_timer_value(get_interval_timer(task, which)));
}

SyscallResult sys_setitimer(CurrentTask& task, int which, UserIn<IntervalTimerValue> value,
                            UserOut<IntervalTimerValue> old_value) {
  IntervalTimerValue wanted;
  if (!value.is_null()) {
    wanted = TRY(task.copy_in(value));
    if (!is_valid(wanted.value) || !is_valid(wanted.interval)) return Errno(EINVAL);
  }
  if (!is_interval_timer(which)) return Errno(EINVAL);
  Remaining before = get_interval_timer(task, which);
  set_interval_timer(task, which, {to_ns(wanted.value), to_ns(wanted.interval)});
  if (!old_value.is_null()) TRY(task.copy_out(old_value, to_timer_value(before)));
  return 0;
}

SyscallResult sys_timer_create(CurrentTask& task, int clock, UserIn<SignalEvent> user_event,
                               UserOut<int> user_id) {
  bool is_known = is_cpu_clock(clock) || clock == CLOCK_REALTIME || clock == CLOCK_MONOTONIC ||
                  clock == CLOCK_BOOTTIME || clock == CLOCK_TAI || clock == CLOCK_REALTIME_ALARM ||
                  clock == CLOCK_BOOTTIME_ALARM;
  if (!is_known) return is_host_clock(clock) ? Errno(EOPNOTSUPP) : Errno(EINVAL);
  if (is_cpu_clock(clock)) (void)TRY(find_cpu_clock(task.task(), clock));
  if (clock == CLOCK_REALTIME_ALARM || clock == CLOCK_BOOTTIME_ALARM)
    TRY(task.credentials().require(Capability::kWakeAlarm));
  PosixTimer::Event event;
  event.value_is_id = user_event.is_null();
  RefOrNull<Task> target;
  if (!user_event.is_null()) {
    SignalEvent given = TRY(task.copy_in(user_event));
    constexpr int kSignal = 0, kNone = 1, kThread = 2, kThreadId = 4;
    if (given.notify != kSignal && given.notify != kNone && given.notify != kThread &&
        given.notify != (kSignal | kThreadId))
      return Errno(EINVAL);
    if (given.notify != kNone && !is_valid_signal(given.signo)) return Errno(EINVAL);
    if ((given.notify & kThreadId) != 0) {
      target = task.kernel().tasks().find_task(given.thread_id);
      if (!target || &target->group != &task.group()) return Errno(EINVAL);
    }
    event.notify = given.notify == kNone ? TimerNotify::kNone : TimerNotify::kSignal;
    event.signo = given.signo;
    event.value = given.value;
  }
  auto timer =
      make_ref<PosixTimer>(task.kernel().events(), clock, event, task.group(), std::move(target));
  ProcessTimers& timers = *task.group().timers;
  Result<int> id = timers.add(timer, task.limit(RLIMIT_SIGPENDING));
  if (!id.ok()) {
    timer->detach();
    return id.error();
  }
  if (Result<void> stored = task.copy_out(user_id, id.value()); !stored.ok()) {
    timers.remove(id.value());
    timer->detach();
    return stored.error();
  }
  return 0;
}

SyscallResult sys_timer_settime(CurrentTask& task, int id, int flags,
                                UserIn<IntervalTimerSpec> value,
                                UserOut<IntervalTimerSpec> old_value) {
  if (value.is_null()) return Errno(EINVAL);
  IntervalTimerSpec wanted = TRY(task.copy_in(value));
  if (!is_valid(wanted.value) || !is_valid(wanted.interval)) return Errno(EINVAL);
  RefOrNull<PosixTimer> timer = task.group().timers->find(id);
  if (!timer) return Errno(EINVAL);
  Remaining before = get_posix_timer(task, *timer);
  TRY(set_posix_timer(task, *timer, {to_ns(wanted.value), to_ns(wanted.interval)},
                      (flags & TIMER_ABSTIME) != 0));
  if (!old_value.is_null()) TRY(task.copy_out(old_value, to_timer_spec(before)));
  return 0;
}

SyscallResult sys_timer_gettime(CurrentTask& task, int id, UserOut<IntervalTimerSpec> value) {
  RefOrNull<PosixTimer> timer = task.group().timers->find(id);
  if (!timer) return Errno(EINVAL);
  return task.copy_out(value, to_timer_spec(get_posix_timer(task, *timer)));
}

SyscallResult sys_timer_getoverrun(CurrentTask& task, int id) {
  RefOrNull<PosixTimer> timer = task.group().timers->find(id);
  if (!timer) return Errno(EINVAL);
  return timer->overrun();
}

SyscallResult sys_timer_delete(CurrentTask& task, int id) {
  RefOrNull<PosixTimer> timer = task.group().timers->remove(id);
  if (!timer) return Errno(EINVAL);
  if (RefOrNull<CpuTimers> cpu = task.group().timers->cpu_if_any()) cpu->remove_posix(*timer);
  timer->detach();
  return 0;
}

}  // namespace caisson
