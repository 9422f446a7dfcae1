// Receiving: bytes of a stream, or one message.
#include <algorithm>

#include "net/unix/endpoint.h"

namespace caisson {

namespace {

// What a receiver with SO_PASSCRED is told of a message that came without.
constexpr abi::PeerCredentials kNobody{0, 65534, 65534};

}  // namespace

Result<Received> UnixEndpoint::receive(UserBuffer& to, int flags, bool passes_credentials,
                                       std::atomic<int32_t>& peek_offset) {
  if ((flags & MSG_OOB) != 0) return Errno(EOPNOTSUPP);
  return type == SOCK_STREAM ? receive_stream(to, flags, passes_credentials, peek_offset)
                             : receive_packet(to, flags, passes_credentials, peek_offset);
}

Result<Received> UnixEndpoint::nothing_to_receive_locked(int flags) {
  if (error_ != 0) return Errno(std::exchange(error_, 0));
  // A datagram socket that was shut ends waits only.
  if (shut_receive_ && (!is_datagram() || (flags & MSG_DONTWAIT) == 0)) return Received{};
  return Errno(EAGAIN);
}

Result<Received> UnixEndpoint::receive_stream(UserBuffer& to, int flags, bool passes_credentials,
                                              std::atomic<int32_t>& peek_offset) {
  const bool peek = (flags & MSG_PEEK) != 0;
  Received result;
  Queue done;
  RefOrNull<UnixEndpoint> sender;
  {
    MutexLock lock(mu_);
    if (state_ != State::kConnected) return Errno(EINVAL);
    uint64_t skip = peek ? static_cast<uint64_t>(std::max(0, peek_offset.load())) : 0;
    size_t index = 0;
    while (index < received_.size() && skip >= received_[index].end - received_[index].begin) {
      skip -= received_[index].end - received_[index].begin;
      ++index;
    }
    if (index == received_.size()) return nothing_to_receive_locked(flags);
    while (index < received_.size()) {
      Message& message = received_[index];
      // Bytes of different writers are not mixed where the reader asks who wrote them.
      if (passes_credentials) {
        abi::PeerCredentials from = message.credentials.value_or(kNobody);
        if (result.credentials && !(*result.credentials == from)) break;
        result.credentials = from;
      }
      sender = message.sender.or_null();
      const size_t begin = message.begin + skip;
      const size_t wanted = std::min<uint64_t>(message.end - begin, to.remaining());
      Result<size_t> moved = wanted != 0 ? to.write(message.data.get() + begin, wanted) : 0;
      if (!moved.ok()) {
        if (result.count == 0) return moved.error();
        break;
      }
      result.count += moved.value();
      const bool has_files = !message.files.empty();
      if (has_files)
        result.files = peek ? FilesInFlight(message.files.files()) : std::move(message.files);
      const bool whole = begin + moved.value() == message.end;
      skip = 0;
      if (peek) {
        ++index;
      } else {
        message.begin += moved.value();
        if (whole) {
          done.push_back(std::move(message));
          received_.pop_front();
        }
      }
      if (!whole || has_files || to.remaining() == 0) break;
    }
  }
  if (sender) result.from = sender->name();
  consumed(done);
  if (const int32_t offset = peek_offset.load(); offset >= 0) {
    const auto count = static_cast<int32_t>(result.count);
    peek_offset.store(peek ? offset + count : std::max(0, offset - count));
  }
  return result;
}

Result<Received> UnixEndpoint::receive_packet(UserBuffer& to, int flags, bool passes_credentials,
                                              std::atomic<int32_t>& peek_offset) {
  const bool peek = (flags & MSG_PEEK) != 0;
  Received result;
  Queue done;
  RefOrNull<UnixEndpoint> sender;
  Result<size_t> moved = 0;
  {
    MutexLock lock(mu_);
    if (type == SOCK_SEQPACKET && state_ != State::kConnected) return Errno(ENOTCONN);
    if (received_.empty()) return nothing_to_receive_locked(flags);
    Message& message = received_.front();
    sender = message.sender.or_null();
    const uint64_t skip = peek ? static_cast<uint64_t>(std::max(0, peek_offset.load())) : 0;
    const size_t begin = message.begin + std::min<uint64_t>(skip, message.end - message.begin);
    const size_t length = message.end - begin;
    const size_t wanted = std::min<uint64_t>(length, to.remaining());
    if (wanted != 0) moved = to.write(message.data.get() + begin, wanted);
    if (wanted < length) result.flags |= MSG_TRUNC;
    result.count = (flags & MSG_TRUNC) != 0 ? length : wanted;
    if (passes_credentials) result.credentials = message.credentials.value_or(kNobody);
    result.files = peek ? FilesInFlight(message.files.files()) : std::move(message.files);
    if (!peek) {
      done.push_back(std::move(message));
      received_.pop_front();
      // Room: for who waits here to send, and for who polls a socket that is connected to this one.
      for (UnixEndpoint* writer : connected_here_) writer->queue_.notify(kEventOut);
    }
  }
  if (!peek) queue_.notify(kEventInternal);
  result.from = sender->name();
  consumed(done);
  if (!moved.ok()) return moved.error();
  if (moved.value() < std::min<uint64_t>(result.count, moved.value())) return Errno(EFAULT);
  return result;
}

}  // namespace caisson
