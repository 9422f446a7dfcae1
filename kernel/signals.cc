#include "kernel/signals.h"

#include <algorithm>

#include "kernel/current_task.h"
#include "kernel/kernel.h"
#include "kernel/task.h"

namespace caisson {
namespace {

// Signals with a number above this queue instead of being pending once.
bool is_real_time(int signo) { return signo >= kFirstRealTime; }

// Linux: sig_ignored(). A blocked signal is kept: its disposition may change before it is
// unblocked.
bool is_ignored_now(const Task& task, int signo) REQUIRES(task.group.mu) {
  if (task.blocked.has(signo) || task.waited_for.has(signo)) return false;
  return task.group.handlers->is_ignored(signo);
}

// What a signal does when it is sent, before it is delivered: SIGCONT and the stop signals cancel
// each other. Linux: prepare_signal().
void apply_side_effects(ThreadGroup& group, int signo) REQUIRES(group.mu) {
  if (kStopSignals.has(signo)) {
    group.shared_pending.discard(SignalSet::of(SIGCONT));
    for (Task* task : group.tasks) {
      task->assert_group_locked();
      task->pending.discard(SignalSet::of(SIGCONT));
    }
    return;
  }
  if (signo != SIGCONT) return;
  group.shared_pending.discard(kStopSignals);
  for (Task* task : group.tasks) {
    task->assert_group_locked();
    task->pending.discard(kStopSignals);
    task->must_stop = false;
    task->stop_dequeued = false;
  }
  if (group.is_stopped) {
    group.notify_parent = CLD_CONTINUED;
    group.continue_unreported = true;
  } else if (group.is_stopping) {
    group.notify_parent = CLD_STOPPED;
  }
  group.is_stopped = group.is_stopping = false;
  group.stop_reported = false;
  for (Task* task : group.tasks) {
    task->assert_group_locked();
    if (!task->is_stopped) continue;
    task->is_stopped = false;
    task->call_attention();
  }
  group.stopped_tasks = 0;
}

// Would the signal end the process at once? Linux: sig_fatal() in complete_signal().
bool ends_process(const Task& task, int signo) REQUIRES(task.group.mu) {
  if (signo == SIGKILL) return true;
  if (task.blocked.has(signo) || task.waited_for.has(signo)) return false;
  if (kCoreSignals.has(signo) || kStopSignals.has(signo) || kIgnoredByDefault.has(signo))
    return false;
  return task.group.handlers->get(signo).handler == kSigDefault;
}

bool wants(const Task& task, int signo) REQUIRES(task.group.mu) {
  if (task.has_begun_exit) return false;
  if (signo == SIGKILL) return true;
  if (task.waited_for.has(signo)) return true;
  return !task.blocked.has(signo) && !task.is_stopped;
}

// Finds who handles it and makes that task look. Linux: complete_signal().
void choose_and_wake(ThreadGroup& group, Task* only, int signo) REQUIRES(group.mu) {
  Task* chosen = nullptr;
  if (only != nullptr) {
    only->assert_group_locked();
    if (wants(*only, signo)) chosen = only;
  } else {
    for (Task* task : group.tasks) {
      task->assert_group_locked();
      if (!wants(*task, signo)) continue;
      // One that waits for it by sigtimedwait is served first, else the first one (the leader).
      if (chosen == nullptr) chosen = task;
      if (task->waited_for.has(signo)) {
        chosen = task;
        break;
      }
    }
  }
  if (chosen == nullptr) return;
  chosen->assert_group_locked();
  if (!group.is_exiting && ends_process(*chosen, signo)) {
    begin_group_exit_locked(group, signo);
    return;
  }
  chosen->call_attention();
}

Result<Sent> send(ThreadGroup& group, Task* task, const SigInfo& info,
                  RefOrNull<SignalSource> source) EXCLUDES(group.mu) {
  int signo = info.signo;
  if (group.is_kernel_init) return Sent::kIgnored;
  Sent sent = Sent::kQueued;
  {
    MutexLock lock(group.mu);
    if (group.live_tasks == 0) return Sent::kIgnored;
    if (group.is_exiting && signo != SIGKILL) return Sent::kIgnored;
    apply_side_effects(group, signo);
    Task* reference = task != nullptr ? task : group.tasks.front();
    reference->assert_group_locked();
    if (signo != SIGKILL && is_ignored_now(*reference, signo)) return Sent::kIgnored;
    PendingSignals& queue = task != nullptr ? task->pending : group.shared_pending;
    if (!is_real_time(signo) && queue.has(signo)) {
      sent = Sent::kAlreadyPending;
    } else if (signo == SIGKILL) {
      // No information: it ends the process whoever sent it.
      begin_group_exit_locked(group, SIGKILL);
      return Sent::kQueued;
    } else {
      uint64_t limit = group.limits.soft(RLIMIT_SIGPENDING);
      bool is_full = queue.queued() >= limit && !source;
      if (!is_full) {
        queue.push({info, std::move(source)});
      } else if (is_real_time(signo) && info.code != SI_USER && info.code != SI_KERNEL) {
        return Errno(EAGAIN);
      } else {
        queue.push_without_info(signo);
      }
      choose_and_wake(group, task, signo);
    }
  }
  if (sent == Sent::kQueued) group.signal_queued.notify(kEventIn);
  return sent;
}

}  // namespace

SigInfo kernel_signal_info(int signo) {
  SigInfo info;
  info.signo = signo;
  info.code = SI_KERNEL;
  return info;
}

SigInfo user_signal_info(int signo, int code, ProcessId pid, UserId uid) {
  SigInfo info;
  info.signo = signo;
  info.code = code;
  info.rt.pid = pid;
  info.rt.uid = uid;
  return info;
}

Result<Sent> send_signal(ThreadGroup& group, const SigInfo& info, RefOrNull<SignalSource> source) {
  return send(group, nullptr, info, std::move(source));
}

Result<Sent> send_signal(Task& task, const SigInfo& info, RefOrNull<SignalSource> source) {
  return send(task.group, &task, info, std::move(source));
}

void force_signal(CurrentTask& current, const SigInfo& info) {
  Task& task = current.task();
  MutexLock lock(task.group.mu);
  SigAction action = task.group.handlers->get(info.signo);
  bool is_blocked = task.blocked.has(info.signo);
  if (is_blocked || action.handler == kSigIgnore) {
    action.handler = kSigDefault;
    task.group.handlers->set(info.signo, action);
    task.blocked.remove(info.signo);
  }
  if (!task.pending.has(info.signo)) task.pending.push({info, nullptr});
  task.call_attention();
}

void force_fatal_signal(CurrentTask& current, int signo) {
  Task& task = current.task();
  {
    MutexLock lock(task.group.mu);
    task.group.handlers->set(signo, SigAction{});
    task.blocked.remove(signo);
  }
  force_signal(current, kernel_signal_info(signo));
}

void send_signal_to_self(CurrentTask& current, int signo) {
  SigInfo info =
      user_signal_info(signo, SI_USER, current.task().tgid(), current.credentials().ruid);
  (void)send_signal(current.task(), info);
}

Result<void> signal_process_group(ProcessGroup& group, const SigInfo& info) {
  if (group.members.empty()) return Errno(ESRCH);
  for (ThreadGroup* member : group.members) (void)send_signal(*member, info);
  return {};
}

bool may_signal(const Credentials& sender, ProcessId sender_session, Task& target, int signo) {
  Ref<Credentials> other = target.credentials_ref();
  if (sender.euid == other->suid || sender.euid == other->ruid || sender.ruid == other->suid ||
      sender.ruid == other->ruid)
    return true;
  if (sender.has(Capability::kKill)) return true;
  return signo == SIGCONT && target.group.process_group &&
         target.group.process_group->session->id == sender_session;
}

void begin_group_exit_locked(ThreadGroup& group, int wait_status) {
  if (!group.is_exiting) {
    group.is_exiting = true;
    group.exit_status = wait_status;
    group.exec_task = nullptr;
  }
  group.is_stopping = group.is_stopped = false;
  group.stopped_tasks = 0;
  for (Task* task : group.tasks) {
    task->assert_group_locked();
    if (task->has_begun_exit) continue;
    task->must_stop = task->is_stopped = false;
    task->is_killed = true;
    task->call_attention();
  }
}

void begin_group_exit(ThreadGroup& group, int wait_status) {
  MutexLock lock(group.mu);
  begin_group_exit_locked(group, wait_status);
}

void discard_ignored_signal(ThreadGroup& group, int signo) {
  MutexLock lock(group.mu);
  if (!group.handlers->is_ignored(signo)) return;
  group.shared_pending.discard(SignalSet::of(signo));
  for (Task* task : group.tasks) {
    task->assert_group_locked();
    task->pending.discard(SignalSet::of(signo));
  }
}

SignalSet set_blocked_signals(Task& task, SignalSet blocked) {
  blocked = blocked & ~kUnblockable;
  MutexLock lock(task.group.mu);
  SignalSet before = task.blocked;
  SignalSet newly_blocked = blocked & ~before;
  task.blocked = blocked;
  // Signals of the process that this task would have handled go to another one.
  SignalSet orphaned = newly_blocked & task.group.shared_pending.set();
  while (!orphaned.empty()) {
    int signo = orphaned.first();
    orphaned.remove(signo);
    choose_and_wake(task.group, nullptr, signo);
  }
  if (task.has_work_pending_locked()) task.call_attention();
  return before;
}

}  // namespace caisson
