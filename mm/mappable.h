// Mappable: what a file implements so that it can be mapped into guest memory.
//
// One per file (inode), handed out by the file's description; address spaces keep a reference as
// long as a mapping exists. A mappable is of one of three kinds:
//   kHostFile: a host file; stubs map it read-only through a platform::MappableFile, the kernel
//              process reads it through kernel_view(). Writable private mappings are copies.
//   kMemory:   the data live in the MemoryFile (tmpfs, memfd, shared anonymous memory, SysV shm).
//   kZero:     /dev/zero: a private mapping is anonymous memory.
// Calls come with mm locks and possibly file locks held: implementations take only locks that rank
// after kMmMappings (kPageIndex) and never call back into mm. read_at() alone is called with no
// lock of mm held. Linux: struct address_space and vm_operations.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/ref.h"
#include "base/result.h"
#include "mm/memory_file.h"
#include "platform/platform.h"

namespace caisson {

class MappingRegistry;

// What /proc/PID/maps shows of a file.
struct MappedFileInfo {
  uint32_t device_major = 0;
  uint32_t device_minor = 0;
  uint64_t inode = 0;
  std::string path;  // as the guest sees it; " (deleted)" included
};

struct PatchedCall {
  uint64_t offset = 0;  // in the file
  platform::CallShape shape = platform::CallShape::kMov;
  int32_t compared = 0;  // kCompare: with what
};

// A copy of one part of a host file's text in which system calls are patched. Immutable.
struct PatchedText {
  uint64_t offset = 0;  // in the file, of the image's first byte
  platform::PatchedImage image;
  std::vector<PatchedCall> calls;  // what is patched, by offset

  bool covers(uint64_t start, uint64_t length) const {
    return start >= offset && length <= image.bytes.size() &&
           start - offset <= image.bytes.size() - length;
  }
};

class Mappable : public RefCounted<Mappable> {
 public:
  enum class Kind : uint8_t { kHostFile, kMemory, kZero };

  virtual ~Mappable() = default;
  virtual Kind kind() const = 0;
  // Bytes now; accesses to whole pages beyond it get SIGBUS.
  virtual uint64_t size() const = 0;
  // Short only at the end of the file. May block on the host's disk.
  virtual Result<size_t> read_at(uint64_t offset, std::span<std::byte> out) = 0;
  virtual MappedFileInfo info() const = 0;
  // The same for all mappables of one file: shared futexes are told apart by it.
  virtual const void* identity() const { return this; }

  // Who maps the file; null for files whose content never goes away under a mapping.
  virtual MappingRegistry* registry() { return nullptr; }

  // A vma that maps it comes or goes; called with locks of mm held.
  virtual void mapping_opened() {}
  virtual void mapping_closed() {}
  // How many vmas map it; 0: not counted.
  virtual uint32_t mapping_count() const { return 0; }
  // shmat(2) makes its mappings, shmdt(2) ends them.
  virtual bool is_attachment() const { return false; }

  // kHostFile only.
  virtual Result<Ref<platform::MappableFile>> host_file() { return Errno(ENODEV); }
  // Where the kernel process can read [offset, offset + *length), after shortening *length to what
  // is contiguous; null if it can't. Stays valid as long as the mappable. Fault-guarded access
  // only.
  virtual const std::byte* kernel_view(uint64_t offset, uint64_t* length) { return nullptr; }

  // kHostFile only: what executable mappings show instead of the file; null: there is none (yet).
  virtual const PatchedText* patched_text() const { return nullptr; }
  // Once. Mappings that exist stay as they are (MemoryManager::map_text_again).
  virtual void set_patched_text(std::unique_ptr<PatchedText>) {}

  // kMemory only: the memory that holds `offset` (page aligned) and at most `length` bytes after
  // it. Takes a reference on the range for the caller. Holes are filled with new pages.
  virtual Result<MemoryRange> memory_range(uint64_t offset, uint64_t length) {
    return Errno(ENODEV);
  }
  // kMemory only: madvise(MADV_REMOVE), a hole of zeros.
  virtual Result<void> punch_hole(uint64_t offset, uint64_t length) { return Errno(EOPNOTSUPP); }
};

}  // namespace caisson
