// SharedMemory: memory without a file behind it that several address spaces map, MAP_SHARED |
// MAP_ANONYMOUS. Linux: shmem_zero_setup().
//
// One per such mmap; its vmas in all forks keep it. The offsets are taken at once, pages at touch.
#pragma once

#include "mm/mappable.h"

namespace caisson {

class SharedMemory final : public Mappable {
 public:
  // `align_like`: the address it is to be mapped at, if known.
  static Result<Ref<SharedMemory>> create(MemoryFile& memory, uint64_t length,
                                          uint64_t align_like = 0);
  ~SharedMemory() override;

  Kind kind() const override { return Kind::kMemory; }
  uint64_t size() const override { return range_.length; }
  Result<size_t> read_at(uint64_t offset, std::span<std::byte> out) override;
  MappedFileInfo info() const override;
  Result<MemoryRange> memory_range(uint64_t offset, uint64_t length) override;
  Result<void> punch_hole(uint64_t offset, uint64_t length) override;
  uint64_t resident_bytes() const;

 private:
  SharedMemory(MemoryFile& memory, MemoryRange range);
  MemoryFile& memory_;
  const MemoryRange range_;
  const uint64_t inode_;
};

}  // namespace caisson
