#include "fs/eventfd/event_file.h"

#include "mm/user_buffer.h"

namespace caisson {
namespace {
constexpr uint64_t kMax = UINT64_MAX - 1;
}

EventFile::EventFile(uint64_t initial, uint32_t flags, bool semaphore)
    : FileDescription(make_anonymous_path("anon_inode:[eventfd]", 0600), O_RDWR | flags),
      semaphore_(semaphore),
      count_(initial) {}

Ref<EventFile> EventFile::create(uint64_t initial, uint32_t flags, bool semaphore) {
  return adopt_ref(new EventFile(initial, flags, semaphore));
}

Result<size_t> EventFile::read(UserBuffer& to, IoFlags) {
  if (to.remaining() < sizeof(uint64_t)) return Errno(EINVAL);
  uint64_t value;
  {
    MutexLock lock(mu_);
    if (count_ == 0) return Errno(EAGAIN);
    value = semaphore_ ? 1 : count_;
    count_ -= value;
  }
  queue_.notify(kEventOut);
  if (TRY(to.write(&value, sizeof value)) != sizeof value) return Errno(EFAULT);
  return sizeof value;
}

Result<size_t> EventFile::write(UserBuffer& from, IoFlags) {
  if (from.remaining() < sizeof(uint64_t)) return Errno(EINVAL);
  uint64_t value = 0;
  // Not taken before it fits: a write that waits is tried again with the same buffer.
  if (TRY(from.peek(&value, sizeof value)) != sizeof value) return Errno(EFAULT);
  if (value == UINT64_MAX) return Errno(EINVAL);
  {
    MutexLock lock(mu_);
    if (value > kMax - count_) return Errno(EAGAIN);
    count_ += value;
  }
  from.skip(sizeof value);
  if (value != 0) queue_.notify(kEventIn);
  return sizeof value;
}

EventMask EventFile::readiness(EventMask mask) {
  EventMask ready = 0;
  MutexLock lock(mu_);
  if (count_ > 0) ready |= kEventIn;
  if (count_ < kMax) ready |= kEventOut;
  if (count_ == UINT64_MAX) ready |= kEventErr;
  return ready & (mask | kEventAlways);
}

void EventFile::signal(uint64_t amount) {
  {
    MutexLock lock(mu_);
    count_ = amount > UINT64_MAX - count_ ? UINT64_MAX : count_ + amount;
  }
  queue_.notify(kEventIn);
}

}  // namespace caisson
