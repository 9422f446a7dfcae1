#pragma once

#include "abi/user_ptr.h"
#include "kernel/current_task.h"
#include "kernel/syscall_result.h"

namespace caisson {

SyscallResult sys_setxattr(CurrentTask& task, UserCString path, UserCString name,
                           UserIn<std::byte> value, size_t size, int flags);
SyscallResult sys_lsetxattr(CurrentTask& task, UserCString path, UserCString name,
                            UserIn<std::byte> value, size_t size, int flags);
SyscallResult sys_fsetxattr(CurrentTask& task, int fd, UserCString name, UserIn<std::byte> value,
                            size_t size, int flags);
SyscallResult sys_getxattr(CurrentTask& task, UserCString path, UserCString name,
                           UserOut<std::byte> value, size_t size);
SyscallResult sys_lgetxattr(CurrentTask& task, UserCString path, UserCString name,
                            UserOut<std::byte> value, size_t size);
SyscallResult sys_fgetxattr(CurrentTask& task, int fd, UserCString name, UserOut<std::byte> value,
                            size_t size);
SyscallResult sys_listxattr(CurrentTask& task, UserCString path, UserOut<char> list, size_t size);
SyscallResult sys_llistxattr(CurrentTask& task, UserCString path, UserOut<char> list, size_t size);
SyscallResult sys_flistxattr(CurrentTask& task, int fd, UserOut<char> list, size_t size);
SyscallResult sys_removexattr(CurrentTask& task, UserCString path, UserCString name);
SyscallResult sys_lremovexattr(CurrentTask& task, UserCString path, UserCString name);
SyscallResult sys_fremovexattr(CurrentTask& task, int fd, UserCString name);

}  // namespace caisson
