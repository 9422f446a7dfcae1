// Entering a system call and finishing it: the only place that knows about the table and about
// tracing.
#include <linux/audit.h>

#include <utility>

#include "kernel/current_task.h"
#include "kernel/kernel.h"
#include "kernel/signals.h"
#include "kernel/task.h"

namespace caisson {

Task::Next Task::turn_syscall(CurrentTask& current) {
  entry_regs_ = context->regs();
  // Linux looks at the low 32 bits only. x32's numbers are not in the table.
  uint64_t number = static_cast<uint32_t>(entry_regs_.orig_rax);
  bool is_native = context->syscall_arch() == AUDIT_ARCH_X86_64;
  SyscallTable& table = kernel.syscalls();
  entry_ = is_native ? table.find(number) : nullptr;
  SyscallObserver* observer = kernel.observer();
  if (observer != nullptr && !std::exchange(is_reentry_, false)) [[unlikely]]
    observer->entered(current, entry_regs_, entry_);
  is_reentry_ = false;
  if (entry_ == nullptr) {
    table.count_missing(is_native ? number : SyscallTable::kSize);
    finish_call(current, Errno(ENOSYS));
    return Next::kGoOn;
  }

  SyscallResult result = entry_->call(current, entry_regs_);
  auto& state = result.state();
  if (auto* value = std::get_if<uint64_t>(&state)) {
    finish_call(current, *value);
  } else if (auto* error = std::get_if<Errno>(&state)) {
    finish_call(current, *error);
  } else if (auto* operation = std::get_if<std::unique_ptr<Operation>>(&state)) {
    set_state(RunOperation{std::move(*operation), false, std::nullopt});
  } else if (std::holds_alternative<TaskExits>(state)) {
    set_state(RunExit{});
  } else if (std::holds_alternative<NeedsVectorState>(state)) {
    set_state(RunFetchVector{true});
  } else {  // FrameReplaced
    if (observer != nullptr) [[unlikely]]
      observer->left(current, entry_regs_, entry_, context->regs().rax);
    set_state(RunGuest{});
  }
  return Next::kGoOn;
}

void Task::finish_call(CurrentTask& current, uint64_t value) {
  Registers& regs = context->regs();
  regs.rax = value;
  if (SyscallObserver* observer = kernel.observer(); observer != nullptr) [[unlikely]]
    observer->left(current, entry_regs_, entry_, value);
  // A mask that ppoll and the like set for the wait is kept for the handler that ends it.
  bool was_interrupted = value == static_cast<uint64_t>(Errno(EINTR).as_return()) || restart_;
  if (saved_mask && !was_interrupted)
    set_blocked_signals(*this, *std::exchange(saved_mask, std::nullopt));
  set_state(RunGuest{});
  // The call is done, but what it wrote came from the reserve.
  if (kernel.memory().is_short() && !kernel.memory().refill_reserve()) [[unlikely]]
    wait_for_memory();
}

void Task::finish_call(CurrentTask& current, Errno error) {
  if (error.is_restart()) {
    restart_ = error;
    // Something made the task look; if that was nothing, the call just begins again.
    attention_.store(true, std::memory_order_release);
  }
  if (error == Errno(kEMEMORYLIMIT)) {
    finish_call(current, Errno(kERESTARTNOINTR));
    if (std::holds_alternative<RunGuest>(run_state_)) wait_for_memory();
    return;
  }
  finish_call(current, static_cast<uint64_t>(error.as_return()));
}

}  // namespace caisson
