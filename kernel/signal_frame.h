// The frame that a signal handler starts on, and its way back by rt_sigreturn(2). Linux:
// arch/x86/kernel/signal.c, signal_64.c, fpu/signal.c.
#pragma once

#include <cstddef>
#include <span>

#include "abi/registers.h"
#include "abi/signal.h"
#include "base/result.h"
#include "kernel/signal/signal_set.h"
#include "mm/memory_manager.h"

namespace caisson {

struct SignalFrameRequest {
  const SigInfo& info;
  const SigAction& action;
  SignalSet mask;      // what rt_sigreturn restores
  SignalStack& stack;  // SS_AUTODISARM changes it
  std::span<const std::byte> vector_state;
  uint64_t trapno = 0, error_code = 0, fault_addr = 0;
  GuestAddr max_address = 0;  // first address that guests may not use
};

// Writes the frame and makes `regs` start the handler. EFAULT: the stack can't be written.
Result<void> build_signal_frame(MemoryManager& mm, Registers& regs,
                                const SignalFrameRequest& request);

struct RestoredFrame {
  SignalSet mask;
  SignalStack stack;
  std::vector<std::byte> vector_state;  // empty: the initial state
};
// Undoes it: `regs` become those of the frame at rsp - 8. EFAULT: not readable, or not a frame.
// `flags_known`: regs.eflags has all of the caller's flags.
Result<RestoredFrame> restore_signal_frame(MemoryManager& mm, Registers& regs,
                                           size_t vector_state_size, GuestAddr max_address,
                                           bool flags_known);

bool is_on_signal_stack(const SignalStack& stack, GuestAddr sp);
// SS_ONSTACK, SS_DISABLE or 0, as sigaltstack(2) reports it.
int32_t signal_stack_flags(const SignalStack& stack, GuestAddr sp);

}  // namespace caisson
