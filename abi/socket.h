// The socket part of the Linux ABI on x86-64: families, types, flags, options and structures of
// socket(2), sendmsg(2), unix(7). The one place that takes them from libc's headers, where the
// values are the kernel's own.
#pragma once

#include <linux/sockios.h>
#include <sys/socket.h>

#include <cstddef>
#include <cstdint>

namespace caisson::abi {

inline constexpr size_t kMaxSocketAddress = 128;  // sizeof(struct sockaddr_storage)
inline constexpr size_t kMaxUnixAddress = 110;    // sizeof(struct sockaddr_un)
inline constexpr size_t kMaxControl = 20480;      // net.core.optmem_max
inline constexpr size_t kMaxPassedFiles = 253;    // SCM_MAX_FD
inline constexpr int kMaxBacklog = 4096;          // net.core.somaxconn
inline constexpr int kScmCredentials = 2;         // SCM_CREDENTIALS

// struct user_msghdr.
struct MessageHeader {
  uint64_t name;
  int32_t name_length;
  int32_t pad = 0;
  uint64_t vector;
  uint64_t vector_count;
  uint64_t control;
  uint64_t control_length;
  uint32_t flags;
  uint32_t pad2 = 0;
};
static_assert(sizeof(MessageHeader) == sizeof(struct ::msghdr));

// struct mmsghdr.
struct MultiMessageHeader {
  MessageHeader header;
  uint32_t length;
  uint32_t pad = 0;
};
static_assert(sizeof(MultiMessageHeader) == 64);

// struct cmsghdr; what it heads follows, and the next one begins at a multiple of eight.
struct ControlHeader {
  uint64_t length;
  int32_t level;
  int32_t type;
};
static_assert(sizeof(ControlHeader) == sizeof(struct ::cmsghdr));

// struct ucred.
struct PeerCredentials {
  int32_t pid = 0;
  uint32_t uid = ~0u;
  uint32_t gid = ~0u;
  friend bool operator==(const PeerCredentials&, const PeerCredentials&) = default;
};
static_assert(sizeof(PeerCredentials) == 12);

}  // namespace caisson::abi
