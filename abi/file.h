// The file part of the Linux ABI on x86-64: flags, modes and structures of open(2), stat(2),
// getdents64(2), statfs(2). The one place that takes them from libc's headers, where the layouts
// are the kernel's own (asserted below); what differs has its own name here.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>

#include <cstddef>
#include <cstdint>

namespace caisson::abi {

// libc says 0 for O_LARGEFILE on 64-bit machines; the kernel sets and reports this bit.
inline constexpr uint32_t kOLargeFile = 0100000;

inline constexpr size_t kPathMax = 4096;  // with the terminating NUL
inline constexpr size_t kNameMax = 255;
inline constexpr int kMaxSymlinks = 40;

using Stat = struct ::stat;
static_assert(sizeof(Stat) == 144 && offsetof(Stat, st_size) == 48);
using Statx = struct ::statx;
static_assert(sizeof(Statx) == 256 && offsetof(Statx, stx_rdev_major) == 0x80);

struct Statfs {
  int64_t type, bsize;
  uint64_t blocks, bfree, bavail, files, ffree;
  int32_t fsid[2];
  int64_t namelen, frsize, flags, spare[4];
};
static_assert(sizeof(Statfs) == 120);

// struct linux_dirent64 without its name.
struct DirentHeader {
  uint64_t ino;
  int64_t next;
  uint16_t record_length;
  uint8_t type;
} __attribute__((packed));
static_assert(sizeof(DirentHeader) == 19);

struct OpenHow {
  uint64_t flags, mode, resolve;
};
inline constexpr uint64_t kResolveNoXdev = 1, kResolveNoMagicLinks = 2, kResolveNoSymlinks = 4,
                          kResolveBeneath = 8, kResolveInRoot = 16, kResolveCached = 32;

}  // namespace caisson::abi
