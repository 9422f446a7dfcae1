// WaitQueue: the one way to wait for an event of an object and to be polled. Linux:
// include/linux/wait.h, poll.h.
//
// Every object that can make someone wait has one queue. A Waiter links a WaitEntry per queue;
// notify() calls it back. notify() runs under the queue's lock and calls Waiter::notified(), which
// must be short, must not take locks of a rank below kWaitQueue and must not touch the queue. After
// remove() returns, no callback of that entry is running or will run. Nothing sleeps here: a task
// that waits is parked by the kernel (kernel/operation.h).
#pragma once

#include <cstdint>

#include "base/intrusive_list.h"
#include "base/mutex.h"

namespace caisson {

// The bits of poll(2) and epoll(7).
using EventMask = uint32_t;
inline constexpr EventMask kEventIn = 0x001;
inline constexpr EventMask kEventPri = 0x002;
inline constexpr EventMask kEventOut = 0x004;
inline constexpr EventMask kEventErr = 0x008;
inline constexpr EventMask kEventHup = 0x010;
inline constexpr EventMask kEventRdHup = 0x2000;
inline constexpr EventMask kEventAlways =
    kEventErr | kEventHup;                               // reported whether asked for or not
inline constexpr EventMask kEventInternal = 0x80000000;  // objects' own use

class Waiter {
 public:
  virtual void notified(EventMask events) = 0;

 protected:
  ~Waiter() = default;
};

class WaitQueue;

struct WaitEntry : ListNode<> {
  WaitEntry() = default;
  WaitEntry(Waiter* waiter, EventMask mask) : waiter(waiter), mask(mask) {}
  Waiter* waiter = nullptr;
  EventMask mask = 0;
};

class WaitQueue {
 public:
  void add(WaitEntry& entry) EXCLUDES(mu_);
  void remove(WaitEntry& entry) EXCLUDES(mu_);  // harmless if it is not queued
  // Calls back every entry whose mask shares a bit with `events`.
  void notify(EventMask events) EXCLUDES(mu_);
  bool has_waiters() const;

 private:
  mutable Mutex<LockRank::kWaitQueue> mu_;
  IntrusiveList<WaitEntry> entries_ GUARDED_BY(mu_);
};

// An object whose readiness can be asked and waited for.
class Waitable {
 public:
  // Which of `mask` (and kEventAlways) hold now.
  virtual EventMask readiness(EventMask mask) = 0;
  virtual void add_waiter(WaitEntry& entry) = 0;
  virtual void remove_waiter(WaitEntry& entry) = 0;

 protected:
  ~Waitable() = default;
};

}  // namespace caisson
