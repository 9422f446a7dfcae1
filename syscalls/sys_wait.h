#pragma once

#include "abi/process.h"
#include "abi/signal.h"
#include "abi/user_ptr.h"
#include "kernel/current_task.h"
#include "kernel/syscall_result.h"

namespace caisson {

SyscallResult sys_wait4(CurrentTask& task, int pid, UserOut<int> status, uint32_t options,
                        UserOut<ResourceUsage> usage);
SyscallResult sys_waitid(CurrentTask& task, int id_type, int id, UserOut<SigInfo> info,
                         uint32_t options, UserOut<ResourceUsage> usage);
SyscallResult sys_pidfd_open(CurrentTask& task, int pid, uint32_t flags);
SyscallResult sys_pidfd_send_signal(CurrentTask& task, int pidfd, int signo, UserIn<SigInfo> info,
                                    uint32_t flags);
SyscallResult sys_pidfd_getfd(CurrentTask& task, int pidfd, int target_fd, uint32_t flags);

}  // namespace caisson
