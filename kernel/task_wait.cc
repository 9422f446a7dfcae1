#include "kernel/task_wait.h"

#include "kernel/current_task.h"
#include "kernel/kernel.h"
#include "kernel/process_tree.h"

namespace caisson {
namespace {

bool matches(const ThreadGroup& child, const WaitRequest& request) REQUIRES(task_tree_mu) {
  child.assert_tree_locked();
  switch (request.which) {
    case WaitFor::kAny:
      break;
    case WaitFor::kProcess:
      if (child.id != request.id) return false;
      break;
    case WaitFor::kProcessGroup:
      if (!child.process_group || child.process_group->id != request.id) return false;
      break;
  }
  if (request.all) return true;
  return (child.exit_signal != SIGCHLD) == request.clone_only;
}

ResourceUse use_of(ThreadGroup& child) REQUIRES(task_tree_mu) {
  child.assert_tree_locked();
  ResourceUse use = child.children_use;
  MutexLock lock(child.mu);
  use.cpu_ns += child.dead_cpu_ns;
  for (Task* task : child.tasks) use.cpu_ns += task->cpu_time_ns();
  use.max_resident_bytes = std::max(use.max_resident_bytes, child.peak_resident_bytes);
  return use;
}

std::optional<ChildEvent> event_of(ThreadGroup& child, const WaitRequest& request)
    REQUIRES(task_tree_mu) {
  child.assert_tree_locked();
  ChildEvent event;
  event.id = child.id;
  if (child.leader != nullptr) event.uid = child.leader->credentials_ref()->ruid;
  if (child.is_zombie) {
    if (!request.exited) return std::nullopt;
    event.use = use_of(child);
    MutexLock lock(child.mu);
    event.wait_status = child.exit_status;
    SigInfo info;
    set_exit_code_and_status(info, event.wait_status);
    event.code = info.code;
    return event;
  }
  MutexLock lock(child.mu);
  if (request.stopped && child.is_stopped && !child.stop_reported) {
    if (!request.keep) child.stop_reported = true;
    event.code = CLD_STOPPED;
    event.wait_status = child.stop_signal << 8 | 0x7f;
    return event;
  }
  if (request.continued && child.continue_unreported) {
    if (!request.keep) child.continue_unreported = false;
    event.code = CLD_CONTINUED;
    event.wait_status = 0xffff;
    return event;
  }
  return std::nullopt;
}

}  // namespace

Task& current_task_of(CurrentTask& current) { return current.task(); }

Result<std::optional<ChildEvent>> take_child_event(Task& task, const WaitRequest& request) {
  MutexLock tree(task_tree_mu);
  ThreadGroup& group = task.group;
  group.assert_tree_locked();
  bool has_match = false;
  for (ThreadGroup* child = group.children.front(); child != nullptr;
       child = group.children.next(*child)) {
    child->assert_tree_locked();
    if (request.own_only && child->parent_task != &task) continue;
    if (!matches(*child, request)) continue;
    // A zombie that only a wait for other changes asks about can never change again.
    if (!child->is_zombie || request.exited) has_match = true;
    std::optional<ChildEvent> event = event_of(*child, request);
    if (!event) continue;
    if (child->is_zombie && !request.keep) {
      ResourceUse use = event->use;
      group.children_use.add(use);
      ProcessTree(task.kernel).release(*child);
    }
    return event;
  }
  if (!has_match) return Errno(ECHILD);
  return std::optional<ChildEvent>();
}

}  // namespace caisson
