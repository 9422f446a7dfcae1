#pragma once

#include "abi/time.h"
#include "abi/user_ptr.h"
#include "kernel/current_task.h"
#include "kernel/syscall_result.h"

namespace caisson {

struct FutexWaitV {  // struct futex_waitv
  uint64_t value = 0;
  uint64_t address = 0;
  uint32_t flags = 0;
  uint32_t reserved = 0;
};
static_assert(sizeof(FutexWaitV) == 24);

SyscallResult sys_futex(CurrentTask& task, uint64_t address, int op, uint32_t value,
                        uint64_t timeout_or_count, uint64_t address2, uint32_t value3);
SyscallResult sys_futex_waitv(CurrentTask& task, UserIn<FutexWaitV> waiters, uint32_t count,
                              uint32_t flags, UserIn<TimeSpec> timeout, int clock);
SyscallResult sys_set_robust_list(CurrentTask& task, uint64_t head, size_t size);
SyscallResult sys_get_robust_list(CurrentTask& task, int pid, UserOut<uint64_t> head,
                                  UserOut<size_t> size);
SyscallResult sys_set_tid_address(CurrentTask& task, uint64_t address);

}  // namespace caisson
