#include "net/unix/endpoint.h"

#include <algorithm>

#include "net/unix/names.h"

namespace caisson {

Mutex<LockRank::kInode> unix_state_mu;

namespace {

constexpr EventMask kReadable = kEventIn | 0x040;           // POLLRDNORM
constexpr EventMask kWritable = kEventOut | 0x100 | 0x200;  // POLLWRNORM, POLLWRBAND
constexpr EventMask kEverything =
    kReadable | kWritable | kEventHup | kEventRdHup | kEventErr | kEventInternal;
constexpr size_t kOverhead = 512;        // what a message costs besides its bytes
constexpr size_t kMaxPiece = 64 * 1024;  // of a stream
constexpr size_t kMaxDatagrams = 10;     // net.unix.max_dgram_qlen

}  // namespace

UnixEndpoint::~UnixEndpoint() = default;

// ---- Names and connections.

void UnixEndpoint::connect_pair(UnixEndpoint& a, UnixEndpoint& b) {
  MutexLock state(unix_state_mu);
  abi::PeerCredentials of_b;
  {
    MutexLock lock(b.mu_);
    of_b = b.self_;
    b.state_ = State::kConnected;
    b.peer_ = RefOrNull<UnixEndpoint>(&a);
    b.peer_credentials_ = of_b;  // both were made by the same process
  }
  MutexLock lock(a.mu_);
  a.state_ = State::kConnected;
  a.peer_ = RefOrNull<UnixEndpoint>(&b);
  a.peer_credentials_ = of_b;
}

Result<void> UnixEndpoint::set_name(SocketAddress name, std::optional<Path> place) {
  MutexLock lock(mu_);
  if (name_.length != 0) return Errno(EINVAL);
  name_ = name;
  place_ = std::move(place);
  return {};
}

SocketAddress UnixEndpoint::name() const {
  MutexLock lock(mu_);
  return name_;
}

Result<void> UnixEndpoint::listen(int backlog, const abi::PeerCredentials& self) {
  if (is_datagram()) return Errno(EOPNOTSUPP);
  {
    MutexLock state(unix_state_mu);
    MutexLock lock(mu_);
    if (name_.length == 0) return Errno(EINVAL);
    if (state_ != State::kIdle && state_ != State::kListening) return Errno(EINVAL);
    state_ = State::kListening;
    backlog_limit_ = std::min<uint32_t>(static_cast<uint32_t>(backlog), abi::kMaxBacklog);
    self_ = self;
  }
  queue_.notify(kEventInternal);
  return {};
}

RefOrNull<UnixEndpoint> UnixEndpoint::exchange_peer(UnixEndpoint* to, Queue& lost) {
  RefOrNull<UnixEndpoint> old;
  {
    MutexLock lock(mu_);
    old = std::exchange(peer_, RefOrNull<UnixEndpoint>(to));
    state_ = to != nullptr ? State::kConnected : State::kIdle;
    if (old && old.get() != to) lost = std::exchange(received_, {});
  }
  if (!old) return old;
  {
    MutexLock lock(old->mu_);
    auto& list = old->connected_here_;
    if (auto it = std::find(list.begin(), list.end(), this); it != list.end()) list.erase(it);
    if (old.get() != to && old.get() != this && old->state_ != State::kClosed &&
        old->peer_.get() == this)
      old->error_ = ECONNRESET;
  }
  old->queue_.notify(kEverything);
  consumed(lost);
  return old;
}

Result<void> UnixEndpoint::connect_datagram(UnixEndpoint& to) {
  RefOrNull<UnixEndpoint> old;
  Queue lost;
  MutexLock state(unix_state_mu);
  {
    MutexLock lock(to.mu_);
    if (to.state_ == State::kClosed) return Errno(ECONNREFUSED);
    if (to.peer_ && to.peer_.get() != this) return Errno(EPERM);
    if (&to != this) to.connected_here_.push_back(this);
  }
  old = exchange_peer(&to, lost);
  return {};
}

Result<void> UnixEndpoint::disconnect() {
  if (!is_datagram()) return Errno(EINVAL);
  RefOrNull<UnixEndpoint> old;
  Queue lost;
  MutexLock state(unix_state_mu);
  old = exchange_peer(nullptr, lost);
  return {};
}

Result<void> UnixEndpoint::connect(UnixEndpoint& to, const abi::PeerCredentials& self) {
  if (is_datagram()) return connect_datagram(to);
  auto accepted = make_ref<UnixEndpoint>(type, send_size_.load(), self);
  {
    MutexLock state(unix_state_mu);
    abi::PeerCredentials listener;
    SocketAddress name;
    {
      MutexLock lock(mu_);
      if (state_ == State::kConnected) return Errno(EISCONN);
      if (state_ != State::kIdle) return Errno(EINVAL);
    }
    {
      MutexLock lock(to.mu_);
      if (to.state_ != State::kListening || to.shut_receive_) return Errno(ECONNREFUSED);
      if (to.backlog_.size() > to.backlog_limit_) return Errno(EAGAIN);
      listener = to.self_;
      name = to.name_;
    }
    {
      MutexLock lock(accepted->mu_);
      accepted->state_ = State::kConnected;
      accepted->peer_ = RefOrNull<UnixEndpoint>(this);
      accepted->peer_credentials_ = self;
      accepted->name_ = name;
    }
    {
      MutexLock lock(mu_);
      state_ = State::kConnected;
      peer_ = accepted.or_null();
      peer_credentials_ = listener;
    }
    MutexLock lock(to.mu_);
    to.backlog_.push_back(std::move(accepted));
  }
  to.queue_.notify(kReadable);
  queue_.notify(kWritable);
  return {};
}

Result<Ref<UnixEndpoint>> UnixEndpoint::accept() {
  if (is_datagram()) return Errno(EOPNOTSUPP);
  RefOrNull<UnixEndpoint> first;
  {
    MutexLock lock(mu_);
    if (state_ != State::kListening) return Errno(EINVAL);
    if (backlog_.empty()) return shut_receive_ ? Errno(EINVAL) : Errno(EAGAIN);
    first = backlog_.front().or_null();
    backlog_.pop_front();
  }
  queue_.notify(kEventInternal);  // room for who waits in connect
  return Ref<UnixEndpoint>::from(std::move(first));
}

void UnixEndpoint::shut(bool receive, bool send, int error) {
  {
    MutexLock lock(mu_);
    shut_receive_ |= receive;
    shut_send_ |= send;
    if (error != 0) error_ = error;
  }
  queue_.notify(kEverything);
}

Result<void> UnixEndpoint::shutdown(int how) {
  if (how < SHUT_RD || how > SHUT_RDWR) return Errno(EINVAL);
  const bool receive = how != SHUT_WR;
  const bool send = how != SHUT_RD;
  MutexLock state(unix_state_mu);
  RefOrNull<UnixEndpoint> other = is_datagram() ? nullptr : peer();
  shut(receive, send, 0);
  if (other) other->shut(send, receive, 0);
  return {};
}

void UnixEndpoint::close(bool embryo) {
  UnixNames::remove(*this);
  RefOrNull<UnixEndpoint> other;
  Queue unread;
  std::deque<Ref<UnixEndpoint>> pending;
  std::optional<Path> place;
  {
    MutexLock state(unix_state_mu);
    bool was_unread;
    {
      MutexLock lock(mu_);
      state_ = State::kClosed;
      shut_receive_ = shut_send_ = true;
      other = std::exchange(peer_, nullptr);
      unread = std::exchange(received_, {});
      pending = std::exchange(backlog_, {});
      place = std::exchange(place_, std::nullopt);
      connected_here_.clear();
      was_unread = !unread.empty();
    }
    if (other && is_datagram()) {
      MutexLock lock(other->mu_);
      auto& list = other->connected_here_;
      if (auto it = std::find(list.begin(), list.end(), this); it != list.end()) list.erase(it);
    } else if (other) {
      other->shut(true, true, was_unread || embryo ? ECONNRESET : 0);
      MutexLock lock(other->mu_);
      if (other->peer_.get() == this) other->peer_ = nullptr;
    }
  }
  queue_.notify(kEverything);
  consumed(unread);
  unread.clear();
  for (Ref<UnixEndpoint>& connection : pending) connection->close(/*embryo=*/true);
}

// ---- Sending.

bool UnixEndpoint::has_room() const { return charged_.load() < send_size_.load(); }

void UnixEndpoint::uncharge(size_t charge) {
  const uint64_t left = charged_.fetch_sub(charge) - charge;
  if (left * 4 <= send_size_.load()) queue_.notify(kWritable);
}

void UnixEndpoint::consumed(Queue& done) {
  for (Message& message : done) message.sender->uncharge(message.charge);
}

Result<UnixEndpoint::Message> UnixEndpoint::make_message(SendRequest& request, size_t length,
                                                         bool passes_credentials) {
  Message message{std::make_unique_for_overwrite<std::byte[]>(length),
                  0,
                  length,
                  0,
                  Ref<UnixEndpoint>(*this),
                  std::nullopt,
                  {}};
  size_t moved = 0;
  while (moved < length) {
    size_t piece = TRY(request.data.read(message.data.get() + moved, length - moved));
    moved += piece;
    if (piece == 0) return Errno(EFAULT);
  }
  if (passes_credentials || request.has_credentials) message.credentials = request.self;
  message.files = FilesInFlight(std::exchange(request.files, {}));
  message.charge = length + kOverhead;
  charged_.fetch_add(message.charge);
  return message;
}

Result<size_t> UnixEndpoint::send(SendRequest& request, bool passes_credentials) {
  if ((request.flags & MSG_OOB) != 0) return Errno(EOPNOTSUPP);
  return type == SOCK_STREAM ? send_stream(request, passes_credentials)
                             : send_packet(request, passes_credentials);
}

Result<size_t> UnixEndpoint::send_stream(SendRequest& request, bool passes_credentials) {
  RefOrNull<UnixEndpoint> to;
  {
    MutexLock lock(mu_);
    if (request.to != nullptr)
      return state_ == State::kConnected ? Errno(EISCONN) : Errno(EOPNOTSUPP);
    if (state_ != State::kConnected) return Errno(ENOTCONN);
    if (shut_send_ || !peer_) return Errno(EPIPE);
    to = peer_;
  }
  if (request.data.remaining() == 0) return 0;
  if (!has_room()) return Errno(EAGAIN);
  const size_t half = std::max<size_t>(send_size_.load() / 2, 1);
  const size_t length = std::min({request.data.remaining(), uint64_t{kMaxPiece}, uint64_t{half}});
  passes_credentials |= to->passes_credentials_.load();
  Message message = TRY(make_message(request, length, passes_credentials));
  bool taken;
  {
    MutexLock lock(to->mu_);
    taken = !to->shut_receive_;
    if (taken) to->received_.push_back(std::move(message));
  }
  if (!taken) {
    uncharge(message.charge);
    return Errno(EPIPE);
  }
  to->queue_.notify(kReadable);
  return length;
}

Result<void> UnixEndpoint::may_deliver_locked(const UnixEndpoint& from) const {
  if (state_ == State::kClosed) return is_datagram() ? Errno(ECONNREFUSED) : Errno(EPIPE);
  if (is_datagram() && peer_ && peer_.get() != &from) return Errno(EPERM);
  if (shut_receive_) return Errno(EPIPE);
  if (this != &from && peer_.get() != &from && received_.size() > kMaxDatagrams)
    return Errno(EAGAIN);
  return {};
}

Result<size_t> UnixEndpoint::send_packet(SendRequest& request, bool passes_credentials) {
  RefOrNull<UnixEndpoint> to;
  {
    MutexLock lock(mu_);
    if (type == SOCK_SEQPACKET && state_ != State::kConnected) return Errno(ENOTCONN);
    to = request.to != nullptr && is_datagram()
             ? RefOrNull<UnixEndpoint>(static_cast<UnixEndpoint*>(request.to))
             : peer_;
    if (shut_send_) return Errno(EPIPE);
  }
  if (!to) return type == SOCK_SEQPACKET ? Errno(EPIPE) : Errno(ENOTCONN);
  const uint64_t length = request.data.remaining();
  if (length > send_size_.load() - 32) return Errno(EMSGSIZE);
  if (!has_room()) return Errno(EAGAIN);
  Result<void> may;
  {
    MutexLock lock(to->mu_);
    may = to->may_deliver_locked(*this);
  }
  if (!may.ok()) {
    if (may.error() == Errno(ECONNREFUSED) && request.to == nullptr) disconnect().ok();
    return may.error();
  }
  passes_credentials |= to->passes_credentials_.load();
  Message message = TRY(make_message(request, length, passes_credentials));
  {
    MutexLock lock(to->mu_);
    may = to->may_deliver_locked(*this);
    if (may.ok()) to->received_.push_back(std::move(message));
  }
  if (!may.ok()) {  // it has changed meanwhile: all is given back, for the next try
    request.data.rewind(length);
    request.files = message.files.take();
    uncharge(message.charge);
    return may.error();
  }
  to->queue_.notify(kReadable);
  return length;
}

// ---- Looking.

EventMask UnixEndpoint::readiness(EventMask mask) {
  EventMask ready = 0;
  RefOrNull<UnixEndpoint> to;
  bool listening;
  {
    MutexLock lock(mu_);
    listening = state_ == State::kListening;
    if (error_ != 0) ready |= kEventErr;
    if (shut_receive_ && shut_send_) ready |= kEventHup;
    if (shut_receive_) ready |= kEventRdHup | kReadable;
    if (!received_.empty() || !backlog_.empty()) ready |= kReadable;
    if (!is_datagram() && state_ == State::kIdle) ready |= kEventHup;
    if (is_datagram() && peer_.get() != this) to = peer_;
  }
  bool writable = !listening && charged_.load() * 4 <= send_size_.load();
  if (writable && to) {
    MutexLock lock(to->mu_);
    if (to->peer_.get() != this && to->received_.size() > kMaxDatagrams) writable = false;
  }
  if (writable) ready |= kWritable;
  return ready & (mask | kEventAlways);
}

RefOrNull<UnixEndpoint> UnixEndpoint::peer() const {
  MutexLock lock(mu_);
  return peer_;
}
Result<SocketAddress> UnixEndpoint::peer_name() const {
  RefOrNull<UnixEndpoint> other = peer();
  if (!other) return Errno(ENOTCONN);
  return other->name();
}
abi::PeerCredentials UnixEndpoint::peer_credentials() const {
  MutexLock lock(mu_);
  return state_ == State::kListening ? self_ : peer_credentials_;
}
int UnixEndpoint::take_error() {
  MutexLock lock(mu_);
  return std::exchange(error_, 0);
}
bool UnixEndpoint::is_listening() const {
  MutexLock lock(mu_);
  return state_ == State::kListening;
}

std::vector<const FileDescription*> UnixEndpoint::sockets_in_queue() const {
  std::vector<const FileDescription*> found;
  std::deque<Ref<UnixEndpoint>> connections;
  {
    MutexLock lock(mu_);
    for (const Message& message : received_) {
      for (const Ref<FileDescription>& file : message.files.files())
        if (file->inode().type() == S_IFSOCK) found.push_back(file.get());
    }
    connections = backlog_;
  }
  for (const Ref<UnixEndpoint>& connection : connections) {
    auto more = connection->sockets_in_queue();
    found.insert(found.end(), more.begin(), more.end());
  }
  return found;
}

void UnixEndpoint::drop_queue() {
  Queue unread;
  {
    MutexLock lock(mu_);
    unread = std::exchange(received_, {});
  }
  consumed(unread);
}

const Inode* UnixEndpoint::bound_inode() const {
  MutexLock lock(mu_);
  return place_ ? &place_->inode() : nullptr;
}

Result<uint64_t> UnixEndpoint::bytes_readable() const {
  MutexLock lock(mu_);
  if (state_ == State::kListening) return Errno(EINVAL);
  uint64_t sum = 0;
  for (const Message& message : received_) {
    sum += message.end - message.begin;
    if (is_datagram()) break;
  }
  return sum;
}

}  // namespace caisson
