#pragma once

#include "abi/process.h"
#include "abi/user_ptr.h"
#include "kernel/current_task.h"
#include "kernel/syscall_result.h"

namespace caisson {

SyscallResult sys_clone(CurrentTask& task, uint64_t flags, uint64_t stack, UserOut<int> parent_tid,
                        UserOut<int> child_tid, uint64_t tls);
SyscallResult sys_clone3(CurrentTask& task, UserIn<CloneArguments> args, size_t size);
SyscallResult sys_fork(CurrentTask& task);
SyscallResult sys_vfork(CurrentTask& task);
SyscallResult sys_execve(CurrentTask& task, UserCString path, UserIn<uint64_t> argv,
                         UserIn<uint64_t> envp);
SyscallResult sys_execveat(CurrentTask& task, int directory, UserCString path,
                           UserIn<uint64_t> argv, UserIn<uint64_t> envp, int flags);
SyscallResult sys_exit(CurrentTask& task, int status);
SyscallResult sys_exit_group(CurrentTask& task, int status);

}  // namespace caisson
