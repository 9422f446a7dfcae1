#pragma once

#include "abi/signal.h"
#include "abi/time.h"
#include "abi/user_ptr.h"
#include "kernel/current_task.h"
#include "kernel/syscall_result.h"

namespace caisson {

SyscallResult sys_rt_sigaction(CurrentTask& task, int signo, UserIn<SigAction> action,
                               UserOut<SigAction> old_action, size_t set_size);
SyscallResult sys_rt_sigprocmask(CurrentTask& task, int how, UserIn<uint64_t> set,
                                 UserOut<uint64_t> old_set, size_t set_size);
SyscallResult sys_rt_sigpending(CurrentTask& task, UserOut<uint64_t> set, size_t set_size);
SyscallResult sys_rt_sigsuspend(CurrentTask& task, UserIn<uint64_t> set, size_t set_size);
SyscallResult sys_rt_sigtimedwait(CurrentTask& task, UserIn<uint64_t> set, UserOut<SigInfo> info,
                                  UserIn<TimeSpec> timeout, size_t set_size);
SyscallResult sys_rt_sigqueueinfo(CurrentTask& task, int pid, int signo, UserIn<SigInfo> info);
SyscallResult sys_rt_tgsigqueueinfo(CurrentTask& task, int tgid, int tid, int signo,
                                    UserIn<SigInfo> info);
SyscallResult sys_rt_sigreturn(CurrentTask& task);
SyscallResult sys_sigaltstack(CurrentTask& task, UserIn<SignalStack> stack,
                              UserOut<SignalStack> old_stack);
SyscallResult sys_kill(CurrentTask& task, int pid, int signo);
SyscallResult sys_tkill(CurrentTask& task, int tid, int signo);
SyscallResult sys_tgkill(CurrentTask& task, int tgid, int tid, int signo);
SyscallResult sys_pause(CurrentTask& task);
SyscallResult sys_restart_syscall(CurrentTask& task);

}  // namespace caisson
