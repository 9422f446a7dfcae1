// Waiting for children: wait4(2), waitid(2). Linux: do_wait() in kernel/exit.c.
#pragma once

#include <optional>

#include "kernel/operation.h"
#include "kernel/task.h"

namespace caisson {

enum class WaitFor : uint8_t { kAny, kProcess, kProcessGroup };

struct WaitRequest {
  WaitFor which = WaitFor::kAny;
  ProcessId id = 0;  // kProcessGroup: never 0
  bool exited = false, stopped = false, continued = false;
  bool no_hang = false;
  bool keep = false;        // WNOWAIT
  bool clone_only = false;  // __WCLONE: children whose exit signal is not SIGCHLD
  bool all = false;         // __WALL
  bool own_only = false;    // __WNOTHREAD
};

struct ChildEvent {
  ProcessId id = 0;
  UserId uid = 0;
  int code = 0;         // CLD_*
  int wait_status = 0;  // as wait4 stores it
  ResourceUse use;
};

// What there is now. ECHILD: no such child. Nothing: children, but none has changed.
Result<std::optional<ChildEvent>> take_child_event(Task& task, const WaitRequest& request)
    EXCLUDES(task_tree_mu);

// Waits until take_child_event() has something and hands it on: Deliver is called as
// `Result<uint64_t>(CurrentTask&, const ChildEvent*)`; null is WNOHANG with nothing to tell.
template <typename Deliver>
class WaitChildOperation final : public Operation {
 public:
  WaitChildOperation(const WaitRequest& request, Deliver deliver)
      : request_(request), deliver_(std::move(deliver)) {}
  WaitChildOperation(WaitChildOperation&& other)
      : request_(other.request_), deliver_(std::move(other.deliver_)) {}

  StepResult step(CurrentTask& current) override {
    auto event = take_child_event(task_of(current), request_);
    if (!event.ok()) return event.error();
    if (!event.value().has_value() && !request_.no_hang) return MustWait{};
    Result<uint64_t> result =
        deliver_(current, event.value().has_value() ? &*event.value() : nullptr);
    if (!result.ok()) return result.error();
    return result.value();
  }
  void arm(CurrentTask& current, Waiter& waiter) override {
    entry_.waiter = &waiter;
    entry_.mask = kEventIn;
    group_ = &task_of(current).group;
    group_->child_changes.add(entry_);
  }
  void disarm() override { group_->child_changes.remove(entry_); }
  const char* name() const override { return "do_wait"; }

 private:
  static Task& task_of(CurrentTask& current);

  const WaitRequest request_;
  Deliver deliver_;
  ThreadGroup* group_ = nullptr;  // the waiting task's own
  WaitEntry entry_;
};

Task& current_task_of(CurrentTask& current);
template <typename Deliver>
Task& WaitChildOperation<Deliver>::task_of(CurrentTask& current) {
  return current_task_of(current);
}

}  // namespace caisson
