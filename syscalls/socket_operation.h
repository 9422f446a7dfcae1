// The operations of sockets that may wait: send, receive, accept, connect.
//
// Each owns the socket, not its number, and all that was copied in. A receive that is over writes
// addresses and control messages itself, once. Linux: net/socket.c, net/unix/af_unix.c.
#pragma once

#include <optional>
#include <vector>

#include "kernel/current_task.h"
#include "kernel/operation.h"
#include "net/socket.h"

namespace caisson {

// Waiting for a socket, and for a peer that is to make room. With a deadline of the socket's own
// (SO_RCVTIMEO, SO_SNDTIMEO) a signal ends the call with EINTR, without one it may be restarted.
class SocketOperation : public Operation {
 public:
  SocketOperation(Ref<Socket> socket, int flags, uint64_t timeout_ns, EventMask mask);
  void arm(CurrentTask& task, Waiter& waiter) override;
  void disarm() override;
  std::optional<uint64_t> deadline_ns() const override { return deadline_; }
  StepResult timed_out(CurrentTask&) override;
  StepResult interrupted(CurrentTask&) override;

 protected:
  SocketOperation(SocketOperation&& other) noexcept;
  bool waits() const { return !nonblocking_; }
  // What the call answers if it ends now, having done something: nothing if it has not.
  virtual std::optional<StepResult> so_far(CurrentTask&) { return std::nullopt; }
  // Where room is made besides at the socket itself.
  virtual RefOrNull<SocketPeer> other() { return nullptr; }

  const Ref<Socket> socket_;
  const int flags_;

 private:
  const bool nonblocking_;
  const EventMask mask_;
  const std::optional<uint64_t> deadline_;
  RefOrNull<SocketPeer> armed_other_;
  WaitEntry entry_;
  WaitEntry other_entry_;
};

class SendOperation final : public SocketOperation {
 public:
  SendOperation(Ref<Socket> socket, UserBuffer data, int flags, RefOrNull<SocketPeer> to,
                abi::PeerCredentials self, bool has_credentials,
                std::vector<Ref<FileDescription>> files);
  SendOperation(SendOperation&&) noexcept = default;
  StepResult step(CurrentTask& task) override;
  const char* name() const override { return "sock_send"; }

 private:
  std::optional<StepResult> so_far(CurrentTask&) override;
  RefOrNull<SocketPeer> other() override { return to_ ? to_ : socket_->connected_peer(); }

  UserBuffer data_;
  RefOrNull<SocketPeer> to_;
  abi::PeerCredentials self_;
  bool has_credentials_;
  std::vector<Ref<FileDescription>> files_;
  uint64_t done_ = 0;
};

class ReceiveOperation final : public SocketOperation {
 public:
  // Where the guest wants what comes along; null addresses: nowhere.
  struct Places {
    GuestAddr name = 0;
    uint32_t name_room = 0;              // recvmsg
    UserInOut<int32_t> name_length;      // recvfrom: read after the data has come
    UserOut<abi::MessageHeader> header;  // recvmsg
    GuestAddr control = 0;
    uint64_t control_room = 0;
  };
  ReceiveOperation(Ref<Socket> socket, UserBuffer to, int flags, Places places);
  ReceiveOperation(ReceiveOperation&&) noexcept = default;
  StepResult step(CurrentTask& task) override;
  const char* name() const override { return "sock_receive"; }

 private:
  std::optional<StepResult> so_far(CurrentTask&) override;
  StepResult finish(CurrentTask& task);

  UserBuffer to_;
  Places places_;
  Received got_;
  bool any_ = false;
};

class AcceptOperation final : public SocketOperation {
 public:
  AcceptOperation(Ref<Socket> socket, GuestAddr address, UserInOut<int32_t> length, int flags);
  AcceptOperation(AcceptOperation&&) noexcept = default;
  StepResult step(CurrentTask& task) override;
  const char* name() const override { return "sock_accept"; }

 private:
  GuestAddr address_;
  UserInOut<int32_t> length_;
  int file_flags_;
};

class ConnectOperation final : public SocketOperation {
 public:
  ConnectOperation(Ref<Socket> socket, RefOrNull<SocketPeer> to, abi::PeerCredentials self);
  ConnectOperation(ConnectOperation&&) noexcept = default;
  StepResult step(CurrentTask& task) override;
  const char* name() const override { return "sock_connect"; }

 private:
  RefOrNull<SocketPeer> other() override { return to_; }

  RefOrNull<SocketPeer> to_;
  abi::PeerCredentials self_;
};

}  // namespace caisson
