// The clocks that clock_gettime(2) and timers know, CPU-time clocks of tasks and processes
// included. Linux: kernel/time/posix-timers.c, posix-cpu-timers.c.
#pragma once

#include <cstdint>

#include "base/ref.h"
#include "base/result.h"
#include "kernel/thread_group.h"

namespace caisson {

class Kernel;
class Task;

// A CPU-time clock and what it measures.
struct CpuClock {
  RefOrNull<ThreadGroup> group;
  RefOrNull<Task> task;  // of this task alone, else of the group
  uint64_t now_ns() const;
};
bool is_cpu_clock(int32_t clock);
// EINVAL: no such clock, or a task that `self` may not measure.
Result<CpuClock> find_cpu_clock(Task& self, int32_t clock);

// Whether the host has this clock and guests may read it.
bool is_host_clock(int32_t clock);
Result<uint64_t> read_clock(Task& self, int32_t clock);

uint64_t process_cpu_ns(ThreadGroup& group);

}  // namespace caisson
