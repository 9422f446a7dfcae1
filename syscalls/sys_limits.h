#pragma once

#include "abi/process.h"
#include "abi/user_ptr.h"
#include "kernel/current_task.h"
#include "kernel/resource_limits.h"
#include "kernel/syscall_result.h"

namespace caisson {

SyscallResult sys_getrlimit(CurrentTask& task, uint32_t resource, UserOut<ResourceLimit> limit);
SyscallResult sys_setrlimit(CurrentTask& task, uint32_t resource, UserIn<ResourceLimit> limit);
SyscallResult sys_prlimit64(CurrentTask& task, int pid, uint32_t resource,
                            UserIn<ResourceLimit> limit, UserOut<ResourceLimit> old_limit);
SyscallResult sys_getrusage(CurrentTask& task, int who, UserOut<ResourceUsage> usage);

}  // namespace caisson
