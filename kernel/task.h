// Task: one guest thread. Linux: struct task_struct.
//
// Made by Kernel (the first ones) and clone; TaskSet holds a reference until it is gone or reaped.
// Its verbs are in task_clone.cc, task_exec.cc, task_exit.cc, task_run.cc, task_signals.cc,
// task_stop.cc, task_syscall.cc, task_wait.cc.
//
// Who may touch what is said field by field:
//   own        only the worker that owns the task (see SchedWord)
//   published  written by the owner under mu; read by the owner freely, by others under mu
//   signal     guarded by group.mu
//   tree       guarded by task_tree_mu
#pragma once

#include <sched.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/intrusive_list.h"
#include "base/mutex.h"
#include "base/ref.h"
#include "host/event_loop.h"
#include "kernel/auth/credentials.h"
#include "kernel/run_state.h"
#include "kernel/signal/pending_signals.h"
#include "kernel/syscall_result.h"
#include "kernel/thread_group.h"
#include "loader/executable_file.h"
#include "mm/memory_manager.h"
#include "platform/platform.h"
#include "vfs/fd_table.h"
#include "vfs/fs_context.h"

namespace caisson {

class CurrentTask;
struct RunQueueTag;
struct SyscallEntry;

// Told when the vfork child has given up the parent's memory. Linux: struct completion vfork_done.
class VforkDone final : public RefCounted<VforkDone> {
 public:
  void complete() {
    done.store(true, std::memory_order_release);
    queue.notify(kEventIn);
  }
  std::atomic<bool> done{false};
  WaitQueue queue;
};

struct SchedulingPolicy {
  int policy = SCHED_OTHER;
  int priority = 0;  // real-time
  int nice = 0;
  bool reset_on_fork = false;
};

class Task final : public host::DeadlineTarget, public Waiter, public ListNode<RunQueueTag> {
 public:
  Task(Kernel& kernel, Ref<ThreadGroup> group, ProcessId id,
       std::unique_ptr<platform::Context> context, Ref<Credentials> credentials);
  ~Task() override;

  Kernel& kernel;
  const Ref<ThreadGroup> group_ref;
  ThreadGroup& group;
  // The number; changes only when exec takes over the leader's.
  std::atomic<ProcessId> id;
  ProcessId tid() const { return id.load(std::memory_order_relaxed); }
  ProcessId tgid() const { return group.id; }
  // Never null but for the kernel's own pid 1; lives as long as the task, so that notify() may use
  // it.
  const std::unique_ptr<platform::Context> context;

  // --- Wake-ups, from anywhere.
  // Look again: run if parked, come back if in the guest.
  void notify();
  void notified(EventMask) override { notify(); }
  void expired(uint64_t armed_at) override;
  // Hands a task that has never run to the workers.
  void start();
  // The kernel's own pid 1: never runs.
  void make_inert() { sched_.set_inert(); }

  // --- One turn, by the worker that owns the task; does not touch it afterwards.
  void run_turn();
  // The platform handed the task over with an event.
  void run_event();

  const RunState& run_state() const { return run_state_; }
  bool is_dead() const { return sched_.is_dead(); }
  bool is_in_guest() const { return sched_.is_in_guest(); }
  // For /proc: 'R', 'S', 'T', 'Z', 'X'. A guess when others look.
  char state_letter() const;
  // Name of the operation that the task waits in; "0" when none. A guess when others look.
  const char* wait_name() const;

  // --- Steps of exec, by the owner.
  void take_over_leadership() EXCLUDES(task_tree_mu);
  void give_up_address_space();

  // --- own
  std::optional<SignalSet> saved_mask;  // to restore when the call returns; also in a frame
  SignalStack signal_stack;
  GuestAddr clear_child_tid = 0;
  GuestAddr set_child_tid = 0;
  std::atomic<GuestAddr> robust_list{0};
  platform::RseqArea rseq;
  // What restart_syscall(2) runs.
  std::function<SyscallResult(CurrentTask&)> restart_block;
  RefOrNull<VforkDone> vfork_done;  // the parent waits for us
  int exit_status_own = 0;          // wait status of this task alone
  uint32_t personality = 0;
  // personality(2) READ_IMPLIES_EXEC: what is mapped for reading can be executed.
  static constexpr uint32_t kReadImpliesExec = 0x0400000;
  bool read_implies_exec() const { return (personality & kReadImpliesExec) != 0; }
  uint64_t timer_slack_ns = 50'000;

  // --- published
  mutable Mutex<LockRank::kTask> mu;
  RefOrNull<MemoryManager> mm_ref() const EXCLUDES(mu);
  RefOrNull<FdTable> files_ref() const EXCLUDES(mu);
  RefOrNull<FsContext> fs_ref() const EXCLUDES(mu);
  Ref<Credentials> credentials_ref() const EXCLUDES(mu);
  RefOrNull<ExecutableFile> executable() const EXCLUDES(mu);
  std::string name() const EXCLUDES(mu);  // comm, at most 15 bytes
  // The owner only.
  void set_mm(RefOrNull<MemoryManager> mm) EXCLUDES(mu);
  void set_files(RefOrNull<FdTable> files) EXCLUDES(mu);
  void set_fs(RefOrNull<FsContext> fs) EXCLUDES(mu);
  void set_credentials(Ref<Credentials> credentials) EXCLUDES(mu);
  void set_executable(RefOrNull<ExecutableFile> file, std::string path) EXCLUDES(mu);
  void set_name(std::string name) EXCLUDES(mu);
  std::string executable_path() const EXCLUDES(mu);
  SchedulingPolicy scheduling GUARDED_BY(mu);
  cpu_set_t affinity GUARDED_BY(mu);
  // Passes affinity and nice value on to the host, which takes them at the next resume().
  void schedule_on_host_locked() REQUIRES(mu);

