#pragma once

#include "abi/time.h"
#include "abi/user_ptr.h"
#include "kernel/current_task.h"
#include "kernel/syscall_result.h"

namespace caisson {

struct SignalEvent {  // struct sigevent
  uint64_t value = 0;
  int32_t signo = 0;
  int32_t notify = 0;
  int32_t thread_id = 0;
  int32_t pad[11] = {};
};
static_assert(sizeof(SignalEvent) == 64);

SyscallResult sys_alarm(CurrentTask& task, uint32_t seconds);
SyscallResult sys_getitimer(CurrentTask& task, int which, UserOut<IntervalTimerValue> value);
SyscallResult sys_setitimer(CurrentTask& task, int which, UserIn<IntervalTimerValue> value,
                            UserOut<IntervalTimerValue> old_value);
SyscallResult sys_timer_create(CurrentTask& task, int clock, UserIn<SignalEvent> event,
                               UserOut<int> id);
SyscallResult sys_timer_settime(CurrentTask& task, int id, int flags,
                                UserIn<IntervalTimerSpec> value,
                                UserOut<IntervalTimerSpec> old_value);
SyscallResult sys_timer_gettime(CurrentTask& task, int id, UserOut<IntervalTimerSpec> value);
SyscallResult sys_timer_getoverrun(CurrentTask& task, int id);
SyscallResult sys_timer_delete(CurrentTask& task, int id);

}  // namespace caisson
