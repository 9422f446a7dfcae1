#include "net/socket.h"

#include <linux/fs.h>
#include <sys/time.h>

#include <algorithm>
#include <cstring>

#include "kernel/auth/credentials.h"

namespace caisson {
namespace {

constexpr uint32_t kMaxBuffer = 212992;  // net.core.wmem_max, rmem_max
constexpr uint32_t kMinSendBuffer = 4608, kMinReceiveBuffer = 2304;

// Switches that Linux keeps and that change nothing for the families here.
bool is_plain_switch(int name) {
  switch (name) {
    case SO_DEBUG:
    case SO_REUSEADDR:
    case SO_DONTROUTE:
    case SO_BROADCAST:
    case SO_KEEPALIVE:
    case SO_OOBINLINE:
    case SO_NO_CHECK:
    case SO_REUSEPORT:
      return true;
    default:
      return false;
  }
}

template <typename T>
std::vector<std::byte> bytes_of(const T& value) {
  std::vector<std::byte> bytes(sizeof value);
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

template <typename T>
Result<T> value_of(std::span<const std::byte> bytes) {
  if (bytes.size() < sizeof(T)) return Errno(EINVAL);
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

Result<uint64_t> timeout_of(std::span<const std::byte> bytes) {
  auto time = TRY(value_of<timeval>(bytes));
  if (time.tv_usec < 0 || time.tv_usec >= 1'000'000) return Errno(EDOM);
  if (time.tv_sec < 0) return 1;  // as good as no wait at all
  constexpr int64_t kMaxSeconds = INT64_MAX / 1'000'000'000 - 1;
  if (time.tv_sec > kMaxSeconds) return 0;
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 +
         static_cast<uint64_t>(time.tv_usec) * 1000;
}

timeval timeout_value(uint64_t ns) {
  return {static_cast<time_t>(ns / 1'000'000'000),
          static_cast<suseconds_t>(ns % 1'000'000'000 / 1000)};
}

uint32_t buffer_size(int wanted, uint32_t least, bool forced) {
  uint32_t size = forced ? static_cast<uint32_t>(std::clamp(wanted, 0, INT32_MAX / 2))
                         : std::min(static_cast<uint32_t>(wanted), kMaxBuffer);
  return std::max(size * 2, least);
}

}  // namespace

Socket::Socket(int family, int type, int protocol, uint32_t flags,
               const abi::PeerCredentials& creator)
    : FileDescription(make_anonymous_path("socket:", S_IFSOCK | 0777), O_RDWR | flags),
      family(family),
      type(type),
      protocol(protocol),
      creator_(creator) {}

Result<size_t> Socket::read(UserBuffer& to, IoFlags flags) {
  if ((flags.rwf & ~uint32_t{RWF_NOWAIT}) != 0) return Errno(EOPNOTSUPP);
  return TRY(receive(to, flags.nonblocking ? MSG_DONTWAIT : 0)).count;
}

Result<size_t> Socket::write(UserBuffer& from, IoFlags flags) {
  if ((flags.rwf & ~uint32_t{RWF_NOWAIT}) != 0) return Errno(EOPNOTSUPP);
  std::vector<Ref<FileDescription>> none;
  SendRequest request{from, flags.nonblocking ? MSG_DONTWAIT : 0, nullptr, creator_, false, none};
  return send(request);
}

Result<void> Socket::set_option(int name, std::span<const std::byte> value,
                                const Credentials& credentials) {
  switch (name) {
    case SO_RCVTIMEO:
    case SO_RCVTIMEO_NEW:
      receive_timeout_ns_.store(TRY(timeout_of(value)));
      return {};
    case SO_SNDTIMEO:
    case SO_SNDTIMEO_NEW:
      send_timeout_ns_.store(TRY(timeout_of(value)));
      return {};
    case SO_LINGER:
      linger_.store(TRY(value_of<uint64_t>(value)));
      return {};
    default:
      break;
  }
  const int number = TRY(value_of<int>(value));
  switch (name) {
    case SO_SNDBUFFORCE:
      if (!credentials.has(Capability::kNetAdmin)) return Errno(EPERM);
      [[fallthrough]];
    case SO_SNDBUF:
      send_size_.store(buffer_size(number, kMinSendBuffer, name == SO_SNDBUFFORCE));
      send_size_changed(send_size_.load());
      return {};
    case SO_RCVBUFFORCE:
      if (!credentials.has(Capability::kNetAdmin)) return Errno(EPERM);
      [[fallthrough]];
    case SO_RCVBUF:
      receive_size_.store(buffer_size(number, kMinReceiveBuffer, name == SO_RCVBUFFORCE));
      return {};
    case SO_RCVLOWAT:
      receive_low_mark_.store(number < 0 ? INT32_MAX : std::max<uint32_t>(1, number));
      return {};
    case SO_PASSCRED:
      pass_credentials_.store(number != 0);
      return {};
    case SO_PEEK_OFF:
      peek_offset_.store(number);
      return {};
    case SO_PRIORITY:
      if ((number < 0 || number > 6) && !credentials.has(Capability::kNetAdmin))
        return Errno(EPERM);
      return {};
    case SO_TYPE:
    case SO_PROTOCOL:
    case SO_DOMAIN:
    case SO_ERROR:
    case SO_ACCEPTCONN:
    case SO_PEERCRED:
    case SO_PEERNAME:
    case SO_SNDLOWAT:
      return Errno(ENOPROTOOPT);
    default:
      break;
  }
  if (!is_plain_switch(name)) return Errno(ENOPROTOOPT);
  const uint64_t bit = uint64_t{1} << (name & 63);
  if (number != 0) {
    plain_options_.fetch_or(bit);
  } else {
    plain_options_.fetch_and(~bit);
  }
  return {};
}

Result<std::vector<std::byte>> Socket::get_option(int name) {
  switch (name) {
    case SO_TYPE:
      return bytes_of(type);
    case SO_DOMAIN:
      return bytes_of(family);
    case SO_PROTOCOL:
      return bytes_of(protocol);
    case SO_ERROR:
      return bytes_of(take_error());
    case SO_ACCEPTCONN:
      return bytes_of(is_listening() ? 1 : 0);
    case SO_SNDBUF:
      return bytes_of(send_size_.load());
    case SO_RCVBUF:
      return bytes_of(receive_size_.load());
    case SO_RCVLOWAT:
      return bytes_of(receive_low_mark_.load());
    case SO_SNDLOWAT:
      return bytes_of(1);
    case SO_PRIORITY:
      return bytes_of(0);
    case SO_PASSCRED:
      return bytes_of(passes_credentials() ? 1 : 0);
    case SO_PEEK_OFF:
      return bytes_of(peek_offset_.load());
    case SO_PEERCRED:
      return bytes_of(peer_credentials());
    case SO_PEERNAME: {
      SocketAddress address = TRY(peer_address());
      auto* begin = reinterpret_cast<const std::byte*>(address.bytes.data());
      return std::vector<std::byte>(begin, begin + address.length);
    }
    case SO_LINGER:
      return bytes_of(linger_.load());
    case SO_RCVTIMEO:
    case SO_RCVTIMEO_NEW:
      return bytes_of(timeout_value(receive_timeout_ns()));
    case SO_SNDTIMEO:
    case SO_SNDTIMEO_NEW:
      return bytes_of(timeout_value(send_timeout_ns()));
    default:
      break;
  }
  if (!is_plain_switch(name)) return Errno(ENOPROTOOPT);
  return bytes_of((plain_options_.load() >> (name & 63) & 1) != 0 ? 1 : 0);
}

RefOrNull<Socket> as_socket(const Ref<FileDescription>& file) {
  if (file->inode().type() != S_IFSOCK) return nullptr;
  return RefOrNull<Socket>(dynamic_cast<Socket*>(file.get()));
}

}  // namespace caisson
