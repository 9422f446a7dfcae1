#pragma once

#include "abi/user_ptr.h"
#include "kernel/current_task.h"
#include "kernel/syscall_result.h"

namespace caisson {

struct CapabilityHeader {  // struct __user_cap_header_struct
  uint32_t version = 0;
  int32_t pid = 0;
};
struct CapabilityData {  // struct __user_cap_data_struct
  uint32_t effective = 0, permitted = 0, inheritable = 0;
};

SyscallResult sys_getpid(CurrentTask& task);
SyscallResult sys_gettid(CurrentTask& task);
SyscallResult sys_getppid(CurrentTask& task);
SyscallResult sys_getpgrp(CurrentTask& task);
SyscallResult sys_getpgid(CurrentTask& task, int pid);
SyscallResult sys_setpgid(CurrentTask& task, int pid, int pgid);
SyscallResult sys_getsid(CurrentTask& task, int pid);
SyscallResult sys_setsid(CurrentTask& task);

SyscallResult sys_getuid(CurrentTask& task);
SyscallResult sys_geteuid(CurrentTask& task);
SyscallResult sys_getgid(CurrentTask& task);
SyscallResult sys_getegid(CurrentTask& task);
SyscallResult sys_getresuid(CurrentTask& task, UserOut<uint32_t> ruid, UserOut<uint32_t> euid,
                            UserOut<uint32_t> suid);
SyscallResult sys_getresgid(CurrentTask& task, UserOut<uint32_t> rgid, UserOut<uint32_t> egid,
                            UserOut<uint32_t> sgid);
SyscallResult sys_setuid(CurrentTask& task, uint32_t uid);
SyscallResult sys_setgid(CurrentTask& task, uint32_t gid);
SyscallResult sys_setreuid(CurrentTask& task, uint32_t ruid, uint32_t euid);
SyscallResult sys_setregid(CurrentTask& task, uint32_t rgid, uint32_t egid);
SyscallResult sys_setresuid(CurrentTask& task, uint32_t ruid, uint32_t euid, uint32_t suid);
SyscallResult sys_setresgid(CurrentTask& task, uint32_t rgid, uint32_t egid, uint32_t sgid);
SyscallResult sys_setfsuid(CurrentTask& task, uint32_t uid);
SyscallResult sys_setfsgid(CurrentTask& task, uint32_t gid);
SyscallResult sys_getgroups(CurrentTask& task, int count, UserOut<uint32_t> groups);
SyscallResult sys_setgroups(CurrentTask& task, int count, UserIn<uint32_t> groups);
SyscallResult sys_capget(CurrentTask& task, UserInOut<CapabilityHeader> header,
                         UserOut<CapabilityData> data);
SyscallResult sys_capset(CurrentTask& task, UserInOut<CapabilityHeader> header,
                         UserIn<CapabilityData> data);

}  // namespace caisson
