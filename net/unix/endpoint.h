// UnixEndpoint: one end of AF_UNIX communication, unix(7). Linux: struct unix_sock,
// net/unix/af_unix.c.
//
// A UnixSocket (an open file) owns one; connections between clients and a listener that has not
// accepted them yet are endpoints without a file. Endpoints refer to each other; close() takes all
// of those references back, so no cycle outlives the files. What was sent lies in the receiver's
// queue, charged to the sender until it is read.
//
// Locks: unix_state_mu for changes of more than one endpoint (connect, listen, shutdown, close),
// then mu_ of one endpoint at a time; guest memory is copied under mu_. Files are released, and
// waiters told, with no lock held.
#pragma once

#include <deque>
#include <memory>
#include <optional>

#include "base/mutex.h"
#include "net/files_in_flight.h"
#include "net/socket.h"
#include "vfs/path.h"

namespace caisson {

// Connections and shutdown states between endpoints.
extern Mutex<LockRank::kInode> unix_state_mu;

class UnixEndpoint final : public SocketPeer {
 public:
  UnixEndpoint(int type, uint32_t send_size, const abi::PeerCredentials& self)
      : type(type), self_(self), send_size_(send_size) {}
  ~UnixEndpoint() override;

  const int type;  // SOCK_STREAM, SOCK_DGRAM or SOCK_SEQPACKET

  static void connect_pair(UnixEndpoint& a, UnixEndpoint& b) EXCLUDES(unix_state_mu);
  // EINVAL: it has a name already.
  Result<void> set_name(SocketAddress name, std::optional<Path> place) EXCLUDES(mu_);
  SocketAddress name() const EXCLUDES(mu_);
  Result<void> listen(int backlog, const abi::PeerCredentials& self) EXCLUDES(unix_state_mu);
  // EAGAIN: the listener's backlog is full.
  Result<void> connect(UnixEndpoint& to, const abi::PeerCredentials& self) EXCLUDES(unix_state_mu);
  Result<void> disconnect() EXCLUDES(unix_state_mu);
  Result<Ref<UnixEndpoint>> accept() EXCLUDES(mu_);
  Result<void> shutdown(int how) EXCLUDES(unix_state_mu);
  // The last descriptor is gone, or (`embryo`) nobody will accept it.
  void close(bool embryo = false) EXCLUDES(unix_state_mu);

  Result<size_t> send(SendRequest& request, bool passes_credentials) EXCLUDES(mu_);
  Result<Received> receive(UserBuffer& to, int flags, bool passes_credentials,
                           std::atomic<int32_t>& peek_offset) EXCLUDES(mu_);

  EventMask readiness(EventMask mask) EXCLUDES(mu_);
  void add_waiter(WaitEntry& entry) override { queue_.add(entry); }
  void remove_waiter(WaitEntry& entry) override { queue_.remove(entry); }

  RefOrNull<UnixEndpoint> peer() const EXCLUDES(mu_);
  Result<SocketAddress> peer_name() const EXCLUDES(mu_);
  abi::PeerCredentials peer_credentials() const EXCLUDES(mu_);
  int take_error() EXCLUDES(mu_);
  bool is_listening() const EXCLUDES(mu_);
  // Where it was bound in the file system; null: it was not.
  const Inode* bound_inode() const EXCLUDES(mu_);
  void set_passes_credentials(bool on) { passes_credentials_.store(on); }
  void set_send_size(uint32_t size) { send_size_.store(size); }
  Result<uint64_t> bytes_readable() const EXCLUDES(mu_);
  // The sockets among the files in messages that wait here or in connections nobody has accepted.
  std::vector<const FileDescription*> sockets_in_queue() const EXCLUDES(mu_);
  // Drops what waits here: nobody will ever read it.
  void drop_queue() EXCLUDES(mu_);
  uint64_t bytes_unread_by_peer() const { return charged_.load(); }

 private:
  enum class State : uint8_t { kIdle, kListening, kConnected, kClosed };
  struct Message {
    std::unique_ptr<std::byte[]> data;
    size_t begin = 0, end = 0;
    size_t charge = 0;
    Ref<UnixEndpoint> sender;
    std::optional<abi::PeerCredentials> credentials;
    FilesInFlight files;
  };
  using Queue = std::deque<Message>;

  Result<void> connect_datagram(UnixEndpoint& to) EXCLUDES(unix_state_mu);
  // A datagram socket's peer, or none any more. What the old one had sent is lost: the caller drops
  // both, `lost` and the result, after the lock.
  RefOrNull<UnixEndpoint> exchange_peer(UnixEndpoint* to, Queue& lost) REQUIRES(unix_state_mu);
  // Would a message of `from` be taken?
  Result<void> may_deliver_locked(const UnixEndpoint& from) const REQUIRES(mu_);
  bool is_datagram() const { return type == SOCK_DGRAM; }
  Result<size_t> send_stream(SendRequest& request, bool passes_credentials);
  Result<size_t> send_packet(SendRequest& request, bool passes_credentials);
  Result<Message> make_message(SendRequest& request, size_t length, bool passes_credentials);
  Result<Received> receive_stream(UserBuffer& to, int flags, bool passes_credentials,
                                  std::atomic<int32_t>& peek_offset);
  Result<Received> receive_packet(UserBuffer& to, int flags, bool passes_credentials,
                                  std::atomic<int32_t>& peek_offset);
  // What an empty queue answers.
  Result<Received> nothing_to_receive_locked(int flags) REQUIRES(mu_);
  // The receiver has taken messages off its queue.
  void consumed(Queue& done) EXCLUDES(mu_);
  void uncharge(size_t charge);
  bool has_room() const;
  void shut(bool receive, bool send, int error) EXCLUDES(mu_);

  mutable Mutex<LockRank::kPipe> mu_;
  State state_ GUARDED_BY(mu_) = State::kIdle;
  RefOrNull<UnixEndpoint> peer_ GUARDED_BY(mu_);
  // Datagram sockets whose peer this is, and who want to know of room.
  std::vector<UnixEndpoint*> connected_here_ GUARDED_BY(mu_);
  Queue received_ GUARDED_BY(mu_);
  std::deque<Ref<UnixEndpoint>> backlog_ GUARDED_BY(mu_);
  size_t backlog_limit_ GUARDED_BY(mu_) = 0;
  bool shut_receive_ GUARDED_BY(mu_) = false;
  bool shut_send_ GUARDED_BY(mu_) = false;
  int error_ GUARDED_BY(mu_) = 0;  // SO_ERROR
  SocketAddress name_ GUARDED_BY(mu_);
  std::optional<Path> place_ GUARDED_BY(mu_);  // of a name in the file system
  abi::PeerCredentials self_ GUARDED_BY(mu_);  // whom peers see: SO_PEERCRED
  abi::PeerCredentials peer_credentials_ GUARDED_BY(mu_){0, ~0u, ~0u};
  std::atomic<bool> passes_credentials_{false};
  std::atomic<uint32_t> send_size_;
  std::atomic<uint64_t> charged_{0};  // bytes sent and not received yet, with their overhead
  WaitQueue queue_;
};

}  // namespace caisson
