// Sockets, socket(2) and the calls on them. Linux: net/socket.c. Families: AF_UNIX; any other one
// is EAFNOSUPPORT.
#include "syscalls/sys_socket.h"

#include <fcntl.h>
#include <sys/resource.h>

#include <algorithm>

#include "kernel/run_operation.h"
#include "net/unix/unix_socket.h"
#include "syscalls/socket_message.h"
#include "syscalls/socket_operation.h"
#include "syscalls/task_caller.h"
#include "vfs/fd_table.h"

namespace caisson {
namespace {

constexpr int kTypeMask = 0xf;
constexpr int kTypeFlags = SOCK_CLOEXEC | SOCK_NONBLOCK;
constexpr uint64_t kMaxVectors = 1024;  // UIO_MAXIOV
constexpr size_t kMaxOption = 1024;     // longer than any option's value
// What the kernel alone may say, or must not be kept from the guest's flags.
constexpr uint32_t kInternalFlags = 0xffff0000u & ~(MSG_CMSG_CLOEXEC | MSG_FASTOPEN | MSG_ZEROCOPY);

Result<Ref<Socket>> get_socket(CurrentTask& task, int fd) {
  Ref<FileDescription> file = TRY(task.files().get(fd));
  RefOrNull<Socket> socket = as_socket(file);
  if (!socket) return Errno(ENOTSOCK);
  return Ref<Socket>::from(std::move(socket));
}

struct Wanted {
  int type;
  uint32_t file_flags;
  bool close_on_exec;
};
Result<Wanted> parse_type(int type) {
  if ((type & ~(kTypeMask | kTypeFlags)) != 0) return Errno(EINVAL);
  return Wanted{type & kTypeMask, (type & SOCK_NONBLOCK) != 0 ? uint32_t{O_NONBLOCK} : 0u,
                (type & SOCK_CLOEXEC) != 0};
}

Result<Ref<UnixSocket>> create(CurrentTask& task, int family, const Wanted& wanted, int protocol) {
  if (family < 0 || family >= AF_MAX) return Errno(EAFNOSUPPORT);
  if (wanted.type >= 11) return Errno(EINVAL);  // SOCK_MAX
  if (family != AF_UNIX) return Errno(EAFNOSUPPORT);
  return UnixSocket::create(wanted.type, protocol, wanted.file_flags, connector_of(task));
}

FdOptions fd_options(CurrentTask& task, const Wanted& wanted) {
  return {wanted.close_on_exec, 0, task.limit(RLIMIT_NOFILE)};
}

// The address of a send: null if there is none.
Result<RefOrNull<SocketPeer>> destination(CurrentTask& task, Socket& socket, GuestAddr addr,
                                          int length) {
  if (addr == 0 || length == 0) return RefOrNull<SocketPeer>();
  SocketAddress address = TRY(copy_in_address(task, addr, length));
  // Connected ones take none: streams say so, sequenced packets don't look.
  if (socket.type == SOCK_SEQPACKET) return RefOrNull<SocketPeer>();
  if (socket.type == SOCK_STREAM)
    return socket.connected_peer() ? Errno(EISCONN) : Errno(EOPNOTSUPP);
  TaskCaller caller(task);
  RefOrNull<SocketPeer> peer = TRY(socket.resolve(caller.caller(), address));
  if (!peer) return Errno(EINVAL);
  return peer;
}

}  // namespace

SyscallResult sys_socket(CurrentTask& task, int family, int type, int protocol) {
  Wanted wanted = TRY(parse_type(type));
  Ref<UnixSocket> socket = TRY(create(task, family, wanted, protocol));
  return task.files().install(socket, fd_options(task, wanted));
}

SyscallResult sys_socketpair(CurrentTask& task, int family, int type, int protocol,
                             UserOut<int> fds) {
  Wanted wanted = TRY(parse_type(type));
  Ref<UnixSocket> a = TRY(create(task, family, wanted, protocol));
  Ref<UnixSocket> b = TRY(create(task, family, wanted, protocol));
  UnixSocket::connect_pair(*a, *b);
  int numbers[2];
  TRY(task.files().install_two(a, b, fd_options(task, wanted), numbers));
  Result<void> told = task.copy_out_bytes(fds.addr(), numbers, sizeof numbers);
  if (!told.ok()) {
    for (int number : numbers) task.files().remove(number).ok();
  }
  return told;
}

SyscallResult sys_bind(CurrentTask& task, int fd, UserIn<std::byte> address, int length) {
  Ref<Socket> socket = TRY(get_socket(task, fd));
  SocketAddress name = TRY(copy_in_address(task, address.addr(), length));
  TaskCaller caller(task);
  return socket->bind(caller.caller(), name);
}

SyscallResult sys_listen(CurrentTask& task, int fd, int backlog) {
  return TRY(get_socket(task, fd))->listen(backlog, connector_of(task));
}

SyscallResult sys_accept(CurrentTask& task, int fd, UserOut<std::byte> address,
                         UserInOut<int32_t> length) {
  return sys_accept4(task, fd, address, length, 0);
}

SyscallResult sys_accept4(CurrentTask& task, int fd, UserOut<std::byte> address,
                          UserInOut<int32_t> length, int flags) {
  if ((flags & ~kTypeFlags) != 0) return Errno(EINVAL);
  Ref<Socket> socket = TRY(get_socket(task, fd));
  return run(task, AcceptOperation(std::move(socket), address.addr(), length, flags));
}

SyscallResult sys_connect(CurrentTask& task, int fd, UserIn<std::byte> address, int length) {
  Ref<Socket> socket = TRY(get_socket(task, fd));
  SocketAddress name = TRY(copy_in_address(task, address.addr(), length));
  TaskCaller caller(task);
  RefOrNull<SocketPeer> peer = TRY(socket->resolve(caller.caller(), name));
  return run(task, ConnectOperation(std::move(socket), std::move(peer), connector_of(task)));
}

SyscallResult sys_getsockname(CurrentTask& task, int fd, UserOut<std::byte> address,
                              UserInOut<int32_t> length) {
  Ref<Socket> socket = TRY(get_socket(task, fd));
  return copy_out_address_and_length(task, address.addr(), length, socket->local_address());
}

SyscallResult sys_getpeername(CurrentTask& task, int fd, UserOut<std::byte> address,
                              UserInOut<int32_t> length) {
  Ref<Socket> socket = TRY(get_socket(task, fd));
  SocketAddress name = TRY(socket->peer_address());
  return copy_out_address_and_length(task, address.addr(), length, name);
}

SyscallResult sys_sendto(CurrentTask& task, int fd, UserIn<std::byte> buffer, size_t count,
                         uint32_t flags, UserIn<std::byte> address, int length) {
  UserBuffer data = TRY(UserBuffer::create(task.mm(), buffer.addr(), count));
  Ref<Socket> socket = TRY(get_socket(task, fd));
  RefOrNull<SocketPeer> to = TRY(destination(task, *socket, address.addr(), length));
  return run(task, SendOperation(std::move(socket), std::move(data),
                                 static_cast<int>(flags & ~kInternalFlags), std::move(to),
                                 sender_of(task), false, {}));
}

SyscallResult sys_recvfrom(CurrentTask& task, int fd, UserOut<std::byte> buffer, size_t count,
                           uint32_t flags, UserOut<std::byte> address, UserInOut<int32_t> length) {
  UserBuffer to = TRY(UserBuffer::create(task.mm(), buffer.addr(), count));
  Ref<Socket> socket = TRY(get_socket(task, fd));
  ReceiveOperation::Places places;
  places.name = address.addr();
  places.name_length = length;
  return run(task, ReceiveOperation(std::move(socket), std::move(to),
                                    static_cast<int>(flags & ~kInternalFlags), places));
}

SyscallResult sys_sendmsg(CurrentTask& task, int fd, UserIn<abi::MessageHeader> message,
                          uint32_t flags) {
  if ((flags & 0x80000000u) != 0) return Errno(EINVAL);  // MSG_CMSG_COMPAT
  Ref<Socket> socket = TRY(get_socket(task, fd));
  abi::MessageHeader header = TRY(task.copy_in(message));
  if (header.name_length < 0) return Errno(EINVAL);
  const int name_length = std::min<int>(header.name_length, abi::kMaxSocketAddress);
  if (header.vector_count > kMaxVectors) return Errno(EMSGSIZE);
  UserBuffer data = TRY(UserBuffer::create_vector(task.mm(), header.vector, header.vector_count));
  SentControl control = TRY(copy_in_control(task, header));
  RefOrNull<SocketPeer> to = TRY(destination(task, *socket, header.name, name_length));
  return run(task,
             SendOperation(std::move(socket), std::move(data),
                           static_cast<int>(flags & ~kInternalFlags), std::move(to),
                           control.credentials, control.has_credentials, std::move(control.files)));
}

SyscallResult sys_recvmsg(CurrentTask& task, int fd, UserInOut<abi::MessageHeader> message,
                          uint32_t flags) {
  if ((flags & 0x80000000u) != 0) return Errno(EINVAL);  // MSG_CMSG_COMPAT
  Ref<Socket> socket = TRY(get_socket(task, fd));
  abi::MessageHeader header = TRY(task.copy_in(message));
  if (header.name_length < 0) return Errno(EINVAL);
  if (header.vector_count > kMaxVectors) return Errno(EMSGSIZE);
  UserBuffer to = TRY(UserBuffer::create_vector(task.mm(), header.vector, header.vector_count));
  ReceiveOperation::Places places;
  places.header = UserOut<abi::MessageHeader>(message.addr());
  places.name = header.name;
  places.name_room = static_cast<uint32_t>(header.name_length);
  places.control = header.control;
  places.control_room = header.control_length;
  return run(task, ReceiveOperation(std::move(socket), std::move(to),
                                    static_cast<int>(flags & ~kInternalFlags) |
                                        static_cast<int>(flags & MSG_CMSG_CLOEXEC),
                                    places));
}

SyscallResult sys_shutdown(CurrentTask& task, int fd, int how) {
  return TRY(get_socket(task, fd))->shutdown(how);
}

SyscallResult sys_setsockopt(CurrentTask& task, int fd, int level, int name,
                             UserIn<std::byte> value, int length) {
  if (length < 0) return Errno(EINVAL);
  Ref<Socket> socket = TRY(get_socket(task, fd));
  if (level != SOL_SOCKET) return Errno(EOPNOTSUPP);
  std::vector<std::byte> bytes =
      TRY(task.copy_in_array(value, std::min<size_t>(static_cast<size_t>(length), kMaxOption)));
  return socket->set_option(name, bytes, task.credentials());
}

SyscallResult sys_getsockopt(CurrentTask& task, int fd, int level, int name,
                             UserOut<std::byte> value, UserInOut<int32_t> length) {
  Ref<Socket> socket = TRY(get_socket(task, fd));
  if (level != SOL_SOCKET) return Errno(EOPNOTSUPP);
  const int32_t room = TRY(task.copy_in(length));
  if (room < 0) return Errno(EINVAL);
  std::vector<std::byte> bytes = TRY(socket->get_option(name));
  const size_t count = std::min(bytes.size(), static_cast<size_t>(room));
  TRY(task.copy_out_bytes(value.addr(), bytes.data(), count));
  return task.copy_out(length, static_cast<int32_t>(count));
}

SyscallResult read_socket(Ref<Socket> socket, CurrentTask& task, UserBuffer to, int flags) {
  if (to.remaining() == 0) return 0;
  return run(task, ReceiveOperation(std::move(socket), std::move(to), flags, {}));
}

SyscallResult write_socket(Ref<Socket> socket, CurrentTask& task, UserBuffer from, int flags) {
  return run(task, SendOperation(std::move(socket), std::move(from), flags, nullptr,
                                 sender_of(task), false, {}));
}

}  // namespace caisson
