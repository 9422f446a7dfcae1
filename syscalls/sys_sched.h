#pragma once

#include "abi/time.h"
#include "abi/user_ptr.h"
#include "kernel/current_task.h"
#include "kernel/syscall_result.h"

namespace caisson {

struct SchedAttributes {  // struct sched_attr, first version and utilisation clamps
  uint32_t size = 0;
  uint32_t policy = 0;
  uint64_t flags = 0;
  int32_t nice = 0;
  uint32_t priority = 0;
  uint64_t runtime = 0, deadline = 0, period = 0;
  uint32_t util_min = 0, util_max = 0;
};
static_assert(sizeof(SchedAttributes) == 56);

SyscallResult sys_sched_yield(CurrentTask& task);
SyscallResult sys_sched_getaffinity(CurrentTask& task, int pid, uint32_t length,
                                    UserOut<uint8_t> mask);
SyscallResult sys_sched_setaffinity(CurrentTask& task, int pid, uint32_t length,
                                    UserIn<uint8_t> mask);
SyscallResult sys_sched_getscheduler(CurrentTask& task, int pid);
SyscallResult sys_sched_setscheduler(CurrentTask& task, int pid, int policy,
                                     UserIn<int> parameters);
SyscallResult sys_sched_getparam(CurrentTask& task, int pid, UserOut<int> parameters);
SyscallResult sys_sched_setparam(CurrentTask& task, int pid, UserIn<int> parameters);
SyscallResult sys_sched_get_priority_max(CurrentTask& task, int policy);
SyscallResult sys_sched_get_priority_min(CurrentTask& task, int policy);
SyscallResult sys_sched_rr_get_interval(CurrentTask& task, int pid, UserOut<TimeSpec> interval);
SyscallResult sys_sched_getattr(CurrentTask& task, int pid, UserOut<SchedAttributes> attributes,
                                uint32_t size, uint32_t flags);
SyscallResult sys_sched_setattr(CurrentTask& task, int pid, UserInOut<SchedAttributes> attributes,
                                uint32_t flags);
SyscallResult sys_getpriority(CurrentTask& task, int which, int who);
SyscallResult sys_setpriority(CurrentTask& task, int which, int who, int nice);
SyscallResult sys_ioprio_get(CurrentTask& task, int which, int who);
SyscallResult sys_ioprio_set(CurrentTask& task, int which, int who, int priority);

}  // namespace caisson
