// Making tasks: clone(2), fork, vfork. Linux: kernel/fork.c, copy_process().
#pragma once

#include <linux/sched.h>

#include "kernel/task.h"

namespace caisson {

struct CloneRequest {
  uint64_t flags = 0;  // CLONE_*, without the exit signal
  int exit_signal = 0;
  GuestAddr pidfd = 0;
  GuestAddr child_tid = 0;
  GuestAddr parent_tid = 0;
  GuestAddr stack = 0;  // stack pointer; 0: the caller's
  GuestAddr tls = 0;
};

struct Cloned {
  ProcessId id;
  RefOrNull<VforkDone> vfork;  // with CLONE_VFORK
};

// Precondition: the caller's vector state is at hand. The child runs as soon as this returns.
Result<Cloned> clone_task(CurrentTask& current, const CloneRequest& request);

// The parent's wait for a vfork child; the result is the child's number.
class VforkOperation final : public Operation {
 public:
  VforkOperation(Ref<VforkDone> done, ProcessId child) : done_(std::move(done)), child_(child) {}
  VforkOperation(VforkOperation&& other) : done_(std::move(other.done_)), child_(other.child_) {}
  StepResult step(CurrentTask&) override {
    if (done_->done.load(std::memory_order_acquire)) return static_cast<uint64_t>(child_);
    return MustWait{};
  }
  void arm(CurrentTask&, Waiter& waiter) override {
    entry_.waiter = &waiter;
    entry_.mask = kEventIn;
    done_->queue.add(entry_);
  }
  void disarm() override { done_->queue.remove(entry_); }
  bool killable_only() const override { return true; }
  const char* name() const override { return "vfork"; }

 private:
  Ref<VforkDone> done_;
  ProcessId child_;
  WaitEntry entry_;
};

}  // namespace caisson
