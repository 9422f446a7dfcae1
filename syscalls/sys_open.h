#pragma once

#include "abi/file.h"
#include "abi/user_ptr.h"
#include "kernel/current_task.h"
#include "kernel/syscall_result.h"

namespace caisson {

SyscallResult sys_open(CurrentTask& task, UserCString path, int flags, uint32_t mode);
SyscallResult sys_openat(CurrentTask& task, int dirfd, UserCString path, int flags, uint32_t mode);
SyscallResult sys_openat2(CurrentTask& task, int dirfd, UserCString path, UserIn<abi::OpenHow> how,
                          size_t size);
SyscallResult sys_creat(CurrentTask& task, UserCString path, uint32_t mode);
SyscallResult sys_close(CurrentTask& task, int fd);
SyscallResult sys_close_range(CurrentTask& task, uint32_t first, uint32_t last, uint32_t flags);
SyscallResult sys_memfd_create(CurrentTask& task, UserCString name, uint32_t flags);

}  // namespace caisson
