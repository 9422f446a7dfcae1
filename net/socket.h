// Socket: an open socket of any family, socket(2). Linux: struct socket, net/socket.c,
// net/core/sock.c.
//
// A FileDescription whose transfers carry addresses, descriptors and credentials along. Nothing
// here waits: EAGAIN says that the call would, and the operations of syscalls/ wait for readiness.
// A family derives its own (net/unix/); options that are the same for all are kept here, as
// atomics.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "abi/socket.h"
#include "base/ref.h"
#include "base/result.h"
#include "mm/user_buffer.h"
#include "net/files_in_flight.h"
#include "vfs/caller.h"
#include "vfs/file_description.h"

namespace caisson {

// What a guest wrote as struct sockaddr, or is told.
struct SocketAddress {
  uint32_t length = 0;  // bytes; 0: there is none
  std::array<uint8_t, abi::kMaxSocketAddress> bytes{};

  uint16_t family() const {
    return length < 2 ? uint16_t{0} : static_cast<uint16_t>(bytes[0] | bytes[1] << 8);
  }
};

// Another end, found by its address; kept by operations that wait for room there.
class SocketPeer : public RefCounted<SocketPeer> {
 public:
  virtual ~SocketPeer() = default;
  virtual void add_waiter(WaitEntry& entry) = 0;
  virtual void remove_waiter(WaitEntry& entry) = 0;
};

struct SendRequest {
  UserBuffer& data;
  int flags = 0;                             // MSG_*
  SocketPeer* to = nullptr;                  // null: the connected peer
  abi::PeerCredentials self;                 // who sends
  bool has_credentials = false;              // SCM_CREDENTIALS was given: `self` is from there
  std::vector<Ref<FileDescription>>& files;  // moved from once sent
};

struct Received {
  uint64_t count = 0;  // the call's result
  int flags = 0;       // MSG_TRUNC
  std::optional<abi::PeerCredentials> credentials;
  FilesInFlight files;
  SocketAddress from;
};

class Socket : public FileDescription {
 public:
  const int family;
  const int type;  // SOCK_*, without flags
  const int protocol;

  virtual Result<void> bind(const Caller& caller, const SocketAddress& address) = 0;
  virtual Result<void> listen(int backlog, const abi::PeerCredentials& self) = 0;
  // Null: AF_UNSPEC, which ends a connection.
  virtual Result<RefOrNull<SocketPeer>> resolve(const Caller& caller,
                                                const SocketAddress& address) = 0;
  virtual Result<void> connect(SocketPeer* peer, const abi::PeerCredentials& self) = 0;
  virtual Result<Ref<Socket>> accept(uint32_t flags) = 0;
  virtual Result<void> shutdown(int how) = 0;
  virtual SocketAddress local_address() = 0;
  virtual Result<SocketAddress> peer_address() = 0;
  virtual Result<size_t> send(SendRequest& request) = 0;
  virtual Result<Received> receive(UserBuffer& to, int flags) = 0;
  // Where a sender without `to` waits for room, besides here.
  virtual RefOrNull<SocketPeer> connected_peer() = 0;
  // EPIPE raises SIGPIPE, and a blocking send goes on until all is sent.
  virtual bool is_stream() const = 0;

  // Options of SOL_SOCKET. Values are the bytes that the guest gives or gets.
  virtual Result<void> set_option(int name, std::span<const std::byte> value,
                                  const Credentials& credentials);
  virtual Result<std::vector<std::byte>> get_option(int name);
  // Waits end after this long; 0: never. Nanoseconds.
  uint64_t receive_timeout_ns() const { return receive_timeout_ns_.load(); }
  uint64_t send_timeout_ns() const { return send_timeout_ns_.load(); }
  uint32_t receive_low_mark() const { return receive_low_mark_.load(); }
  bool passes_credentials() const { return pass_credentials_.load(); }

  // FileDescription, for callers that know no sockets (sendfile).
  Result<size_t> read(UserBuffer& to, IoFlags flags) override;
  Result<size_t> write(UserBuffer& from, IoFlags flags) override;
  bool can_poll() const override { return true; }
  bool raises_sigpipe() const override { return is_stream(); }
  bool writes_everything() const override { return is_stream(); }

 protected:
  Socket(int family, int type, int protocol, uint32_t flags, const abi::PeerCredentials& creator);
  virtual int take_error() = 0;  // SO_ERROR
  virtual bool is_listening() = 0;
  virtual abi::PeerCredentials peer_credentials() = 0;
  virtual void send_size_changed(uint32_t) {}
  const abi::PeerCredentials creator_;
  // As Linux, twice what was asked for, which is 212992 by default.
  std::atomic<uint32_t> send_size_{212992};
  std::atomic<uint32_t> receive_size_{212992};
  std::atomic<int32_t> peek_offset_{-1};

 private:
  std::atomic<uint64_t> receive_timeout_ns_{0};
  std::atomic<uint64_t> send_timeout_ns_{0};
  std::atomic<uint32_t> receive_low_mark_{1};
  std::atomic<bool> pass_credentials_{false};
  std::atomic<uint64_t> linger_{0};         // struct linger
  std::atomic<uint64_t> plain_options_{0};  // by option number: switches that nothing here reads
};

// The socket that `file` is, or null.
RefOrNull<Socket> as_socket(const Ref<FileDescription>& file);

}  // namespace caisson
