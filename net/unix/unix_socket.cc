#include "net/unix/unix_socket.h"

#include <linux/sockios.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cstring>
#include <string_view>

#include "kernel/current_task.h"
#include "net/unix/garbage.h"
#include "net/unix/names.h"
#include "vfs/path_calls.h"
#include "vfs/path_walk.h"
#include "vfs/permissions.h"

namespace caisson {
namespace {

constexpr size_t kPathAt = 2;  // offsetof(struct sockaddr_un, sun_path)

Result<void> check(const SocketAddress& address) {
  if (address.length <= kPathAt || address.length > abi::kMaxUnixAddress) return Errno(EINVAL);
  if (address.family() != AF_UNIX) return Errno(EINVAL);
  return {};
}

// The path of an address that is none of the abstract ones.
std::string_view path_of(const SocketAddress& address) {
  auto* begin = reinterpret_cast<const char*>(address.bytes.data()) + kPathAt;
  return {begin, strnlen(begin, address.length - kPathAt)};
}

SocketAddress nameless() {
  SocketAddress address;
  address.bytes[0] = AF_UNIX;
  address.length = kPathAt;
  return address;
}

}  // namespace

UnixSocket::UnixSocket(int type, int protocol, uint32_t flags, const abi::PeerCredentials& creator,
                       Ref<UnixEndpoint> endpoint)
    : Socket(AF_UNIX, type, protocol, flags, creator), endpoint_(std::move(endpoint)) {}

UnixSocket::~UnixSocket() { endpoint_->close(); }

Result<Ref<UnixSocket>> UnixSocket::create(int type, int protocol, uint32_t flags,
                                           const abi::PeerCredentials& creator) {
  if (protocol != 0 && protocol != PF_UNIX) return Errno(EPROTONOSUPPORT);
  if (type == SOCK_RAW) type = SOCK_DGRAM;  // as old programs ask for it
  if (type != SOCK_STREAM && type != SOCK_DGRAM && type != SOCK_SEQPACKET)
    return Errno(ESOCKTNOSUPPORT);
  auto endpoint = make_ref<UnixEndpoint>(type, uint32_t{212992}, creator);
  return adopt_ref(new UnixSocket(type, protocol, flags, creator, std::move(endpoint)));
}

void UnixSocket::connect_pair(UnixSocket& a, UnixSocket& b) {
  UnixEndpoint::connect_pair(*a.endpoint_, *b.endpoint_);
}

Result<void> UnixSocket::bind(const Caller& caller, const SocketAddress& address) {
  if (address.length == kPathAt && address.family() == AF_UNIX) {
    if (endpoint_->name().length != 0) return {};
    return UnixNames::bind_any(*endpoint_);
  }
  TRY(check(address));
  if (address.bytes[kPathAt] == 0) return UnixNames::bind_abstract(*endpoint_, address);
  const std::string_view path = path_of(address);
  if (endpoint_->name().length != 0) return Errno(EINVAL);
  Result<void> made = make_node(caller, caller.working_directory, path, S_IFSOCK | 0777, 0);
  if (!made.ok()) return made.error() == Errno(EEXIST) ? Errno(EADDRINUSE) : made.error();
  Path place = TRY(resolve_path(caller, caller.working_directory, path, {false, false, 0}));
  SocketAddress name;
  name.bytes[0] = AF_UNIX;
  std::memcpy(&name.bytes[kPathAt], path.data(), path.size());
  name.length = static_cast<uint32_t>(kPathAt + path.size() + 1);
  return UnixNames::bind_path(*endpoint_, name, std::move(place));
}

Result<void> UnixSocket::listen(int backlog, const abi::PeerCredentials& self) {
  return endpoint_->listen(backlog, self);
}

Result<RefOrNull<SocketPeer>> UnixSocket::resolve(const Caller& caller,
                                                  const SocketAddress& address) {
  if (type == SOCK_DGRAM && address.length >= 2 && address.family() == AF_UNSPEC)
    return RefOrNull<SocketPeer>();
  TRY(check(address));
  if (address.bytes[kPathAt] == 0)
    return RefOrNull<SocketPeer>(TRY(UnixNames::find_abstract(address, type)).or_null());
  Path place =
      TRY(resolve_path(caller, caller.working_directory, path_of(address), {true, false, 0}));
  TRY(check_access(caller.credentials, place, kMayWrite));
  if (place.inode().type() != S_IFSOCK) return Errno(ECONNREFUSED);
  return RefOrNull<SocketPeer>(TRY(UnixNames::find_inode(place.inode(), type)).or_null());
}

Result<void> UnixSocket::connect(SocketPeer* peer, const abi::PeerCredentials& self) {
  if (peer == nullptr) return endpoint_->disconnect();
  if (passes_credentials() && endpoint_->name().length == 0) TRY(UnixNames::bind_any(*endpoint_));
  return endpoint_->connect(static_cast<UnixEndpoint&>(*peer), self);
}

Result<Ref<Socket>> UnixSocket::accept(uint32_t flags) {
  Ref<UnixEndpoint> connection = TRY(endpoint_->accept());
  Ref<UnixSocket> socket =
      adopt_ref(new UnixSocket(type, protocol, flags, creator_, std::move(connection)));
  return Ref<Socket>(std::move(socket));
}

SocketAddress UnixSocket::local_address() {
  SocketAddress name = endpoint_->name();
  return name.length != 0 ? name : nameless();
}

Result<SocketAddress> UnixSocket::peer_address() {
  SocketAddress name = TRY(endpoint_->peer_name());
  return name.length != 0 ? name : nameless();
}

Result<size_t> UnixSocket::send(SendRequest& request) {
  if (passes_credentials() && endpoint_->name().length == 0) TRY(UnixNames::bind_any(*endpoint_));
  const bool has_files = !request.files.empty();
  Result<size_t> sent = endpoint_->send(request, passes_credentials());
  if (has_files && sent.ok()) UnixGarbage::collect_if_due();
  return sent;
}

Result<Received> UnixSocket::receive(UserBuffer& to, int flags) {
  return endpoint_->receive(to, flags, passes_credentials(), peek_offset_);
}

Result<void> UnixSocket::set_option(int name, std::span<const std::byte> value,
                                    const Credentials& credentials) {
  TRY(Socket::set_option(name, value, credentials));
  if (name == SO_PASSCRED) endpoint_->set_passes_credentials(passes_credentials());
  return {};
}

Result<uint64_t> UnixSocket::ioctl(CurrentTask& task, uint32_t request, uint64_t argument) {
  if (request != SIOCOUTQ) return Errno(ENOTTY);
  if (endpoint_->is_listening()) return Errno(EINVAL);
  int count = static_cast<int>(endpoint_->bytes_unread_by_peer());
  TRY(task.copy_out(UserOut<int>(argument), count));
  return 0;
}

}  // namespace caisson
