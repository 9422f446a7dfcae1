#pragma once

#include "abi/time.h"
#include "abi/user_ptr.h"
#include "kernel/current_task.h"
#include "kernel/syscall_result.h"

namespace caisson {

SyscallResult sys_time(CurrentTask& task, UserOut<int64_t> seconds);
SyscallResult sys_gettimeofday(CurrentTask& task, UserOut<TimeVal> time, UserOut<TimeZone> zone);
SyscallResult sys_settimeofday(CurrentTask& task, UserIn<TimeVal> time, UserIn<TimeZone> zone);
SyscallResult sys_clock_gettime(CurrentTask& task, int clock, UserOut<TimeSpec> time);
SyscallResult sys_clock_settime(CurrentTask& task, int clock, UserIn<TimeSpec> time);
SyscallResult sys_clock_getres(CurrentTask& task, int clock, UserOut<TimeSpec> resolution);
SyscallResult sys_nanosleep(CurrentTask& task, UserIn<TimeSpec> time, UserOut<TimeSpec> left);
SyscallResult sys_clock_nanosleep(CurrentTask& task, int clock, int flags, UserIn<TimeSpec> time,
                                  UserOut<TimeSpec> left);
SyscallResult sys_times(CurrentTask& task, UserOut<struct ProcessTimes> times);

}  // namespace caisson
