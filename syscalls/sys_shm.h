// System V shared memory, shmget(2), shmop(2), shmctl(2).
#pragma once

#include "abi/ipc.h"
#include "abi/user_ptr.h"
#include "kernel/current_task.h"
#include "kernel/syscall_result.h"

namespace caisson {

SyscallResult sys_shmget(CurrentTask& task, int key, uint64_t size, int flags);
SyscallResult sys_shmat(CurrentTask& task, int id, uint64_t addr, int flags);
SyscallResult sys_shmdt(CurrentTask& task, uint64_t addr);
// `buffer`: what it points to depends on the command.
SyscallResult sys_shmctl(CurrentTask& task, int id, int command, uint64_t buffer);

}  // namespace caisson
