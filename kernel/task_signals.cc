// Delivery: what a task does about its signals before it goes back to the guest. Linux:
// get_signal(), handle_signal() and do_signal_stop().
#include <utility>
#include <vector>

#include "kernel/current_task.h"
#include "kernel/job_control.h"
#include "kernel/kernel.h"
#include "kernel/signal_frame.h"
#include "kernel/signals.h"
#include "kernel/task.h"

namespace caisson {

// Synchronous ones first, the task's own before the process's, lowest number first.
std::optional<QueuedSignal> Task::dequeue_locked(SignalSet wanted) {
  for (PendingSignals* queue : {&pending, &group.shared_pending}) {
    SignalSet present = queue->set() & wanted;
    if (present.empty()) continue;
    SignalSet synchronous = present & kSynchronousSignals;
    int signo = synchronous.empty() ? present.first() : synchronous.first();
    std::optional<QueuedSignal> taken = queue->take(signo);
    if (taken && taken->source) taken->source->signal_dequeued(taken->info);
    return taken;
  }
  return std::nullopt;
}

std::optional<QueuedSignal> Task::take_signal(SignalSet wanted) {
  MutexLock lock(group.mu);
  return dequeue_locked(wanted & ~kUnblockable);
}

void Task::set_waited_for(SignalSet signals) {
  MutexLock lock(group.mu);
  waited_for = signals & ~kUnblockable;
}

// The task takes part in the group's stop; true if it was the last one.
bool Task::join_stop_locked() {
  must_stop = false;
  is_stopped = true;
  ++group.stopped_tasks;
  if (group.stopped_tasks < group.live_tasks) return false;
  group.is_stopping = false;
  group.is_stopped = true;
  group.stop_reported = false;
  return true;
}

// A stop signal's default action. False: a SIGCONT came between, nothing stops.
bool Task::start_group_stop(int signo) {
  MutexLock lock(group.mu);
  if (!stop_dequeued || is_killed || group.is_exiting || group.exec_task != nullptr) return false;
  if (!group.is_stopping) {
    group.is_stopping = true;
    group.stop_signal = signo;
  }
  for (Task* task : group.tasks) {
    task->assert_group_locked();
    if (task->has_begun_exit || task->is_stopped) continue;
    task->must_stop = true;
    if (task != this) task->call_attention();
  }
  must_stop = true;
  return true;
}

Task::Delivery Task::deliver_signals(CurrentTask& current) {
  if (dequeued_) {
    DequeuedSignal waiting = *std::exchange(dequeued_, std::nullopt);
    if (must_end()) return Delivery::kExit;
    return handle(current, std::move(waiting));
  }
  for (;;) {
    int report = 0;
    bool stops = false;
    std::optional<QueuedSignal> signal;
    {
      MutexLock lock(group.mu);
      if (is_killed || group.is_exiting) return Delivery::kExit;
      if (group.notify_parent != 0) {
        report = std::exchange(group.notify_parent, 0);
      } else if (must_stop) {
        stops = true;
        if (join_stop_locked()) report = CLD_STOPPED;
      } else {
        signal = dequeue_locked(~blocked);
        if (signal && kStopSignals.has(signal->info.signo)) stop_dequeued = true;
        if (!signal) {
          attention_.store(has_work_pending_locked(), std::memory_order_release);
          return Delivery::kNothing;
        }
      }
    }
    if (report != 0) report_job_control(group, report);
    if (stops) return Delivery::kStop;
    if (!signal) continue;

    int signo = signal->info.signo;
    SigAction action = group.handlers->get(signo);
    if (action.handler == kSigIgnore) continue;
    if (action.handler != kSigDefault) return handle(current, {std::move(*signal), action});
    if (kIgnoredByDefault.has(signo)) continue;
    if (SyscallObserver* observer = kernel.observer(); observer != nullptr)
      observer->signal_delivered(current, signo, signal->info.code);
    if (kStopSignals.has(signo)) {
      // Nobody could continue an orphaned process group.
      if (signo != SIGSTOP && is_in_orphaned_process_group(group)) continue;
      start_group_stop(signo);
      continue;
    }
    begin_group_exit(group, signo);
    return Delivery::kExit;
  }
}

// What the interrupted call appears to have returned when a handler runs.
void Task::adjust_for_handler(uint64_t action_flags) {
  if (!restart_) return;
  int code = restart_->value();
  restart_.reset();
  Registers& regs = context->regs();
  bool restarts =
      code == kERESTARTNOINTR || (code == kERESTARTSYS && (action_flags & SA_RESTART) != 0);
  if (!restarts) {
    regs.rax = static_cast<uint64_t>(Errno(EINTR).as_return());
    return;
  }
  constexpr uint64_t kSyscallInstructionSize = 2;
  regs.rax = regs.orig_rax;
  regs.rip -= kSyscallInstructionSize;
}

Task::Delivery Task::handle(CurrentTask& current, DequeuedSignal dequeued) {
  const SigInfo& info = dequeued.signal.info;
  const SigAction action = dequeued.action;
  const int signo = info.signo;
  auto come_again = [&](Delivery reason) {
    dequeued_ = std::move(dequeued);
    attention_.store(true, std::memory_order_release);
    return reason;
  };
  if (!context->has_vector_state()) return come_again(Delivery::kFetchVector);
  if (SyscallObserver* observer = kernel.observer();
      observer != nullptr && !std::exchange(dequeued.is_announced, true))
    observer->signal_delivered(current, signo, info.code);

  Registers& regs = context->regs();
  adjust_for_handler(action.flags);
  SignalSet before;
  {
    MutexLock lock(group.mu);
    before = blocked;
  }
  std::vector<std::byte> vector_state(kernel.platform().vector_state_size());
  context->read_vector_state(vector_state);
  SignalFrameRequest request{
      .info = info,
      .action = action,
      .mask = saved_mask.value_or(before),
      .stack = signal_stack,
      .vector_state = vector_state,
      .trapno = last_fault_.trapno,
      .error_code = last_fault_.error_code,
      .fault_addr = last_fault_.addr,
      .max_address = kernel.platform().max_user_address(),
  };
  Result<void> built = build_signal_frame(current.mm(), regs, request);
  // Linux waits in the page fault for the memory that somebody else has to give up.
  if (!built.ok() && built.error() == Errno(kEMEMORYLIMIT))
    return come_again(Delivery::kOutOfMemory);
  if (!built.ok()) {
    // Linux: force_sigsegv(); a SIGSEGV handler that can't start is not tried again.
    if (signo == SIGSEGV)
      force_fatal_signal(current, SIGSEGV);
    else
      force_signal(current, kernel_signal_info(SIGSEGV));
    return Delivery::kHandler;
  }
  saved_mask.reset();
  // Linux resets the vector state for the handler.
  context->reset_vector_state();
  if ((action.flags & SA_RESETHAND) != 0) {
    MutexLock lock(group.mu);
    SigAction reset = group.handlers->get(signo);
    reset.handler = kSigDefault;
    group.handlers->set(signo, reset);
  }
  SignalSet during = before | SignalSet(action.mask);
  if ((action.flags & SA_NODEFER) == 0) during.add(signo);
  set_blocked_signals(*this, during);
  return Delivery::kHandler;
}

}  // namespace caisson
