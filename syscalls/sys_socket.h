#pragma once

#include "abi/socket.h"
#include "abi/user_ptr.h"
#include "kernel/current_task.h"
#include "kernel/syscall_result.h"
#include "net/socket.h"

namespace caisson {

SyscallResult sys_socket(CurrentTask& task, int family, int type, int protocol);
SyscallResult sys_socketpair(CurrentTask& task, int family, int type, int protocol,
                             UserOut<int> fds);
SyscallResult sys_bind(CurrentTask& task, int fd, UserIn<std::byte> address, int length);
SyscallResult sys_listen(CurrentTask& task, int fd, int backlog);
SyscallResult sys_accept(CurrentTask& task, int fd, UserOut<std::byte> address,
                         UserInOut<int32_t> length);
SyscallResult sys_accept4(CurrentTask& task, int fd, UserOut<std::byte> address,
                          UserInOut<int32_t> length, int flags);
SyscallResult sys_connect(CurrentTask& task, int fd, UserIn<std::byte> address, int length);
SyscallResult sys_getsockname(CurrentTask& task, int fd, UserOut<std::byte> address,
                              UserInOut<int32_t> length);
SyscallResult sys_getpeername(CurrentTask& task, int fd, UserOut<std::byte> address,
                              UserInOut<int32_t> length);
SyscallResult sys_sendto(CurrentTask& task, int fd, UserIn<std::byte> buffer, size_t count,
                         uint32_t flags, UserIn<std::byte> address, int length);
SyscallResult sys_recvfrom(CurrentTask& task, int fd, UserOut<std::byte> buffer, size_t count,
                           uint32_t flags, UserOut<std::byte> address, UserInOut<int32_t> length);
SyscallResult sys_sendmsg(CurrentTask& task, int fd, UserIn<abi::MessageHeader> message,
                          uint32_t flags);
SyscallResult sys_recvmsg(CurrentTask& task, int fd, UserInOut<abi::MessageHeader> message,
                          uint32_t flags);
SyscallResult sys_shutdown(CurrentTask& task, int fd, int how);
SyscallResult sys_setsockopt(CurrentTask& task, int fd, int level, int name,
                             UserIn<std::byte> value, int length);
SyscallResult sys_getsockopt(CurrentTask& task, int fd, int level, int name,
                             UserOut<std::byte> value, UserInOut<int32_t> length);

// read(2), write(2) and their vector forms, on a socket.
SyscallResult read_socket(Ref<Socket> socket, CurrentTask& task, UserBuffer to, int flags);
SyscallResult write_socket(Ref<Socket> socket, CurrentTask& task, UserBuffer from, int flags);

}  // namespace caisson
