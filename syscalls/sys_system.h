#pragma once

#include "abi/process.h"
#include "abi/user_ptr.h"
#include "kernel/current_task.h"
#include "kernel/syscall_result.h"

namespace caisson {

SyscallResult sys_uname(CurrentTask& task, UserOut<UtsName> name);
SyscallResult sys_sethostname(CurrentTask& task, UserIn<char> name, int length);
SyscallResult sys_setdomainname(CurrentTask& task, UserIn<char> name, int length);
SyscallResult sys_sysinfo(CurrentTask& task, UserOut<SystemInfo> info);
SyscallResult sys_getrandom(CurrentTask& task, UserOut<uint8_t> buffer, size_t length,
                            uint32_t flags);
SyscallResult sys_getcpu(CurrentTask& task, UserOut<uint32_t> cpu, UserOut<uint32_t> node);
SyscallResult sys_syslog(CurrentTask& task, int type, UserOut<char> buffer, int length);
SyscallResult sys_membarrier(CurrentTask& task, int command, uint32_t flags, int cpu);
SyscallResult sys_rseq(CurrentTask& task, uint64_t area, uint32_t length, int flags,
                       uint32_t signature);
SyscallResult sys_personality(CurrentTask& task, uint32_t persona);
SyscallResult sys_unshare(CurrentTask& task, uint64_t flags);
SyscallResult sys_setns(CurrentTask& task, int fd, int type);
SyscallResult sys_kcmp(CurrentTask& task, int pid1, int pid2, int type, uint64_t index1,
                       uint64_t index2);

}  // namespace caisson
