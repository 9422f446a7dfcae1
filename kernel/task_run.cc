// The run loop of a task: from an event or a wake-up to the next time in the guest, the next wait,
// or the end. docs: kernel/README.md.
#include <utility>

#include "base/log.h"
#include "kernel/cpu_timers.h"
#include "kernel/current_task.h"
#include "kernel/kernel.h"
#include "kernel/rseq.h"
#include "kernel/run_queue.h"
#include "kernel/signals.h"
#include "kernel/task.h"

namespace caisson {

void Task::set_state(RunState next) {
  DCHECK(may_follow(run_state_, next));
  run_state_ = std::move(next);
}

// A task that was queued: new, or woken.
void Task::run_turn() {
  sched_.take();
  run_loop();
}

void Task::run_event() {
  sched_.take();
  CurrentTask current(*this);
  Registers& regs = context->regs();
  bool is_fetching = std::holds_alternative<RunFetchVector>(run_state_);
  switch (context->event()) {
    case platform::EventKind::kSyscall:
      if (is_fetching) break;
      if (context->is_trapped()) report_trap(current);
      restart_.reset();
      set_state(RunSyscall{});
      return run_loop();
    case platform::EventKind::kFault:
      if (is_fetching) break;
      if (take_patched_place(current)) return run_loop();
      regs.orig_rax = ~0ull;
      take_fault(current);
      return run_loop();
    case platform::EventKind::kInterrupt:
      if (!is_fetching) regs.orig_rax = ~0ull;
      return run_loop();
    case platform::EventKind::kFrame:
      return run_loop();
    case platform::EventKind::kDied:
      LOG_INFO("task %d: the stub is gone", tid());
      begin_group_exit(group, host_refuses_rseq(current) ? SIGSEGV : SIGKILL);
      set_state(RunExit{});
      return run_loop();
  }
  // An event that the task's state does not allow: the stub is hostile or broken.
  begin_group_exit(group, SIGKILL);
  set_state(RunExit{});
  run_loop();
}

void Task::run_loop() {
  CurrentTask current(*this);
  for (;;) {
    Next next = Next::kGoOn;
    switch (run_state_.index()) {
      case 0:
        next = turn_guest(current);
        break;
      case 1:
        next = turn_syscall(current);
        break;
      case 2:
        next = turn_operation(current);
        break;
      case 3:
        next = turn_stopped(current);
        break;
      case 4:
        next = turn_fetch_vector(current);
        break;
      case 5:
        next = turn_exit(current);
        break;
      default:
        CHECK(false);
    }
    if (next == Next::kLeft) return;
  }
}

Task::Next Task::turn_guest(CurrentTask& current) {
  sched_.begin_look();
  if (attention()) {
    switch (deliver_signals(current)) {
      case Delivery::kNothing:
        break;
      case Delivery::kHandler:
        return Next::kGoOn;
      case Delivery::kStop:
        set_state(RunStopped{});
        return Next::kGoOn;
      case Delivery::kExit:
        set_state(RunExit{});
        return Next::kGoOn;
      case Delivery::kFetchVector:
        set_state(RunFetchVector{false});
        return Next::kGoOn;
      case Delivery::kOutOfMemory:
        wait_for_memory();
        return Next::kGoOn;
    }
  }
  if (restart_) {
    // Interrupted, but no handler ran: the call begins again, as if the guest had made it again.
    Registers& regs = context->regs();
    if (restart_->value() == kERESTART_RESTARTBLOCK) regs.orig_rax = SYS_restart_syscall;
    regs.rax = regs.orig_rax;
    restart_.reset();
    if (saved_mask) set_blocked_signals(*this, *std::exchange(saved_mask, std::nullopt));
    set_state(RunSyscall{});
    return Next::kGoOn;
  }
  if (saved_mask) {
    set_blocked_signals(*this, *std::exchange(saved_mask, std::nullopt));
    return Next::kGoOn;
  }
  if (CpuTimers* cpu = group.cpu_timers.load(std::memory_order_acquire); cpu != nullptr)
    cpu->entering_guest();
  if (!sched_.enter_guest()) return Next::kGoOn;
  // From here on another worker may have the task, and may end it.
  RefOrNull<Task> keep(this);
  context->resume();
  return Next::kLeft;
}

Task::Next Task::turn_fetch_vector(CurrentTask&) {
  if (context->has_vector_state()) {
    bool enter_syscall = std::get<RunFetchVector>(run_state_).enter_syscall;
    is_reentry_ = enter_syscall;
    if (enter_syscall)
      set_state(RunSyscall{});
    else
      set_state(RunGuest{});
    return Next::kGoOn;
  }
  if (must_end()) {
    set_state(RunExit{});
    return Next::kGoOn;
  }
  sched_.begin_look();
  if (!sched_.enter_guest()) return Next::kGoOn;
  RefOrNull<Task> keep(this);
  context->fetch_vector_state();
  return Next::kLeft;
}

Task::Next Task::turn_stopped(CurrentTask&) {
  sched_.begin_look();
  {
    MutexLock lock(group.mu);
    if (!is_stopped || is_killed || group.is_exiting) {
      attention_.store(true, std::memory_order_release);
      run_state_ = RunGuest{};
      return Next::kGoOn;
    }
  }
  return sched_.park() ? Next::kLeft : Next::kGoOn;
}

Task::Next Task::turn_operation(CurrentTask& current) {
  RunOperation& run = std::get<RunOperation>(run_state_);
  Operation& operation = *run.operation;
  sched_.begin_look();
  if (!run.armed) {
    run.armed = true;
    context->park();
    wait_name_.store(operation.name(), std::memory_order_relaxed);
    operation.arm(current, *this);
    set_deadline(run);
  }
  StepResult result = MustWait{};
  if (must_end()) {
    result = Errno(EINTR);
  } else {
    result = operation.step(current);
    if (std::holds_alternative<MustWait>(result) && !operation.killable_only() && signal_pending())
      result = operation.interrupted(current);
    if (std::holds_alternative<MustWait>(result) && run.deadline_ns &&
        host::monotonic_ns() >= *run.deadline_ns) {
      result = operation.timed_out(current);
      if (std::holds_alternative<MustWait>(result)) {
        set_deadline(run);  // it wants more time, or was only waiting for its next look
        return Next::kGoOn;
      }
    }
  }
  if (std::holds_alternative<MustWait>(result)) return sched_.park() ? Next::kLeft : Next::kGoOn;
  disarm(run);
  finish_operation(current, result);
  return Next::kGoOn;
}

void Task::set_deadline(RunOperation& run) {
  run.deadline_ns = run.operation->deadline_ns();
  deadline_.store(run.deadline_ns.value_or(0), std::memory_order_release);
  if (run.deadline_ns)
    kernel.events().add_deadline(*run.deadline_ns, Ref<host::DeadlineTarget>(*this));
}

void Task::disarm(RunOperation& run) {
  wait_name_.store(nullptr, std::memory_order_relaxed);
  if (!run.armed) return;
  run.operation->disarm();
  if (run.deadline_ns) {
    deadline_.store(0, std::memory_order_release);
    kernel.events().cancel_deadline(*run.deadline_ns, *this);
  }
}

void Task::finish_operation(CurrentTask& current, const StepResult& result) {
  if (!std::get<RunOperation>(run_state_).operation->is_call())
    set_state(RunGuest{});
  else if (const auto* value = std::get_if<uint64_t>(&result))
    finish_call(current, *value);
  else
    finish_call(current, *std::get_if<Errno>(&result));
}

// The memory limit is reached: a process ends for it, and we look again a moment later.
void Task::wait_for_memory() {
  kernel.memory_killer().limit_reached(&group);
  set_state(RunOperation{make_memory_wait(), false, std::nullopt});
}

// One in many, so that the rest pays nothing for it; of all tasks together, as many make few calls.
void Task::report_trap(CurrentTask& current) {
  static thread_local uint32_t trapped_calls = 0;  // this worker's
  CallPatcher& patcher = kernel.call_patcher();
  if (!patcher.is_on() || ++trapped_calls % patcher.traps_per_report() != 0) return;
  patcher.trapped(current.mm(), context->regs().rip);
}

namespace {
// What is at `addr` cannot fault so, but is what a patch may have been over: another thread has
// taken the patch away since the guest met it, and it only needs to try again.
bool begins_after_a_patch(MemoryManager& mm, GuestAddr addr) {
  constexpr uint16_t kSyscall = 0x050f, kCompare = 0x3d48;
  uint16_t bytes = 0;
  return mm.copy_in(&bytes, addr, sizeof bytes).ok() && (bytes == kSyscall || bytes == kCompare);
}
}  // namespace

// The guest went to an instruction in the middle of a patch: a call to be restarted after a
// handler, for one.
bool Task::take_patched_place(CurrentTask& current) {
  using Kind = MemoryManager::PatchedPlace::Kind;
  constexpr uint64_t kGeneralProtection = 13;
  const platform::Fault fault = context->fault();
  if (fault.signo != SIGILL && (fault.signo != SIGSEGV || fault.trapno != kGeneralProtection))
    return false;
  Registers& regs = context->regs();
  MemoryManager::PatchedPlace place = current.mm().patched_place(regs.rip);
  if (place.kind == Kind::kNone) {
    if (!begins_after_a_patch(current.mm(), regs.rip)) return false;
    set_state(RunGuest{});
    return true;
  }
  if (place.kind == Kind::kCompare) {
    uint64_t packed;
    __asm__("cmp %2, %1; lahf; seto %%al"
            : "=&a"(packed)
            : "r"(regs.rax), "r"(int64_t{place.compared})
            : "cc");
    regs.eflags = (regs.eflags & ~kArithmeticFlags) | unpack_arithmetic_flags(packed);
    regs.rip = place.next;
    set_state(RunGuest{});
    return true;
  }
  context->take_call(place.next);
  restart_.reset();
  set_state(RunSyscall{});
  return true;
}

// A synchronous exception. Page faults are the address space's business first.
void Task::take_fault(CurrentTask& current) {
  const platform::Fault fault = context->fault();
  SigInfo info;
  info.signo = fault.signo;
  info.code = fault.code;
  info.fault.addr = fault.addr;
  constexpr uint64_t kPageFault = 14, kWriteBit = 2, kFetchBit = 16;
  if (fault.trapno == kPageFault && (fault.signo == SIGSEGV || fault.signo == SIGBUS)) {
    Access access = (fault.error_code & kFetchBit) != 0   ? Access::kExecute
                    : (fault.error_code & kWriteBit) != 0 ? Access::kWrite
                                                          : Access::kRead;
    FaultOutcome outcome = current.mm().handle_fault(fault.addr, access, fault.signo);
    switch (outcome.kind) {
      case FaultOutcome::Kind::kHandled:
        set_state(RunGuest{});
        return;
      case FaultOutcome::Kind::kOutOfMemory:
        set_state(RunGuest{});
        wait_for_memory();
        return;
      case FaultOutcome::Kind::kSignal:
        info.signo = outcome.signo;
        info.code = outcome.code;
        break;
    }
  }
  last_fault_ = fault;
  if (fault.trapno != kPageFault) last_fault_.addr = 0;  // cr2 belongs to page faults
  force_signal(current, info);
  set_state(RunGuest{});
}

}  // namespace caisson
