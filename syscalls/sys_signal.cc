// Dispositions, masks and waiting for signals: sigaction(2), sigprocmask(2), sigsuspend(2),
// sigtimedwait(2), sigaltstack(2), sigreturn(2). Linux: kernel/signal.c.
#include "syscalls/sys_signal.h"

#include "kernel/kernel.h"
#include "kernel/run_operation.h"
#include "kernel/signal_frame.h"
#include "kernel/signals.h"
#include "kernel/task.h"

namespace caisson {
namespace {

constexpr uint64_t kKnownActionFlags = SA_NOCLDSTOP | SA_NOCLDWAIT | SA_SIGINFO | SA_ONSTACK |
                                       SA_RESTART | SA_NODEFER | SA_RESETHAND | kSaRestorer |
                                       kSaExposeTagBits;

Result<void> check_set_size(size_t size) {
  if (size != sizeof(uint64_t)) return Errno(EINVAL);
  return {};
}

// Waits for a signal handler to run; the mask was set before.
class PauseOperation final : public Operation {
 public:
  StepResult step(CurrentTask&) override { return MustWait{}; }
  void arm(CurrentTask&, Waiter&) override {}
  void disarm() override {}
  StepResult interrupted(CurrentTask&) override { return Errno(kERESTARTNOHAND); }
  const char* name() const override { return "sigsuspend"; }
};

class SignalWaitOperation final : public Operation {
 public:
  SignalWaitOperation(SignalSet wanted, UserOut<SigInfo> info, std::optional<uint64_t> deadline)
      : wanted_(wanted), info_(info), deadline_(deadline) {}

  StepResult step(CurrentTask& current) override {
    std::optional<QueuedSignal> taken = current.task().take_signal(wanted_);
    if (!taken) return MustWait{};
    if (!info_.is_null()) {
      Result<void> stored = current.copy_out(info_, taken->info);
      if (!stored.ok()) return stored.error();
    }
    return static_cast<uint64_t>(taken->info.signo);
  }
  void arm(CurrentTask& current, Waiter&) override {
    task_ = &current.task();
    task_->set_waited_for(wanted_);
  }
  void disarm() override { task_->set_waited_for(SignalSet()); }
  std::optional<uint64_t> deadline_ns() const override { return deadline_; }
  StepResult timed_out(CurrentTask&) override { return Errno(EAGAIN); }
  StepResult interrupted(CurrentTask&) override { return Errno(EINTR); }
  const char* name() const override { return "sigtimedwait"; }

