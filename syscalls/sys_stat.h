#pragma once

#include "abi/file.h"
#include "abi/user_ptr.h"
#include "kernel/current_task.h"
#include "kernel/syscall_result.h"

namespace caisson {

SyscallResult sys_stat(CurrentTask& task, UserCString path, UserOut<abi::Stat> result);
SyscallResult sys_lstat(CurrentTask& task, UserCString path, UserOut<abi::Stat> result);
SyscallResult sys_fstat(CurrentTask& task, int fd, UserOut<abi::Stat> result);
SyscallResult sys_newfstatat(CurrentTask& task, int dirfd, UserCString path,
                             UserOut<abi::Stat> result, int flags);
SyscallResult sys_statx(CurrentTask& task, int dirfd, UserCString path, uint32_t flags,
                        uint32_t mask, UserOut<abi::Statx> result);
SyscallResult sys_statfs(CurrentTask& task, UserCString path, UserOut<abi::Statfs> result);
SyscallResult sys_fstatfs(CurrentTask& task, int fd, UserOut<abi::Statfs> result);
SyscallResult sys_access(CurrentTask& task, UserCString path, int mode);
SyscallResult sys_faccessat(CurrentTask& task, int dirfd, UserCString path, int mode);
SyscallResult sys_faccessat2(CurrentTask& task, int dirfd, UserCString path, int mode, int flags);
SyscallResult sys_readlink(CurrentTask& task, UserCString path, UserOut<char> buffer, int size);
SyscallResult sys_readlinkat(CurrentTask& task, int dirfd, UserCString path, UserOut<char> buffer,
                             int size);

}  // namespace caisson
