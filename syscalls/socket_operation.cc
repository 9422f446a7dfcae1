#include "syscalls/socket_operation.h"

#include <fcntl.h>
#include <sys/resource.h>

#include "abi/signal.h"
#include "host/event_loop.h"
#include "syscalls/socket_message.h"
#include "vfs/fd_table.h"

namespace caisson {
namespace {

std::optional<uint64_t> deadline_after(uint64_t timeout_ns) {
  if (timeout_ns == 0) return std::nullopt;
  return host::monotonic_ns() + timeout_ns;
}

}  // namespace

SocketOperation::SocketOperation(Ref<Socket> socket, int flags, uint64_t timeout_ns, EventMask mask)
    : socket_(std::move(socket)),
      flags_(flags | (socket_->is_nonblocking() ? MSG_DONTWAIT : 0)),
      nonblocking_((flags_ & MSG_DONTWAIT) != 0),
      mask_(mask | kEventAlways | kEventRdHup | kEventInternal),
      deadline_(deadline_after(timeout_ns)) {}

SocketOperation::SocketOperation(SocketOperation&& other) noexcept
    : socket_(other.socket_),
      flags_(other.flags_),
      nonblocking_(other.nonblocking_),
      mask_(other.mask_),
      deadline_(other.deadline_) {}

void SocketOperation::arm(CurrentTask&, Waiter& waiter) {
  entry_.waiter = other_entry_.waiter = &waiter;
  entry_.mask = other_entry_.mask = mask_;
  socket_->add_waiter(entry_);
  armed_other_ = other();
  if (armed_other_) armed_other_->add_waiter(other_entry_);
}

void SocketOperation::disarm() {
  socket_->remove_waiter(entry_);
  if (armed_other_) armed_other_->remove_waiter(other_entry_);
  armed_other_ = nullptr;
}

StepResult SocketOperation::timed_out(CurrentTask& task) {
  return so_far(task).value_or(StepResult(Errno(EAGAIN)));
}
StepResult SocketOperation::interrupted(CurrentTask& task) {
  return so_far(task).value_or(StepResult(Errno(deadline_ ? EINTR : kERESTARTSYS)));
}

// ---- Send.

SendOperation::SendOperation(Ref<Socket> socket, UserBuffer data, int flags,
                             RefOrNull<SocketPeer> to, abi::PeerCredentials self,
                             bool has_credentials, std::vector<Ref<FileDescription>> files)
    : SocketOperation(socket, flags, socket->send_timeout_ns(), kEventOut),
      data_(std::move(data)),
      to_(std::move(to)),
      self_(self),
      has_credentials_(has_credentials),
      files_(std::move(files)) {}

StepResult SendOperation::step(CurrentTask& task) {
  for (;;) {
    SendRequest request{data_, flags_, to_.get(), self_, has_credentials_, files_};
    Result<size_t> sent = socket_->send(request);
    if (!sent.ok()) {
      if (sent.error() == Errno(EAGAIN) && waits()) return MustWait{};
      if (done_ != 0) return done_;
      if (sent.error() == Errno(EPIPE) && socket_->raises_sigpipe() && (flags_ & MSG_NOSIGNAL) == 0)
        task.raise(SIGPIPE);
      return sent.error();
    }
    done_ += sent.value();
    if (!socket_->is_stream() || data_.remaining() == 0) return done_;
  }
}

std::optional<StepResult> SendOperation::so_far(CurrentTask&) {
  if (done_ == 0) return std::nullopt;
  return StepResult(done_);
}

// ---- Receive.

ReceiveOperation::ReceiveOperation(Ref<Socket> socket, UserBuffer to, int flags, Places places)
    : SocketOperation(socket, flags, socket->receive_timeout_ns(), kEventIn),
      to_(std::move(to)),
      places_(places) {}

StepResult ReceiveOperation::step(CurrentTask& task) {
  const bool wants_all = (flags_ & MSG_WAITALL) != 0 && (flags_ & MSG_PEEK) == 0 && waits();
  for (;;) {
    Result<Received> got = socket_->receive(to_, flags_);
    if (!got.ok()) {
      if (got.error() == Errno(EAGAIN) && waits()) return MustWait{};
      return any_ ? finish(task) : StepResult(got.error());
    }
    Received& more = got.value();
    const bool is_end = more.count == 0;
    if (any_) {
      got_.count += more.count;
      got_.files = std::move(more.files);
    } else {
      got_ = std::move(more);
      any_ = true;
    }
    if (!socket_->is_stream() || is_end || to_.remaining() == 0 || !got_.files.empty())
      return finish(task);
    if (!wants_all && got_.count >= socket_->receive_low_mark()) return finish(task);
    if (!waits() || (flags_ & MSG_PEEK) != 0) return finish(task);
  }
}

std::optional<StepResult> ReceiveOperation::so_far(CurrentTask& task) {
  if (!any_) return std::nullopt;
  return finish(task);
}

StepResult ReceiveOperation::finish(CurrentTask& task) {
  auto write = [&]() -> Result<void> {
    if (places_.header.is_null()) {
      if (places_.name == 0) return {};
      return copy_out_address_and_length(task, places_.name, places_.name_length, got_.from);
    }
    const GuestAddr header = places_.header.addr();
    ControlWritten control = TRY(copy_out_control(task, places_.control, places_.control_room, got_,
                                                  (flags_ & MSG_CMSG_CLOEXEC) != 0));
    if (places_.name != 0) {
      TRY(copy_out_address(task, places_.name, places_.name_room, got_.from));
      TRY(task.copy_out(UserOut<int32_t>(header + offsetof(abi::MessageHeader, name_length)),
                        static_cast<int32_t>(got_.from.length)));
    }
    uint32_t flags = static_cast<uint32_t>(got_.flags) | (control.truncated ? MSG_CTRUNC : 0) |
                     (static_cast<uint32_t>(flags_) & MSG_CMSG_CLOEXEC);
    TRY(task.copy_out(UserOut<uint32_t>(header + offsetof(abi::MessageHeader, flags)), flags));
    return task.copy_out(UserOut<uint64_t>(header + offsetof(abi::MessageHeader, control_length)),
                         control.length);
  };
  Result<void> written = write();
  if (!written.ok()) return written.error();
  return got_.count;
}

// ---- Accept and connect.

AcceptOperation::AcceptOperation(Ref<Socket> socket, GuestAddr address, UserInOut<int32_t> length,
                                 int flags)
    : SocketOperation(socket, 0, socket->receive_timeout_ns(), kEventIn),
      address_(address),
      length_(length),
      file_flags_(flags) {}

StepResult AcceptOperation::step(CurrentTask& task) {
  Result<Ref<Socket>> accepted =
      socket_->accept((file_flags_ & SOCK_NONBLOCK) != 0 ? O_NONBLOCK : 0);
  if (!accepted.ok()) {
    if (accepted.error() == Errno(EAGAIN) && waits()) return MustWait{};
    return accepted.error();
  }
  Ref<Socket> connection = std::move(accepted).value();
  if (address_ != 0) {
    Result<SocketAddress> peer = connection->peer_address();
    if (!peer.ok()) return Errno(ECONNABORTED);
    Result<void> told = copy_out_address_and_length(task, address_, length_, peer.value());
    if (!told.ok()) return told.error();
  }
  Result<int> fd = task.files().install(
      connection, {(file_flags_ & SOCK_CLOEXEC) != 0, 0, task.limit(RLIMIT_NOFILE)});
  if (!fd.ok()) return fd.error();
  return static_cast<uint64_t>(fd.value());
}

ConnectOperation::ConnectOperation(Ref<Socket> socket, RefOrNull<SocketPeer> to,
                                   abi::PeerCredentials self)
    : SocketOperation(socket, 0, socket->send_timeout_ns(), kEventOut),
      to_(std::move(to)),
      self_(self) {}

StepResult ConnectOperation::step(CurrentTask&) {
  Result<void> connected = socket_->connect(to_.get(), self_);
  if (connected.ok()) return uint64_t{0};
  if (connected.error() == Errno(EAGAIN) && waits()) return MustWait{};
  return connected.error();
}

}  // namespace caisson
