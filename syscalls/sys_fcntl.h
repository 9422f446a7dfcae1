#pragma once

#include "abi/user_ptr.h"
#include "kernel/current_task.h"
#include "kernel/syscall_result.h"

namespace caisson {

SyscallResult sys_dup(CurrentTask& task, uint32_t fd);
SyscallResult sys_dup2(CurrentTask& task, uint32_t old_fd, uint32_t new_fd);
SyscallResult sys_dup3(CurrentTask& task, uint32_t old_fd, uint32_t new_fd, int flags);
SyscallResult sys_fcntl(CurrentTask& task, uint32_t fd, uint32_t command, uint64_t argument);
SyscallResult sys_flock(CurrentTask& task, uint32_t fd, uint32_t operation);
SyscallResult sys_ioctl(CurrentTask& task, uint32_t fd, uint32_t request, uint64_t argument);
SyscallResult sys_pipe(CurrentTask& task, UserOut<int> fds);
SyscallResult sys_pipe2(CurrentTask& task, UserOut<int> fds, int flags);
SyscallResult sys_eventfd(CurrentTask& task, uint32_t initial);
SyscallResult sys_eventfd2(CurrentTask& task, uint32_t initial, int flags);

}  // namespace caisson
