#pragma once

#include <time.h>

#include "abi/user_ptr.h"
#include "kernel/current_task.h"
#include "kernel/syscall_result.h"
#include "vfs/epoll.h"

struct pollfd;

namespace caisson {

SyscallResult sys_poll(CurrentTask& task, UserInOut<uint64_t> fds, uint32_t count, int timeout_ms);
SyscallResult sys_ppoll(CurrentTask& task, UserInOut<uint64_t> fds, uint32_t count,
                        UserInOut<timespec> timeout, UserIn<uint64_t> mask, size_t mask_size);
SyscallResult sys_select(CurrentTask& task, int count, UserInOut<uint64_t> in,
                         UserInOut<uint64_t> out, UserInOut<uint64_t> except,
                         UserInOut<timeval> timeout);
SyscallResult sys_pselect6(CurrentTask& task, int count, UserInOut<uint64_t> in,
                           UserInOut<uint64_t> out, UserInOut<uint64_t> except,
                           UserInOut<timespec> timeout, UserIn<uint64_t> mask_and_size);
SyscallResult sys_epoll_create(CurrentTask& task, int size);
SyscallResult sys_epoll_create1(CurrentTask& task, int flags);
SyscallResult sys_epoll_ctl(CurrentTask& task, int epoll_fd, int operation, int fd,
                            UserIn<EpollEvent> event);
SyscallResult sys_epoll_wait(CurrentTask& task, int epoll_fd, UserOut<EpollEvent> events, int max,
                             int timeout_ms);
SyscallResult sys_epoll_pwait(CurrentTask& task, int epoll_fd, UserOut<EpollEvent> events, int max,
                              int timeout_ms, UserIn<uint64_t> mask, size_t mask_size);
SyscallResult sys_epoll_pwait2(CurrentTask& task, int epoll_fd, UserOut<EpollEvent> events, int max,
                               UserIn<timespec> timeout, UserIn<uint64_t> mask, size_t mask_size);

}  // namespace caisson
