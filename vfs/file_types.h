// Small value types of files: times, device numbers, what stat(2) answers, what a change of
// attributes asks for.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "abi/file.h"

namespace caisson {

struct FileTime {
  int64_t seconds = 0;
  uint32_t nanoseconds = 0;
  friend bool operator==(const FileTime&, const FileTime&) = default;
};
// The host's CLOCK_REALTIME.
FileTime file_time_now();

// Linux's new_encode_dev(): 12 bits of major number, 20 of minor number.
constexpr uint64_t make_device(uint32_t major, uint32_t minor) {
  return (minor & 0xffu) | (static_cast<uint64_t>(major & 0xfffu) << 8) |
         (static_cast<uint64_t>(minor & ~0xffu) << 12);
}
constexpr uint32_t device_major(uint64_t device) { return (device >> 8) & 0xfffu; }
constexpr uint32_t device_minor(uint64_t device) {
  return static_cast<uint32_t>((device & 0xffu) | ((device >> 12) & 0xfff00u));
}

struct FileStat {
  uint64_t device = 0;
  uint64_t ino = 0;
  uint32_t mode = 0;  // type and permission bits
  uint32_t link_count = 1;
  uint32_t uid = 0, gid = 0;
  uint64_t special_device = 0;  // of a device node
  uint64_t size = 0;            // bytes
  uint32_t block_size = 4096;   // bytes, st_blksize
  uint64_t blocks = 0;          // of 512 bytes
  FileTime accessed, modified, changed;
  std::optional<FileTime> born;
};

// What chmod, chown, utimensat and truncate change; unset fields stay. The permission to do so has
// been checked.
struct AttributeChange {
  std::optional<uint32_t> mode;  // permission bits only
  std::optional<uint32_t> uid, gid;
  std::optional<FileTime> accessed, modified;
};

// The bits of access(2), used for permission checks.
using AccessMask = uint32_t;
inline constexpr AccessMask kMayExecute = 1, kMayWrite = 2, kMayRead = 4;

struct DirectoryEntry {
  std::string name;
  uint64_t ino = 0;
  uint8_t type = 0;  // DT_*
};
// What a directory held at one moment, without "." and "..".
using DirectoryListing = std::shared_ptr<const std::vector<DirectoryEntry>>;

constexpr uint8_t dirent_type(uint32_t mode) { return static_cast<uint8_t>((mode & S_IFMT) >> 12); }

// statfs(2), the part that a filesystem knows.
struct FilesystemStat {
  uint64_t magic = 0;
  uint32_t block_size = 4096;
  uint64_t blocks = 0, blocks_free = 0, files = 0, files_free = 0;
};

}  // namespace caisson
