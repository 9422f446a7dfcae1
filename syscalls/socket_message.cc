#include "syscalls/socket_message.h"

#include <fcntl.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstring>

#include "net/files_in_flight.h"
#include "vfs/fd_table.h"

namespace caisson {
namespace {

constexpr uint64_t align(uint64_t length) { return (length + 7) & ~uint64_t{7}; }
constexpr uint64_t kHeader = sizeof(abi::ControlHeader);
// Descriptors under way beyond RLIMIT_NOFILE, for privileged senders.
constexpr uint64_t kMaxInFlight = 1u << 16;

Result<void> check_credentials(CurrentTask& task, const abi::PeerCredentials& claimed) {
  const Credentials& own = task.credentials();
  const bool is_uid = claimed.uid == own.ruid || claimed.uid == own.euid || claimed.uid == own.suid;
  const bool is_gid = claimed.gid == own.rgid || claimed.gid == own.egid || claimed.gid == own.sgid;
  if ((claimed.pid == task.process_id() || own.has(Capability::kSysAdmin)) &&
      (is_uid || own.has(Capability::kSetuid)) && (is_gid || own.has(Capability::kSetgid)))
    return {};
  return Errno(EPERM);
}

Result<void> add_files(CurrentTask& task, std::span<const std::byte> data, SentControl& control) {
  const size_t count = data.size() / sizeof(int32_t);
  if (control.files.size() + count > abi::kMaxPassedFiles) return Errno(EINVAL);
  for (size_t i = 0; i < count; ++i) {
    int32_t fd;
    std::memcpy(&fd, data.data() + i * sizeof fd, sizeof fd);
    control.files.push_back(TRY(task.files().get_any(fd)));
  }
  const Credentials& own = task.credentials();
  const bool is_privileged = own.has(Capability::kSysResource) || own.has(Capability::kSysAdmin);
  const uint64_t limit =
      is_privileged ? kMaxInFlight : std::min(kMaxInFlight, task.limit(RLIMIT_NOFILE));
  if (FilesInFlight::count() + count > limit) return Errno(ETOOMANYREFS);
  return {};
}

}  // namespace

abi::PeerCredentials sender_of(CurrentTask& task) {
  return {task.process_id(), task.credentials().ruid, task.credentials().rgid};
}
abi::PeerCredentials connector_of(CurrentTask& task) {
  return {task.process_id(), task.credentials().euid, task.credentials().egid};
}

Result<SocketAddress> copy_in_address(CurrentTask& task, GuestAddr addr, int length) {
  if (length < 0 || static_cast<size_t>(length) > abi::kMaxSocketAddress) return Errno(EINVAL);
  SocketAddress address;
  address.length = static_cast<uint32_t>(length);
  if (length != 0) TRY(task.copy_in_bytes(address.bytes.data(), addr, address.length));
  return address;
}

Result<void> copy_out_address(CurrentTask& task, GuestAddr addr, uint32_t room,
                              const SocketAddress& address) {
  const uint32_t length = std::min(room, address.length);
  if (length == 0) return {};
  return task.copy_out_bytes(addr, address.bytes.data(), length);
}

Result<void> copy_out_address_and_length(CurrentTask& task, GuestAddr addr,
                                         UserInOut<int32_t> length, const SocketAddress& address) {
  const int32_t room = TRY(task.copy_in(length));
  if (room < 0) return Errno(EINVAL);
  TRY(copy_out_address(task, addr, static_cast<uint32_t>(room), address));
  return task.copy_out(length, static_cast<int32_t>(address.length));
}

Result<SentControl> copy_in_control(CurrentTask& task, const abi::MessageHeader& header) {
  SentControl control;
  control.credentials = sender_of(task);
  if (header.control_length > INT32_MAX) return Errno(ENOBUFS);
  if (header.control_length == 0) return control;
  if (header.control_length > abi::kMaxControl) return Errno(ENOBUFS);
  std::vector<std::byte> bytes =
      TRY(task.copy_in_array(UserIn<std::byte>(header.control), header.control_length));
  for (uint64_t at = 0; at + kHeader <= bytes.size();) {
    abi::ControlHeader message;
    std::memcpy(&message, bytes.data() + at, sizeof message);
    if (message.length < kHeader || message.length > bytes.size() - at) return Errno(EINVAL);
    std::span<const std::byte> data(bytes.data() + at + kHeader, message.length - kHeader);
    at += align(message.length);
    if (message.level != SOL_SOCKET) continue;
    switch (message.type) {
      case SCM_RIGHTS:
        TRY(add_files(task, data, control));
        break;
      case abi::kScmCredentials:
        if (data.size() != sizeof control.credentials) return Errno(EINVAL);
        std::memcpy(&control.credentials, data.data(), sizeof control.credentials);
        TRY(check_credentials(task, control.credentials));
        control.has_credentials = true;
        break;
      default:
        return Errno(EINVAL);
    }
  }
  return control;
}

namespace {

// Writes control messages one after the other, as far as there is room.
class ControlWriter {
 public:
  ControlWriter(CurrentTask& task, GuestAddr to, uint64_t room)
      : task_(task), to_(to), room_(room) {}

  uint64_t room_for_data() const { return room_ > at_ + kHeader ? room_ - at_ - kHeader : 0; }
  // Cuts what does not fit, as put_cmsg() of Linux does.
  Result<void> put(int type, std::span<const std::byte> data) {
    if (room_ < at_ + kHeader) {
      truncated_ = true;
      return {};
    }
    uint64_t length = kHeader + data.size();
    if (length > room_ - at_) {
      truncated_ = true;
      length = room_ - at_;
    }
    const abi::ControlHeader header{length, SOL_SOCKET, type};
    TRY(task_.copy_out_bytes(to_ + at_, &header, sizeof header));
    TRY(task_.copy_out_bytes(to_ + at_ + kHeader, data.data(), length - kHeader));
    at_ += std::min(align(length), room_ - at_);
    return {};
  }
  void set_truncated() { truncated_ = true; }
  ControlWritten done() const { return {at_, truncated_}; }

 private:
  CurrentTask& task_;
  const GuestAddr to_;
  const uint64_t room_;
  uint64_t at_ = 0;
  bool truncated_ = false;
};

}  // namespace

Result<ControlWritten> copy_out_control(CurrentTask& task, GuestAddr control, uint64_t room,
                                        Received& received, bool close_on_exec) {
  ControlWriter writer(task, control, room);
  if (received.credentials) {
    TRY(writer.put(abi::kScmCredentials,
                   std::as_bytes(std::span(&*received.credentials, size_t{1}))));
  }
  if (received.files.empty()) return writer.done();
  const std::vector<Ref<FileDescription>>& files = received.files.files();
  std::vector<int32_t> numbers;
  const uint64_t fit = writer.room_for_data() / sizeof(int32_t);
  for (const Ref<FileDescription>& file : files) {
    if (numbers.size() == fit) break;
    Result<int> number = task.files().install(file, {close_on_exec, 0, task.limit(RLIMIT_NOFILE)});
    if (!number.ok()) break;
    numbers.push_back(number.value());
  }
  if (numbers.size() < files.size()) writer.set_truncated();
  received.files = {};  // those without room are released
  if (!numbers.empty()) TRY(writer.put(SCM_RIGHTS, std::as_bytes(std::span(numbers))));
  return writer.done();
}

}  // namespace caisson
