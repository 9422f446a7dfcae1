// UserBuffer: the memory that a read or write call moves data to or from, with its progress.
//
// An iovec list of guest memory that was copied in and checked once, or a span of the kernel's own
// memory (exec, splice). An operation owns its buffer; nothing is read twice. Linux: struct
// iov_iter.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <vector>

#include "base/ref.h"
#include "base/result.h"
#include "mm/memory_manager.h"

namespace caisson {

class UserBuffer {
 public:
  // Linux's MAX_RW_COUNT: longer requests are shortened to it.
  static constexpr uint64_t kMaxBytes = 0x7ffff000;
  static constexpr int kMaxSegments = 1024;  // IOV_MAX

  UserBuffer() = default;
  // EFAULT if the range leaves guest addresses.
  static Result<UserBuffer> create(MemoryManager& mm, GuestAddr addr, uint64_t length);
  // readv(2) and the like: reads `count` struct iovec. EINVAL: count or the sum is out of range.
  static Result<UserBuffer> create_vector(MemoryManager& mm, GuestAddr iovecs, uint64_t count);
  // The kernel's own memory, which must outlive the buffer.
  static UserBuffer of_kernel(std::span<std::byte> memory);
  static UserBuffer of_kernel(std::span<const std::byte> memory);

  uint64_t size() const { return size_; }
  uint64_t done() const { return done_; }
  uint64_t remaining() const { return size_ - done_; }

  // Moves up to `length` bytes towards the guest / from the guest and advances by what was moved.
  // The count is short at the end of the buffer, or at an address that can't be accessed; EFAULT if
  // that happens at the first byte.
  Result<size_t> write(const void* from, size_t length);
  Result<size_t> read(void* to, size_t length);
  Result<size_t> write_zeros(size_t length);
  // That much will be written next, in pieces; only for speed.
  void expect_write(uint64_t length);
  // As read(), without advancing.
  Result<size_t> peek(void* to, size_t length);
  void skip(uint64_t length);
  // Takes back progress, for data that found no taker.
  void rewind(uint64_t length);
  // Makes the buffer end after `length` more bytes.
  void truncate(uint64_t length);

 private:
  struct Segment {
    uint64_t addr;  // guest, or kernel if mm_ is null
    uint64_t length;
  };
  enum class Direction : uint8_t { kToUser, kZeros, kFromUser };
  UserBuffer(RefOrNull<MemoryManager> mm, uint64_t addr, uint64_t length);
  Result<size_t> transfer(Direction direction, void* to, const void* from, size_t length);
  std::span<const Segment> segments() const;

  RefOrNull<MemoryManager> mm_;
  Segment single_{};
  std::vector<Segment> many_;  // used when not empty
  uint64_t size_ = 0;
  uint64_t done_ = 0;
  size_t index_ = 0;     // segment of the next byte
  uint64_t within_ = 0;  // its offset in that segment
};

}  // namespace caisson
