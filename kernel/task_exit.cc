// The end of a task and of its process. Linux: kernel/exit.c.
#include <utility>

#include "kernel/current_task.h"
#include "kernel/job_control.h"
#include "kernel/kernel.h"
#include "kernel/process_timers.h"
#include "kernel/process_tree.h"
#include "kernel/robust_list.h"
#include "kernel/rseq.h"
#include "kernel/signals.h"
#include "kernel/task.h"

namespace caisson {

Task::Next Task::turn_exit(CurrentTask& current) {
  RefOrNull<Task> keep(this);
  const bool is_last = begin_exit(current);
  leave_address_space(is_last);
  set_files(nullptr);
  set_fs(nullptr);
  exit_notify();
  return Next::kLeft;
}

// From here on no signal is taken, and the group counts one less. Whether this was its last task.
bool Task::begin_exit(CurrentTask& current) {
  bool is_last = false;
  bool stop_is_complete = false;
  int status = 0;
  {
    MutexLock lock(group.mu);
    has_begun_exit = true;
    if (is_stopped) {
      is_stopped = false;
      --group.stopped_tasks;
    }
    must_stop = false;
    is_last = --group.live_tasks == 0;
    if (is_last && !group.is_exiting) {
      group.is_exiting = true;
      group.exit_status = exit_status_own;
    }
    // Somebody else may have to take the signals that were meant for us.
    if (!is_last && !group.shared_pending.set().empty()) {
      for (Task* task : group.tasks) {
        task->assert_group_locked();
        if (!task->has_begun_exit) task->call_attention();
      }
    }
    if (!is_last && group.is_stopping && group.stopped_tasks == group.live_tasks) {
      group.is_stopping = false;
      group.is_stopped = true;
      group.stop_reported = false;
      stop_is_complete = true;
    }
    status = group.is_exiting ? group.exit_status : exit_status_own;
  }
  if (stop_is_complete) report_job_control(group, CLD_STOPPED);
  if (SyscallObserver* observer = kernel.observer(); observer != nullptr)
    observer->exited(current, status);
  dequeued_.reset();
  restart_block = nullptr;
  if (is_last) group.timers->clear();
  return is_last;
}

// Linux: exit_mm_release(). Also the step of exec in which the old address space is given up. As
// there, exec and a process' last task count what is resident, for ru_maxrss; that takes time.
void Task::leave_address_space(bool counts_resident) {
  // Before others learn that we are gone, and take away what the stub thread has written to.
  context->leave_soon();
  RefOrNull<MemoryManager> mm = mm_;
  if (mm) {
    if (robust_list != 0)
      release_robust_list(*mm, kernel.futexes(), robust_list.exchange(0),
                          static_cast<uint32_t>(tid()));
    // Nobody can see it if we are the last user.
    if (clear_child_tid != 0 && mm->ref_count() > 2) {
      uint32_t zero = 0;
      GuestAddr addr = std::exchange(clear_child_tid, 0);
      if (mm->copy_out(UserOut<uint32_t>(addr), zero).ok())
        wake_futex_word(*mm, kernel.futexes(), addr, true, 1);
    }
    clear_child_tid = 0;
    forget_rseq(*this);
    if (counts_resident) {
      // A child of vfork(2) leaves its parent's memory: a count that is not old will do.
      constexpr uint64_t kRecentNs = 10'000'000;
      uint64_t peak = mm->peak_resident(vfork_done ? kRecentNs : 0);
      MutexLock lock(group.mu);
      group.peak_resident_bytes = std::max(group.peak_resident_bytes, peak);
    }
  }
  // The platform's count ends with the stub thread.
  uint64_t used = context->cpu_time_ns();
  context->attach(nullptr);
  earlier_cpu_ns_.fetch_add(used, std::memory_order_relaxed);
  set_mm(nullptr);
  mm = nullptr;
  if (vfork_done) {
    vfork_done->complete();
    vfork_done = nullptr;
  }
}

// Leaves the tree, or becomes a zombie in it. Linux: exit_notify(), release_task().
void Task::exit_notify() {
  {
    MutexLock tree(task_tree_mu);
    ProcessTree process_tree(kernel);
    group.assert_tree_locked();
    bool is_leader = group.leader == this;
    bool group_is_empty = false;
    {
      MutexLock lock(group.mu);
      uint64_t used = cpu_time_ns();
      if (!is_leader) {
        std::erase(group.tasks, this);
        group.dead_cpu_ns += used;
      }
      // Left over: at most a leader that is dead itself.
      group_is_empty = group.tasks.empty() || (group.live_tasks == 0 && group.tasks.size() == 1 &&
                                               group.tasks.front() == group.leader);
      if (group_is_empty && !is_leader && group.leader != nullptr)
        group_is_empty = group.leader->is_dead();
    }
    sched_.set_dead();
    run_state_ = RunDead{};
    process_tree.give_children_away(*this, group_is_empty);
    if (!is_leader) kernel.tasks().remove_task(*this);
    if (group_is_empty) {
      hang_up_orphaned_group(group, nullptr);
      process_tree.become_zombie(group);
    }
    // exec waits for the others to be gone; __WALL waits look again.
    group.child_changes.notify(kEventIn);
  }
  kernel.task_gone();
}

}  // namespace caisson
