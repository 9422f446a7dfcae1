#pragma once

#include "abi/user_ptr.h"
#include "kernel/current_task.h"
#include "kernel/syscall_result.h"

namespace caisson {

SyscallResult sys_mmap(CurrentTask& task, uint64_t addr, uint64_t length, int prot, int flags,
                       int fd, uint64_t offset);
SyscallResult sys_munmap(CurrentTask& task, uint64_t addr, uint64_t length);
SyscallResult sys_mprotect(CurrentTask& task, uint64_t addr, uint64_t length, int prot);
SyscallResult sys_pkey_mprotect(CurrentTask& task, uint64_t addr, uint64_t length, int prot,
                                int key);
SyscallResult sys_mremap(CurrentTask& task, uint64_t old_addr, uint64_t old_length,
                         uint64_t new_length, int flags, uint64_t new_addr);
SyscallResult sys_madvise(CurrentTask& task, uint64_t addr, uint64_t length, int advice);
SyscallResult sys_brk(CurrentTask& task, uint64_t addr);
SyscallResult sys_msync(CurrentTask& task, uint64_t addr, uint64_t length, int flags);
SyscallResult sys_mincore(CurrentTask& task, uint64_t addr, uint64_t length,
                          UserOut<uint8_t> pages);
SyscallResult sys_mlock(CurrentTask& task, uint64_t addr, uint64_t length);
SyscallResult sys_mlock2(CurrentTask& task, uint64_t addr, uint64_t length, int flags);
SyscallResult sys_munlock(CurrentTask& task, uint64_t addr, uint64_t length);
SyscallResult sys_mlockall(CurrentTask& task, int flags);
SyscallResult sys_munlockall(CurrentTask& task);
SyscallResult sys_get_mempolicy(CurrentTask& task, UserOut<int> policy, UserOut<uint64_t> nodes,
                                uint64_t max_node, uint64_t addr, uint64_t flags);

// sys_process_vm.cc
SyscallResult sys_process_vm_readv(CurrentTask& task, int pid, uint64_t local, uint64_t local_count,
                                   uint64_t remote, uint64_t remote_count, uint64_t flags);
SyscallResult sys_process_vm_writev(CurrentTask& task, int pid, uint64_t local,
                                    uint64_t local_count, uint64_t remote, uint64_t remote_count,
                                    uint64_t flags);

}  // namespace caisson