 private:
  SignalSet wanted_;
  UserOut<SigInfo> info_;
  std::optional<uint64_t> deadline_;
  Task* task_ = nullptr;  // the one that waits
};

// SS_ONSTACK in `flags` is ignored, as Linux does.
Result<void> set_signal_stack(CurrentTask& task, const SignalStack& wanted) {
  SignalStack& stack = task.task().signal_stack;
  if (is_on_signal_stack(stack, task.regs().rsp)) return Errno(EPERM);
  int32_t mode = wanted.flags & ~kSsAutoDisarm;
  if (mode != 0 && mode != kSsOnStack && mode != kSsDisable) return Errno(EINVAL);
  SignalStack next;
  next.flags = wanted.flags;
  if (mode == kSsDisable) {
    next.sp = 0;
    next.size = 0;
  } else {
    if (wanted.size < kMinSignalStack) return Errno(ENOMEM);
    next.sp = wanted.sp;
    next.size = wanted.size;
  }
  stack = next;
  return {};
}

}  // namespace

SyscallResult sys_rt_sigaction(CurrentTask& task, int signo, UserIn<SigAction> user_action,
                               UserOut<SigAction> user_old, size_t set_size) {
  TRY(check_set_size(set_size));
  SigAction action;
  if (!user_action.is_null()) action = TRY(task.copy_in(user_action));
  if (!is_valid_signal(signo)) return Errno(EINVAL);
  if (!user_action.is_null() && kUnblockable.has(signo)) return Errno(EINVAL);
  SigAction before = task.group().handlers->get(signo);
  if (!user_action.is_null()) {
    action.flags &= kKnownActionFlags;
    action.mask &= ~kUnblockable.bits();
    before = task.group().handlers->set(signo, action);
    discard_ignored_signal(task.group(), signo);
  }
  if (!user_old.is_null()) TRY(task.copy_out(user_old, before));
  return 0;
}

SyscallResult sys_rt_sigprocmask(CurrentTask& task, int how, UserIn<uint64_t> user_set,
                                 UserOut<uint64_t> user_old, size_t set_size) {
  TRY(check_set_size(set_size));
  SignalSet before;
  {
    MutexLock lock(task.group().mu);
    task.task().assert_group_locked();
    before = task.task().blocked;
  }
  if (!user_set.is_null()) {
    SignalSet set(TRY(task.copy_in(user_set)));
    switch (how) {
      case SIG_BLOCK:
        set = before | set;
        break;
      case SIG_UNBLOCK:
        set = before & ~set;
        break;
      case SIG_SETMASK:
        break;
      default:
        return Errno(EINVAL);
    }
    set_blocked_signals(task.task(), set);
  }
  if (!user_old.is_null()) TRY(task.copy_out(user_old, before.bits()));
  return 0;
}

SyscallResult sys_rt_sigpending(CurrentTask& task, UserOut<uint64_t> set, size_t set_size) {
  if (set_size > sizeof(uint64_t)) return Errno(EINVAL);
  uint64_t bits;
  {
    MutexLock lock(task.group().mu);
    task.task().assert_group_locked();
    SignalSet pending = task.task().pending.set() | task.group().shared_pending.set();
    bits = (pending & task.task().blocked).bits();
  }
  return task.copy_out_bytes(set.addr(), &bits, set_size);
}

SyscallResult sys_rt_sigsuspend(CurrentTask& task, UserIn<uint64_t> set, size_t set_size) {
  TRY(check_set_size(set_size));
  uint64_t mask = TRY(task.copy_in(set));
  task.set_mask_until_return(mask);
  return run(task, PauseOperation());
}

SyscallResult sys_pause(CurrentTask& task) { return run(task, PauseOperation()); }

SyscallResult sys_rt_sigtimedwait(CurrentTask& task, UserIn<uint64_t> set, UserOut<SigInfo> info,
                                  UserIn<TimeSpec> timeout, size_t set_size) {
  TRY(check_set_size(set_size));
  SignalSet wanted(TRY(task.copy_in(set)));
  std::optional<uint64_t> deadline;
  if (!timeout.is_null()) {
    TimeSpec time = TRY(task.copy_in(timeout));
    if (!is_valid(time)) return Errno(EINVAL);
    deadline = add_ns(host::monotonic_ns(), to_ns(time));
  }
  return run(task, SignalWaitOperation(wanted, info, deadline));
}

SyscallResult sys_rt_sigreturn(CurrentTask& task) {
  platform::Platform& platform = task.kernel().platform();
  Task& self = task.task();
  Result<RestoredFrame> restored =
      restore_signal_frame(task.mm(), task.regs(), platform.vector_state_size(),
                           platform.max_user_address(), self.context->is_trapped());
  if (!restored.ok()) {
    if (restored.error() == Errno(kEMEMORYLIMIT)) return restored.error();
    // Linux: bad frame; the handler of SIGSEGV runs, if it can.
    force_signal(task, kernel_signal_info(SIGSEGV));
    return FrameReplaced{};
  }
  RestoredFrame& frame = restored.value();
  if (frame.vector_state.empty())
    self.context->reset_vector_state();
  else
    self.context->write_vector_state(frame.vector_state);
  set_blocked_signals(self, frame.mask);
  (void)set_signal_stack(task, frame.stack);  // Linux: restore_altstack(), errors ignored
  return FrameReplaced{};
}

SyscallResult sys_sigaltstack(CurrentTask& task, UserIn<SignalStack> user_stack,
                              UserOut<SignalStack> user_old) {
  SignalStack before = task.task().signal_stack;
  before.flags = signal_stack_flags(before, task.regs().rsp) | (before.flags & kSsAutoDisarm);
  if (!user_stack.is_null()) {
    SignalStack wanted = TRY(task.copy_in(user_stack));
    TRY(set_signal_stack(task, wanted));
  }
  if (!user_old.is_null()) TRY(task.copy_out(user_old, before));
  return 0;
}

SyscallResult sys_restart_syscall(CurrentTask& task) {
  auto block = std::exchange(task.task().restart_block, nullptr);
  if (!block) return Errno(EINTR);
  return block(task);
}

}  // namespace caisson
