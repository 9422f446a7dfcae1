// The guest's struct msghdr, addresses and control messages, cmsg(3). Linux: net/core/scm.c.
#pragma once

#include <vector>

#include "abi/socket.h"
#include "kernel/current_task.h"
#include "net/socket.h"

namespace caisson {

// Who the task is to its peers.
abi::PeerCredentials sender_of(CurrentTask& task);     // real ids, SCM_CREDENTIALS
abi::PeerCredentials connector_of(CurrentTask& task);  // effective ids, SO_PEERCRED

// EINVAL: longer than any address.
Result<SocketAddress> copy_in_address(CurrentTask& task, GuestAddr addr, int length);
// At most `room` bytes.
Result<void> copy_out_address(CurrentTask& task, GuestAddr addr, uint32_t room,
                              const SocketAddress& address);
// accept(2), getsockname(2), recvfrom(2): `length` is read for the room, and told the true length.
Result<void> copy_out_address_and_length(CurrentTask& task, GuestAddr addr,
                                         UserInOut<int32_t> length, const SocketAddress& address);

// What a sender's control messages ask for.
struct SentControl {
  abi::PeerCredentials credentials;
  bool has_credentials = false;
  std::vector<Ref<FileDescription>> files;
};
Result<SentControl> copy_in_control(CurrentTask& task, const abi::MessageHeader& header);

// Installs descriptors and writes control messages; false: something had no room (MSG_CTRUNC).
struct ControlWritten {
  uint64_t length = 0;
  bool truncated = false;
};
Result<ControlWritten> copy_out_control(CurrentTask& task, GuestAddr control, uint64_t room,
                                        Received& received, bool close_on_exec);

}  // namespace caisson
