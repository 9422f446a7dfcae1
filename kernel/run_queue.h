// RunQueue: tasks that are ready to be run by a worker: woken from a wait, or new. First come,
// first served. Each queued task holds a reference to itself.
//
// Lock: mu_, rank kRunQueue; held for a few instructions.
#pragma once

#include <atomic>

#include "base/intrusive_list.h"
#include "base/mutex.h"
#include "base/ref.h"
#include "kernel/task.h"
#include "platform/platform.h"

namespace caisson {

class RunQueue final : public platform::WorkSource {
 public:
  explicit RunQueue(platform::Platform& platform) : platform_(platform) {}
  ~RunQueue() override;

  // Adds the task and makes a worker look.
  void push(Task& task) EXCLUDES(mu_);
  RefOrNull<Task> pop() EXCLUDES(mu_);

  // Workers are to end: has_work() stays true.
  void close();
  bool is_closed() const { return closed_.load(std::memory_order_acquire); }

  bool has_work() const override {
    return count_.load(std::memory_order_acquire) != 0 || is_closed();
  }

 private:
  platform::Platform& platform_;
  Mutex<LockRank::kRunQueue> mu_;
  IntrusiveList<Task, RunQueueTag> tasks_ GUARDED_BY(mu_);
  std::atomic<uint32_t> count_{0};
  std::atomic<bool> closed_{false};
};

}  // namespace caisson
