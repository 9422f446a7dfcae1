#include "kernel/task_clock.h"

#include <time.h>

#include "kernel/kernel.h"
#include "kernel/task.h"
#include "kernel/time/clock.h"

namespace caisson {

uint64_t process_cpu_ns(ThreadGroup& group) {
  MutexLock lock(group.mu);
  uint64_t used = group.dead_cpu_ns;
  for (Task* task : group.tasks) used += task->cpu_time_ns();
  return used;
}

uint64_t CpuClock::now_ns() const { return task ? task->cpu_time_ns() : process_cpu_ns(*group); }

bool is_cpu_clock(int32_t clock) {
  return clock == CLOCK_PROCESS_CPUTIME_ID || clock == CLOCK_THREAD_CPUTIME_ID || clock < 0;
}

Result<CpuClock> find_cpu_clock(Task& self, int32_t clock) {
  CpuClock result;
  if (clock == CLOCK_PROCESS_CPUTIME_ID) {
    result.group = RefOrNull<ThreadGroup>(&self.group);
    return result;
  }
  if (clock == CLOCK_THREAD_CPUTIME_ID) {
    result.task = RefOrNull<Task>(&self);
    return result;
  }
  // Negative numbers carry a pid: ~pid << 3 | per-thread << 2 | kind.
  constexpr int32_t kKindMask = 3, kPerThread = 4, kKindFd = 3;
  if (clock >= 0 || (clock & kKindMask) == kKindFd) return Errno(EINVAL);
  int32_t id = ~(clock >> 3);
  bool is_per_thread = (clock & kPerThread) != 0;
  if (id == 0) {
    if (is_per_thread)
      result.task = RefOrNull<Task>(&self);
    else
      result.group = RefOrNull<ThreadGroup>(&self.group);
    return result;
  }
  MutexLock tree(task_tree_mu);
  Task* task = self.kernel.tasks().find_task_locked(id);
  if (task == nullptr) return Errno(EINVAL);
  if (is_per_thread) {
    if (&task->group != &self.group) return Errno(EINVAL);
    result.task = RefOrNull<Task>(task);
  } else {
    if (task->group.id != id) return Errno(EINVAL);
    result.group = task->group_ref.or_null();
  }
  return result;
}

bool is_host_clock(int32_t clock) {
  switch (clock) {
    case CLOCK_REALTIME:
    case CLOCK_MONOTONIC:
    case CLOCK_MONOTONIC_RAW:
    case CLOCK_REALTIME_COARSE:
    case CLOCK_MONOTONIC_COARSE:
    case CLOCK_BOOTTIME:
    case CLOCK_REALTIME_ALARM:
    case CLOCK_BOOTTIME_ALARM:
    case CLOCK_TAI:
      return true;
    default:
      return false;
  }
}

Result<uint64_t> read_clock(Task& self, int32_t clock) {
  if (is_host_clock(clock)) {
    // The alarm clocks show the same time without needing an alarm device.
    if (clock == CLOCK_REALTIME_ALARM) clock = CLOCK_REALTIME;
    if (clock == CLOCK_BOOTTIME_ALARM) clock = CLOCK_BOOTTIME;
    return host_clock_ns(clock);
  }
  if (!is_cpu_clock(clock)) return Errno(EINVAL);
  return TRY(find_cpu_clock(self, clock)).now_ns();
}

}  // namespace caisson
