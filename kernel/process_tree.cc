#include "kernel/process_tree.h"

#include "kernel/job_control.h"
#include "kernel/kernel.h"
#include "kernel/signals.h"
#include "kernel/task.h"

namespace caisson {
namespace {

constexpr uint64_t kNsPerTick = 10'000'000;  // USER_HZ is 100

uint64_t cpu_time_of(ThreadGroup& group) EXCLUDES(group.mu) {
  MutexLock lock(group.mu);
  uint64_t used = group.dead_cpu_ns;
  for (Task* task : group.tasks) used += task->cpu_time_ns();
  return used;
}

}  // namespace

void set_exit_code_and_status(SigInfo& info, int wait_status) {
  int signo = wait_status & 0x7f;
  if (signo == 0) {
    info.code = CLD_EXITED;
    info.child.status = (wait_status >> 8) & 0xff;
  } else {
    info.code = (wait_status & 0x80) != 0 ? CLD_DUMPED : CLD_KILLED;
    info.child.status = signo;
  }
}

ThreadGroup& ProcessTree::reaper_for(ThreadGroup& group) {
  group.assert_tree_locked();
  if (group.has_child_subreaper) {
    for (ThreadGroup* ancestor = group.parent; ancestor != nullptr; ancestor = ancestor->parent) {
      ancestor->assert_tree_locked();
      if (!ancestor->is_child_subreaper) {
        if (!ancestor->has_child_subreaper) break;
        continue;
      }
      MutexLock lock(ancestor->mu);
      if (ancestor->live_tasks > 0) return *ancestor;
    }
  }
  return kernel_.init_group();
}

void ProcessTree::give_children_away(Task& task, bool group_is_empty) {
  ThreadGroup& group = task.group;
  group.assert_tree_locked();
  if (group.children.empty()) return;
  Task* heir = nullptr;
  if (!group_is_empty) {
    MutexLock lock(group.mu);
    for (Task* other : group.tasks) {
      other->assert_group_locked();
      if (other != &task && !other->has_begun_exit) heir = other;
    }
  }
  ThreadGroup* new_parent = heir != nullptr ? &group : &reaper_for(group);
  new_parent->assert_tree_locked();
  ThreadGroup* next = nullptr;
  for (ThreadGroup* child = group.children.front(); child != nullptr; child = next) {
    next = group.children.next(*child);
    child->assert_tree_locked();
    if (child->parent_task != &task && heir != nullptr) continue;
    child->parent_task = heir != nullptr ? heir : new_parent->leader;
    {
      // The parent-death signal is about the thread that made the child.
      std::vector<std::pair<Ref<Task>, int>> to_signal;
      {
        MutexLock lock(child->mu);
        for (Task* member : child->tasks)
          if (int signo = member->parent_death_signal.load(); signo != 0)
            to_signal.emplace_back(*member, signo);
      }
      for (auto& [member, signo] : to_signal)
        (void)send_signal(*child, user_signal_info(signo, SI_USER, group.id, 0));
    }
    if (new_parent == &group) continue;
    group.children.remove(*child);
    new_parent->children.push_back(*child);
    child->parent = new_parent;
    // A foster parent gets SIGCHLD whatever the child was cloned with.
    child->exit_signal = SIGCHLD;
    if (child->is_zombie) {
      if (notify_parent(*child)) release(*child);
    } else {
      hang_up_orphaned_group(*child, &group);
    }
  }
}

bool ProcessTree::notify_parent(ThreadGroup& group) {
  group.assert_tree_locked();
  ThreadGroup* parent = group.parent;
  if (parent == nullptr || parent->is_kernel_init) return true;
  SigInfo info;
  info.signo = group.exit_signal;
  info.child.pid = group.id;
  info.child.uid = group.leader != nullptr ? group.leader->credentials_ref()->ruid : 0;
  info.child.utime = static_cast<int64_t>(cpu_time_of(group) / kNsPerTick);
  int status;
  {
    MutexLock lock(group.mu);
    status = group.exit_status;
  }
  set_exit_code_and_status(info, status);
  bool reaps_itself = false;
  bool wants_signal = group.exit_signal != 0;
  if (group.exit_signal == SIGCHLD) {
    MutexLock lock(parent->mu);
    SigAction action = parent->handlers->get(SIGCHLD);
    if (action.handler == kSigIgnore) reaps_itself = true, wants_signal = false;
    if ((action.flags & SA_NOCLDWAIT) != 0) reaps_itself = true;
  }
  if (wants_signal) (void)send_signal(*parent, info);
  parent->child_changes.notify(kEventIn);
  return reaps_itself;
}

void ProcessTree::become_zombie(ThreadGroup& group) {
  group.assert_tree_locked();
  group.is_zombie = true;
  group.has_ended.store(true, std::memory_order_release);
  group.exited.notify(kEventIn);
  int status;
  {
    MutexLock lock(group.mu);
    status = group.exit_status;
  }
  if (group.is_program) kernel_.program_ended(status);
  if (notify_parent(group)) release(group);
}

void ProcessTree::release(ThreadGroup& group) {
  group.assert_tree_locked();
  Ref<ThreadGroup> keep(group);
  if (ThreadGroup* parent = group.parent; parent != nullptr) {
    parent->assert_tree_locked();
    parent->children.remove(group);
    group.parent = nullptr;
    group.parent_task = nullptr;
  }
  kernel_.tasks().leave_process_group(group);
  Task* leader = std::exchange(group.leader, nullptr);
  if (leader == nullptr) return;
  {
    MutexLock lock(group.mu);
    std::erase(group.tasks, leader);
    group.dead_cpu_ns += leader->cpu_time_ns();
  }
  group.is_reaped.store(true, std::memory_order_release);
  group.exited.notify(kEventHup);
  kernel_.tasks().remove_task(*leader);
}

}  // namespace caisson
