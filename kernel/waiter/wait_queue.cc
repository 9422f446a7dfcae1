#include "kernel/waiter/wait_queue.h"

namespace caisson {

void WaitQueue::add(WaitEntry& entry) {
  MutexLock lock(mu_);
  entries_.push_back(entry);
}

void WaitQueue::remove(WaitEntry& entry) {
  MutexLock lock(mu_);
  if (entry.linked()) entries_.remove(entry);
}

void WaitQueue::notify(EventMask events) {
  // An epoll that is told here tells its own waiters: queues nest, never in a circle.
  MutexLockSameRank lock(mu_);
  for (WaitEntry* entry = entries_.front(); entry != nullptr; entry = entries_.next(*entry)) {
    if ((entry->mask & events) != 0) entry->waiter->notified(events);
  }
}

bool WaitQueue::has_waiters() const {
  MutexLock lock(mu_);
  return !const_cast<IntrusiveList<WaitEntry>&>(entries_).empty();
}

}  // namespace caisson