  std::atomic<bool> no_new_privileges{false};
  std::atomic<int> parent_death_signal{0};
  std::atomic<uint32_t> io_priority{0};
  std::atomic<uint64_t> start_time_ns{0};  // CLOCK_BOOTTIME

  uint64_t cpu_time_ns() const;

  // --- signal
  SignalSet blocked GUARDED_BY(group.mu);
  // What sigtimedwait(2) waits for: sent although blocked, the task is to look.
  SignalSet waited_for GUARDED_BY(group.mu);
  PendingSignals pending GUARDED_BY(group.mu);
  bool has_begun_exit GUARDED_BY(group.mu) = false;
  bool must_stop GUARDED_BY(group.mu) = false;   // join the group stop
  bool is_stopped GUARDED_BY(group.mu) = false;  // counted in group.stopped_tasks
  bool is_killed GUARDED_BY(group.mu) = false;   // must end: SIGKILL, exit_group, exec elsewhere
  // For loops over group.tasks under group.mu.
  void assert_group_locked() const ASSERT_CAPABILITY(group.mu) {}

  // A stop signal was taken and no SIGCONT has come since.
  bool stop_dequeued GUARDED_BY(group.mu) = false;

  // A signal would be handled now, or the task must stop or end.
  bool has_work_pending_locked() const REQUIRES(group.mu);
  // A hint that is never falsely off.
  bool attention() const { return attention_.load(std::memory_order_acquire); }
  // Makes the task look at its signals; under group.mu, after what it is to see was set.
  void call_attention() {
    attention_.store(true, std::memory_order_release);
    notify();
  }
  // sigtimedwait(2) and signalfd(2): takes a pending signal whether blocked or not.
  std::optional<QueuedSignal> take_signal(SignalSet wanted) EXCLUDES(group.mu);
  void set_waited_for(SignalSet signals) EXCLUDES(group.mu);
  bool signal_pending() const EXCLUDES(group.mu);
  bool must_end() const EXCLUDES(group.mu);

 private:
  friend class CurrentTask;
  enum class Next : uint8_t { kGoOn, kLeft };  // kLeft: the worker does not own the task any more
  // Taken from its queue, with the action that it found; its frame waits for the vector state or
  // for memory.
  struct DequeuedSignal {
    QueuedSignal signal;
    SigAction action;
    bool is_announced = false;  // to the observer
  };
  enum class Delivery : uint8_t { kNothing, kHandler, kStop, kExit, kFetchVector, kOutOfMemory };

  void run_loop();
  void set_state(RunState next);
  Next turn_guest(CurrentTask& current);
  Next turn_syscall(CurrentTask& current);
  Next turn_operation(CurrentTask& current);
  Next turn_stopped(CurrentTask& current);
  Next turn_fetch_vector(CurrentTask& current);
  Next turn_exit(CurrentTask& current);

  void take_fault(CurrentTask& current);
  bool take_patched_place(CurrentTask& current);
  void report_trap(CurrentTask& current);
  void wait_for_memory();
  void finish_call(CurrentTask& current, uint64_t value);
  void finish_call(CurrentTask& current, Errno error);
  void finish_operation(CurrentTask& current, const StepResult& result);
  void set_deadline(RunOperation& run);
  void disarm(RunOperation& run);

  Delivery deliver_signals(CurrentTask& current) EXCLUDES(group.mu);
  std::optional<QueuedSignal> dequeue_locked(SignalSet wanted) REQUIRES(group.mu);
  bool join_stop_locked() REQUIRES(group.mu);
  bool start_group_stop(int signo) EXCLUDES(group.mu);
  Delivery handle(CurrentTask& current, DequeuedSignal dequeued);
  void adjust_for_handler(uint64_t action_flags);

  bool begin_exit(CurrentTask& current);
  void leave_address_space(bool counts_resident);
  void exit_notify();

  RunState run_state_{RunGuest{}};  // own
  SchedWord sched_;
  std::atomic<bool> attention_{false};
  std::atomic<uint64_t> deadline_{0};  // of the armed operation
  std::atomic<const char*> wait_name_{nullptr};
  std::atomic<uint64_t> earlier_cpu_ns_{0};  // used in address spaces that were left

  // Published; see the accessors.
  RefOrNull<MemoryManager> mm_;
  RefOrNull<FdTable> files_;
  RefOrNull<FsContext> fs_;
  RefOrNull<Credentials> credentials_;
  RefOrNull<ExecutableFile> executable_;
  std::string executable_path_;
  std::string name_;

  // own
  Registers entry_regs_{};               // of the system call under way
  const SyscallEntry* entry_ = nullptr;  // of that call
  bool is_reentry_ = false;              // the call has been shown to the observer already
  platform::Fault last_fault_;           // of the last fault that became a signal, in every frame
  std::optional<Errno> restart_;         // the call ended with this restart code
  std::optional<DequeuedSignal> dequeued_;
};

}  // namespace caisson
