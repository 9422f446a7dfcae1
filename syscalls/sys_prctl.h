#pragma once

#include "abi/user_ptr.h"
#include "kernel/current_task.h"
#include "kernel/syscall_result.h"

namespace caisson {

SyscallResult sys_prctl(CurrentTask& task, int option, uint64_t arg2, uint64_t arg3, uint64_t arg4,
                        uint64_t arg5);
SyscallResult sys_arch_prctl(CurrentTask& task, int option, uint64_t argument);

}  // namespace caisson
