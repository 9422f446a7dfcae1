// EventLoop: the one kernel-process thread that waits for host descriptors and for deadlines.
//
// It sleeps in epoll_wait(2) without a time limit, or until the earliest deadline: an idle sandbox
// has no periodic work. Callbacks run on its thread with no lock held; they must be short and must
// not block (they mark tasks as ready and ring a worker). One per kernel process; everything may be
// called from any thread. Rank: kEventLoop.
#pragma once

#include <sys/epoll.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <thread>
#include <unordered_map>

#include "base/mutex.h"
#include "base/ref.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace caisson::host {

// Host CLOCK_MONOTONIC, nanoseconds.
uint64_t monotonic_ns();

// Called on the loop's thread. Reference counted, so that a callback that is under way keeps its
// object alive.
class FdWatcher : public RefCounted<FdWatcher> {
 public:
  virtual ~FdWatcher() = default;
  // `epoll_events` as epoll_wait(2) reported them. Edge-triggered.
  virtual void ready(uint32_t epoll_events) = 0;
};

class DeadlineTarget : public RefCounted<DeadlineTarget> {
 public:
  virtual ~DeadlineTarget() = default;
  // `armed_at` is the deadline that was given, so that a stale expiry can be told from a new one.
  virtual void expired(uint64_t armed_at) = 0;
};

class EventLoop {
 public:
  static Result<std::unique_ptr<EventLoop>> create();
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // Starts and ends the thread. stop() waits for it; callbacks that are under way finish first.
  Result<void> start();
  void stop();

  // Watches a host descriptor (not owned) edge-triggered for EPOLL* events until unwatch(). A
  // callback that is already under way may still run after unwatch() returns.
  Result<void> watch(int fd, uint32_t epoll_events, Ref<FdWatcher> watcher);
  void unwatch(int fd);

  // Calls target->expired() once at or after `deadline_ns` (CLOCK_MONOTONIC). A target has any
  // number of deadlines; cancel() takes back one that has not expired and says whether it did.
  void add_deadline(uint64_t deadline_ns, Ref<DeadlineTarget> target);
  bool cancel_deadline(uint64_t deadline_ns, DeadlineTarget& target);

 private:
  EventLoop() = default;
  void run();
  void kick();

  UniqueFd epoll_;
  UniqueFd wake_;   // eventfd
  UniqueFd timer_;  // timerfd, absolute CLOCK_MONOTONIC
  std::thread thread_;
  std::atomic<bool> stopping_{false};
  Mutex<LockRank::kEventLoop> mu_;
  std::unordered_map<int, std::pair<uint64_t, Ref<FdWatcher>>> watchers_ GUARDED_BY(mu_);
  std::set<std::pair<uint64_t, DeadlineTarget*>> deadlines_
      GUARDED_BY(mu_);  // each holds a reference
  uint64_t timer_set_for_ GUARDED_BY(mu_) = 0;
  uint64_t next_generation_ GUARDED_BY(mu_) = 1;
};

}  // namespace caisson::host
