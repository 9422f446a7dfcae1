// ThreadGroup: one guest process. Linux: struct signal_struct.
//
// Owned by its tasks; the task tree finds it through its leader. Two locks: task_tree_mu guards its
// place in the tree, mu (rank kThreadGroup) what concerns signals, stops and the end of the
// process, for the group and for each of its tasks. mu is public because Task's fields name it;
// only kernel/ takes it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/intrusive_list.h"
#include "base/mutex.h"
#include "base/ref.h"
#include "kernel/resource_limits.h"
#include "kernel/signal/pending_signals.h"
#include "kernel/signal/signal_handlers.h"
#include "kernel/task_set.h"
#include "kernel/waiter/wait_queue.h"

namespace caisson {

class Kernel;
class ProcessTimers;
class Task;

struct SiblingTag;

class CpuTimers;

// CPU time and counters, for getrusage, times and wait4.
struct ResourceUse {
  uint64_t cpu_ns = 0;
  uint64_t max_resident_bytes = 0;
  void add(const ResourceUse& other) {
    cpu_ns += other.cpu_ns;
    if (other.max_resident_bytes > max_resident_bytes)
      max_resident_bytes = other.max_resident_bytes;
  }
};

class ThreadGroup final : public RefCounted<ThreadGroup>, public ListNode<SiblingTag> {
 public:
  ThreadGroup(Kernel& kernel, Ref<SignalHandlers> handlers, int exit_signal);
  ~ThreadGroup();

  Kernel& kernel;
  void assert_tree_locked() const ASSERT_CAPABILITY(task_tree_mu) {}

  // The leader's number; set once before start.
  ProcessId id = 0;
  // The kernel's own pid 1: has no guest code, ignores signals, reaps at once. Immutable.
  bool is_kernel_init = false;
  bool is_program = false;  // pid 2: the sandbox ends with it. Immutable.

  // --- The tree.
  // Null once the group is reaped.
  Task* leader GUARDED_BY(task_tree_mu) = nullptr;
  ThreadGroup* parent GUARDED_BY(task_tree_mu) = nullptr;
  // The task that made this process, or that took it over: __WNOTHREAD, PR_SET_PDEATHSIG.
  Task* parent_task GUARDED_BY(task_tree_mu) = nullptr;
  IntrusiveList<ThreadGroup, SiblingTag> children GUARDED_BY(task_tree_mu);
  RefOrNull<ProcessGroup> process_group GUARDED_BY(task_tree_mu);
  bool is_zombie GUARDED_BY(task_tree_mu) = false;
  int exit_signal GUARDED_BY(task_tree_mu);  // 0: none
  bool has_execed GUARDED_BY(task_tree_mu) = false;
  bool is_child_subreaper GUARDED_BY(task_tree_mu) = false;
  bool has_child_subreaper GUARDED_BY(task_tree_mu) = false;  // an ancestor is one
  ResourceUse children_use GUARDED_BY(task_tree_mu);          // of reaped children

  // Woken when a child changes its state, and when a task of this group is gone (exec waits).
  WaitQueue child_changes;
  // pidfd(2): kEventIn when the process has ended.
  WaitQueue exited;
  std::atomic<bool> has_ended{false};  // a zombie or reaped
  std::atomic<bool> is_reaped{false};

  // --- Signals, stops, exit.
  mutable Mutex<LockRank::kThreadGroup> mu;
  std::vector<Task*> tasks GUARDED_BY(mu);  // not gone; a dead leader stays until reaped
  int live_tasks GUARDED_BY(mu) = 0;        // tasks that have not begun to exit
  Ref<SignalHandlers> handlers;  // guarded by mu; only exec replaces it, with one task left
  PendingSignals shared_pending GUARDED_BY(mu);
  bool is_exiting GUARDED_BY(mu) = false;    // exit_group or a fatal signal
  int exit_status GUARDED_BY(mu) = 0;        // wait status of the process
  Task* exec_task GUARDED_BY(mu) = nullptr;  // all others must end
  // Job control.
  bool is_stopping GUARDED_BY(mu) = false;  // tasks are on their way into a group stop
  bool is_stopped GUARDED_BY(mu) = false;   // all are stopped
  int stop_signal GUARDED_BY(mu) = 0;
  int stopped_tasks GUARDED_BY(mu) = 0;
  bool stop_reported GUARDED_BY(mu) = false;        // taken by a wait without WNOWAIT
  bool continue_unreported GUARDED_BY(mu) = false;  // for WCONTINUED
  int notify_parent GUARDED_BY(mu) = 0;  // CLD_CONTINUED or CLD_STOPPED that the next task reports
  uint64_t dead_cpu_ns GUARDED_BY(mu) = 0;          // of tasks that are gone
  uint64_t peak_resident_bytes GUARDED_BY(mu) = 0;  // of address spaces that are gone
  // Told of every signal that is queued; signalfd(2).
  WaitQueue signal_queued;

  ResourceLimits limits;
  const std::unique_ptr<ProcessTimers> timers;
  std::atomic<CpuTimers*> cpu_timers{nullptr};  // timers' own, once made; lives as long as we

  std::atomic<bool> dumpable{true};
  // /proc/PID/oom_score_adj, and how low it may be set without CAP_SYS_RESOURCE.
  std::atomic<int> oom_score_adj{0};
  std::atomic<int> oom_score_adj_min{0};
  uint64_t start_time_ns = 0;  // CLOCK_BOOTTIME; set once before start
};

}  // namespace caisson
