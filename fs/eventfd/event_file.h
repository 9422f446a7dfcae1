// EventFile: eventfd(2), a counter that can be waited for. Linux: fs/eventfd.c.
#pragma once

#include "base/mutex.h"
#include "vfs/file_description.h"

namespace caisson {

class EventFile final : public FileDescription {
 public:
  // `flags`: O_NONBLOCK or 0. With `semaphore` a read takes one instead of all.
  static Ref<EventFile> create(uint64_t initial, uint32_t flags, bool semaphore);

  Result<size_t> read(UserBuffer& to, IoFlags flags) override;
  Result<size_t> write(UserBuffer& from, IoFlags flags) override;
  EventMask readiness(EventMask mask) override;
  void add_waiter(WaitEntry& entry) override { queue_.add(entry); }
  void remove_waiter(WaitEntry& entry) override { queue_.remove(entry); }
  bool can_poll() const override { return true; }
  // From inside the kernel (asynchronous I/O): never blocks, saturates.
  void signal(uint64_t amount);

 private:
  EventFile(uint64_t initial, uint32_t flags, bool semaphore);
  const bool semaphore_;
  Mutex<LockRank::kPipe> mu_;
  uint64_t count_ GUARDED_BY(mu_);
  WaitQueue queue_;
};

}  // namespace caisson
