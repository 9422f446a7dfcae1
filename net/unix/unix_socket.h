// UnixSocket: an open AF_UNIX socket. Linux: struct unix_sock with its struct file.
//
// The file side of a UnixEndpoint: addresses in the file system, open-file flags. The last
// reference closes the endpoint.
#pragma once

#include "net/socket.h"
#include "net/unix/endpoint.h"

namespace caisson {

class UnixSocket final : public Socket {
 public:
  // ESOCKTNOSUPPORT, EPROTONOSUPPORT. `flags` are O_NONBLOCK or 0.
  static Result<Ref<UnixSocket>> create(int type, int protocol, uint32_t flags,
                                        const abi::PeerCredentials& creator);
  static void connect_pair(UnixSocket& a, UnixSocket& b);
  ~UnixSocket() override;

  Result<void> bind(const Caller& caller, const SocketAddress& address) override;
  Result<void> listen(int backlog, const abi::PeerCredentials& self) override;
  Result<RefOrNull<SocketPeer>> resolve(const Caller& caller,
                                        const SocketAddress& address) override;
  Result<void> connect(SocketPeer* peer, const abi::PeerCredentials& self) override;
  Result<Ref<Socket>> accept(uint32_t flags) override;
  Result<void> shutdown(int how) override { return endpoint_->shutdown(how); }
  SocketAddress local_address() override;
  Result<SocketAddress> peer_address() override;
  Result<size_t> send(SendRequest& request) override;
  Result<Received> receive(UserBuffer& to, int flags) override;
  RefOrNull<SocketPeer> connected_peer() override { return endpoint_->peer(); }
  bool is_stream() const override { return type == SOCK_STREAM; }
  Result<void> set_option(int name, std::span<const std::byte> value,
                          const Credentials& credentials) override;

  UnixEndpoint& endpoint() const { return *endpoint_; }

  EventMask readiness(EventMask mask) override { return endpoint_->readiness(mask); }
  void add_waiter(WaitEntry& entry) override { endpoint_->add_waiter(entry); }
  void remove_waiter(WaitEntry& entry) override { endpoint_->remove_waiter(entry); }
  Result<uint64_t> bytes_readable() override { return endpoint_->bytes_readable(); }
  Result<uint64_t> ioctl(CurrentTask& task, uint32_t request, uint64_t argument) override;

 private:
  UnixSocket(int type, int protocol, uint32_t flags, const abi::PeerCredentials& creator,
             Ref<UnixEndpoint> endpoint);
  int take_error() override { return endpoint_->take_error(); }
  bool is_listening() override { return endpoint_->is_listening(); }
  abi::PeerCredentials peer_credentials() override { return endpoint_->peer_credentials(); }
  void send_size_changed(uint32_t size) override { endpoint_->set_send_size(size); }

  const Ref<UnixEndpoint> endpoint_;
};

}  // namespace caisson
