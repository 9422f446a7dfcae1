#include "mm/shared_memory.h"

#include <algorithm>

#include "mm/safe_copy.h"

namespace caisson {

namespace {
std::atomic<uint64_t> g_next_inode{1};
}

Result<Ref<SharedMemory>> SharedMemory::create(MemoryFile& memory, uint64_t length,
                                               uint64_t align_like) {
  MemoryRange range = TRY(memory.allocate(length, align_like));
  return adopt_ref(new SharedMemory(memory, range));
}

SharedMemory::SharedMemory(MemoryFile& memory, MemoryRange range)
    : memory_(memory), range_(range), inode_(g_next_inode.fetch_add(1)) {}

SharedMemory::~SharedMemory() { memory_.release(range_); }

Result<size_t> SharedMemory::read_at(uint64_t offset, std::span<std::byte> out) {
  if (offset >= range_.length) return size_t{0};
  size_t length = std::min<uint64_t>(out.size(), range_.length - offset);
  if (safe_copy(out.data(), memory_.at(range_.offset + offset), length) != 0)
    return Errno(kEMEMORYLIMIT);
  return length;
}

MappedFileInfo SharedMemory::info() const { return {0, 1, inode_, "/dev/zero (deleted)"}; }

Result<MemoryRange> SharedMemory::memory_range(uint64_t offset, uint64_t length) {
  if (offset >= range_.length) return Errno(EFAULT);
  MemoryRange part{range_.offset + offset, std::min(length, range_.length - offset)};
  memory_.add_reference(part);
  return part;
}

Result<void> SharedMemory::punch_hole(uint64_t offset, uint64_t length) {
  if (offset >= range_.length) return {};
  memory_.discard({range_.offset + offset, std::min(length, range_.length - offset)});
  return {};
}

uint64_t SharedMemory::resident_bytes() const {
  uint64_t bytes = 0;
  for (MemoryRange rest = range_; !rest.empty();) {
    MemoryRange data = memory_.next_data(rest);
    if (data.empty()) break;
    bytes += data.length;
    rest = {data.end(), rest.end() - data.end()};
  }
  return bytes;
}

}  // namespace caisson
