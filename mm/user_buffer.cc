#include "mm/user_buffer.h"

#include <algorithm>
#include <cstring>

namespace caisson {

namespace {
struct GuestIovec {
  uint64_t base;
  uint64_t length;
};
}  // namespace

UserBuffer::UserBuffer(RefOrNull<MemoryManager> mm, uint64_t addr, uint64_t length)
    : mm_(std::move(mm)), single_{addr, length}, size_(length) {}

Result<UserBuffer> UserBuffer::create(MemoryManager& mm, GuestAddr addr, uint64_t length) {
  length = std::min(length, kMaxBytes);
  if (!mm.is_guest_range(addr, length)) return Errno(EFAULT);
  return UserBuffer(RefOrNull<MemoryManager>(&mm), addr, length);
}

Result<UserBuffer> UserBuffer::create_vector(MemoryManager& mm, GuestAddr iovecs, uint64_t count) {
  if (count > kMaxSegments) return Errno(EINVAL);
  UserBuffer buffer(RefOrNull<MemoryManager>(&mm), 0, 0);
  if (count == 0) return buffer;
  std::vector<GuestIovec> raw(count);
  TRY(mm.copy_in(raw.data(), iovecs, count * sizeof(GuestIovec)).result());
  for (const GuestIovec& entry : raw) {
    if (entry.length > static_cast<uint64_t>(INT64_MAX)) return Errno(EINVAL);
    if (!mm.is_guest_range(entry.base, entry.length)) return Errno(EFAULT);
    uint64_t length = std::min(entry.length, kMaxBytes - buffer.size_);
    if (length == 0) continue;
    buffer.many_.push_back({entry.base, length});
    buffer.size_ += length;
  }
  if (buffer.many_.size() == 1) {
    buffer.single_ = buffer.many_.front();
    buffer.many_.clear();
  }
  return buffer;
}

UserBuffer UserBuffer::of_kernel(std::span<std::byte> memory) {
  return UserBuffer(nullptr, reinterpret_cast<uintptr_t>(memory.data()), memory.size());
}

UserBuffer UserBuffer::of_kernel(std::span<const std::byte> memory) {
  return UserBuffer(nullptr, reinterpret_cast<uintptr_t>(memory.data()), memory.size());
}

std::span<const UserBuffer::Segment> UserBuffer::segments() const {
  if (many_.empty()) return {&single_, 1};
  return many_;
}

// Moves data from segment to segment, without advancing.
Result<size_t> UserBuffer::transfer(Direction direction, void* to, const void* from,
                                    size_t length) {
  length = std::min<uint64_t>(length, remaining());
  std::span<const Segment> all = segments();
  size_t index = index_;
  uint64_t within = within_;
  size_t moved = 0;
  while (moved < length) {
    const Segment& segment = all[index];
    if (within == segment.length) {
      ++index;
      within = 0;
      continue;
    }
    size_t piece = std::min<uint64_t>(length - moved, segment.length - within);
    uint64_t addr = segment.addr + within;
    CopyResult copied;
    if (!mm_) {
      auto* memory = reinterpret_cast<std::byte*>(addr);
      if (direction == Direction::kToUser)
        std::memcpy(memory, static_cast<const std::byte*>(from) + moved, piece);
      else if (direction == Direction::kZeros)
        std::memset(memory, 0, piece);
      else
        std::memcpy(static_cast<std::byte*>(to) + moved, memory, piece);
      copied.done = piece;
    } else if (direction == Direction::kToUser) {
      copied = mm_->copy_out(addr, static_cast<const std::byte*>(from) + moved, piece);
    } else if (direction == Direction::kZeros) {
      copied = mm_->zero_out(addr, piece);
    } else {
      copied = mm_->copy_in(static_cast<std::byte*>(to) + moved, addr, piece);
    }
    moved += copied.done;
    within += copied.done;
    if (!copied.ok()) {
      if (moved == 0) return copied.error;
      break;
    }
  }
  return moved;
}

void UserBuffer::expect_write(uint64_t length) {
  if (!mm_) return;
  length = std::min(length, remaining());
  std::span<const Segment> all = segments();
  uint64_t within = within_;
  for (size_t index = index_; length != 0; ++index, within = 0) {
    const uint64_t piece = std::min(length, all[index].length - within);
    mm_->expect_copy_out(all[index].addr + within, piece);
    length -= piece;
  }
}

Result<size_t> UserBuffer::write(const void* from, size_t length) {
  expect_write(length);
  size_t moved = TRY(transfer(Direction::kToUser, nullptr, from, length));
  skip(moved);
  return moved;
}

Result<size_t> UserBuffer::write_zeros(size_t length) {
  expect_write(length);
  size_t moved = TRY(transfer(Direction::kZeros, nullptr, nullptr, length));
  skip(moved);
  return moved;
}

Result<size_t> UserBuffer::read(void* to, size_t length) {
  size_t moved = TRY(transfer(Direction::kFromUser, to, nullptr, length));
  skip(moved);
  return moved;
}

Result<size_t> UserBuffer::peek(void* to, size_t length) {
  return transfer(Direction::kFromUser, to, nullptr, length);
}

void UserBuffer::skip(uint64_t length) {
  length = std::min(length, remaining());
  done_ += length;
  std::span<const Segment> all = segments();
  while (length != 0) {
    uint64_t step = std::min(length, all[index_].length - within_);
    within_ += step;
    length -= step;
    if (length != 0) {
      ++index_;
      within_ = 0;
    }
  }
}

void UserBuffer::rewind(uint64_t length) {
  uint64_t target = done_ - std::min(length, done_);
  done_ = 0;
  index_ = 0;
  within_ = 0;
  skip(target);
}

void UserBuffer::truncate(uint64_t length) { size_ = done_ + std::min(length, remaining()); }

}  // namespace caisson
