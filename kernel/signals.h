// Sending signals: kill(2), tgkill(2), sigqueue(3), and what the kernel itself sends. Linux:
// kernel/signal.c, send_signal_locked() and its callers.
//
// The caller holds a reference to the target or task_tree_mu; nothing of rank kThreadGroup or
// below.
#pragma once

#include "kernel/auth/credentials.h"
#include "kernel/signal/pending_signals.h"
#include "kernel/task_set.h"
#include "kernel/thread_group.h"

namespace caisson {

class CurrentTask;
class Task;

SigInfo kernel_signal_info(int signo);  // SI_KERNEL
SigInfo user_signal_info(int signo, int code, ProcessId pid, UserId uid);

// EAGAIN: a real-time signal of sigqueue(3) or of a timer found the queue full. Signals that are
// ignored, or go to a process that ends, are dropped and succeed.
enum class Sent : uint8_t { kQueued, kIgnored, kAlreadyPending };
Result<Sent> send_signal(ThreadGroup& group, const SigInfo& info,
                         RefOrNull<SignalSource> source = nullptr);
Result<Sent> send_signal(Task& task, const SigInfo& info, RefOrNull<SignalSource> source = nullptr);

// A fault or SIGPIPE-like signal of the task itself: if blocked or ignored it is made to kill.
void force_signal(CurrentTask& task, const SigInfo& info);
// Takes effect even if a handler is installed: the handler itself can't be reached.
void force_fatal_signal(CurrentTask& task, int signo);

// SI_KERNEL signal to the task's own process; write(2)'s SIGPIPE goes to the task (Linux the same).
void send_signal_to_self(CurrentTask& task, int signo);

// Everyone in a process group. ESRCH if it has no members.
Result<void> signal_process_group(ProcessGroup& group, const SigInfo& info) REQUIRES(task_tree_mu);

// Whether `sender` may signal `target`, kill(2).
bool may_signal(const Credentials& sender, ProcessId sender_session, Task& target, int signo)
    REQUIRES(task_tree_mu);

// Ends the whole process with this wait status (unless its end has begun already). `group.mu` held.
void begin_group_exit_locked(ThreadGroup& group, int wait_status) REQUIRES(group.mu);
void begin_group_exit(ThreadGroup& group, int wait_status);

// Drops what a new disposition ignores: sigaction(2).
void discard_ignored_signal(ThreadGroup& group, int signo);
// Changes a task's mask; wakes it or others for what that makes deliverable.
SignalSet set_blocked_signals(Task& task, SignalSet blocked);

}  // namespace caisson
