#include "kernel/signal_frame.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace caisson {
namespace {

constexpr uint64_t kRedZone = 128;
// What rt_sigreturn may change in eflags. Linux: FIX_EFLAGS.
constexpr uint64_t kRestorableFlags =
    kArithmeticFlags | kTrapFlag | kDirectionFlag | kResumeFlag | kAlignmentFlag;

bool uses_extended_state(size_t vector_state_size) { return vector_state_size > kFpLegacySize; }

}  // namespace

bool is_on_signal_stack(const SignalStack& stack, GuestAddr sp) {
  if ((stack.flags & kSsAutoDisarm) != 0) return false;
  return sp > stack.sp && sp - stack.sp <= stack.size;
}

int32_t signal_stack_flags(const SignalStack& stack, GuestAddr sp) {
  if (stack.size == 0) return kSsDisable;
  return is_on_signal_stack(stack, sp) ? kSsOnStack : 0;
}

Result<void> build_signal_frame(MemoryManager& mm, Registers& regs,
                                const SignalFrameRequest& request) {
  const SigAction& action = request.action;
  uint64_t sp = regs.rsp - kRedZone;
  bool was_on_stack = is_on_signal_stack(request.stack, regs.rsp);
  bool enters_stack = false;
  if ((action.flags & SA_ONSTACK) != 0 && signal_stack_flags(request.stack, regs.rsp) == 0) {
    sp = request.stack.sp + request.stack.size;
    enters_stack = true;
  }

  size_t vector_size = request.vector_state.size();
  bool extended = uses_extended_state(vector_size);
  size_t fp_bytes = extended ? vector_size + sizeof(uint32_t) : vector_size;
  uint64_t fp_addr = (sp - fp_bytes) & ~63ull;
  uint64_t frame_addr = ((fp_addr - sizeof(RtSigFrame)) & ~15ull) - 8;
  // Running out of the alternate stack kills, rather than writing below it.
  if ((was_on_stack || enters_stack) &&
      !(frame_addr > request.stack.sp && frame_addr - request.stack.sp <= request.stack.size))
    return Errno(EFAULT);
  if (frame_addr >= request.max_address || frame_addr > sp) return Errno(EFAULT);
  if ((action.flags & kSaRestorer) == 0) return Errno(EFAULT);  // Linux has no other way on x86-64

  std::vector<std::byte> bytes(fp_addr + fp_bytes - frame_addr);
  RtSigFrame frame;
  std::memset(static_cast<void*>(&frame), 0, sizeof frame);
  frame.return_address = action.restorer;
  frame.uc.flags = kUcSigcontextSs | kUcStrictRestoreSs | (extended ? kUcFpXstate : 0);
  frame.uc.stack = request.stack;
  frame.uc.stack.pad = 0;
  SigContext& context = frame.uc.context;
  context.r8 = regs.r8;
  context.r9 = regs.r9;
  context.r10 = regs.r10;
  context.r11 = regs.r11;
  context.r12 = regs.r12;
  context.r13 = regs.r13;
  context.r14 = regs.r14;
  context.r15 = regs.r15;
  context.rdi = regs.rdi;
  context.rsi = regs.rsi;
  context.rbp = regs.rbp;
  context.rbx = regs.rbx;
  context.rdx = regs.rdx;
  context.rax = regs.rax;
  context.rcx = regs.rcx;
  context.rsp = regs.rsp;
  context.rip = regs.rip;
  context.eflags = regs.eflags;
  context.cs = static_cast<uint16_t>(regs.cs);
  context.ss = static_cast<uint16_t>(regs.ss);
  context.err = request.error_code;
  context.trapno = request.trapno;
  context.oldmask = request.mask.bits();
  context.cr2 = request.fault_addr;
  context.fpstate = fp_addr;
  frame.uc.sigmask = request.mask.bits();
  frame.info = request.info;
  std::memcpy(bytes.data(), &frame, sizeof frame);

  std::byte* fp = bytes.data() + (fp_addr - frame_addr);
  std::memcpy(fp, request.vector_state.data(), vector_size);
  if (extended) {
    FpSoftwareBytes software{};
    software.magic1 = kFpXstateMagic1;
    software.extended_size = static_cast<uint32_t>(fp_bytes);
    software.xstate_size = static_cast<uint32_t>(vector_size);
    // The platform says there which components the image has room for.
    uint64_t features = 0;
    std::memcpy(&features, fp + kFpSoftwareOffset + 8, sizeof features);
    software.xfeatures = features;
    std::memcpy(fp + kFpSoftwareOffset, &software, sizeof software);
    std::memcpy(fp + vector_size, &kFpXstateMagic2, sizeof kFpXstateMagic2);
  }
  TRY(mm.copy_out(frame_addr, bytes.data(), bytes.size()).result());

  if ((request.stack.flags & kSsAutoDisarm) != 0) {
    request.stack = SignalStack{};
    request.stack.flags = kSsDisable;
  }
  regs.rdi = static_cast<uint64_t>(request.info.signo);
  regs.rsi = frame_addr + offsetof(RtSigFrame, info);
  regs.rdx = frame_addr + offsetof(RtSigFrame, uc);
  regs.rax = 0;
  regs.rip = action.handler;
  regs.rsp = frame_addr;
  regs.cs = kUserCs;
  regs.ss = kUserSs;
  regs.eflags &= ~(kDirectionFlag | kResumeFlag | kTrapFlag);
  regs.orig_rax = ~0ull;
  return {};
}

Result<RestoredFrame> restore_signal_frame(MemoryManager& mm, Registers& regs,
                                           size_t vector_state_size, GuestAddr max_address,
                                           bool flags_known) {
  uint64_t frame_addr = regs.rsp - sizeof(uint64_t);
  UContext uc = TRY(mm.copy_in(UserIn<UContext>(frame_addr + offsetof(RtSigFrame, uc))));
  const SigContext& context = uc.context;
  RestoredFrame result;
  if (context.fpstate != 0) {
    std::vector<std::byte> state(kFpLegacySize);
    TRY(mm.copy_in(state.data(), context.fpstate, state.size()).result());
    FpSoftwareBytes software;
    std::memcpy(&software, state.data() + kFpSoftwareOffset, sizeof software);
    // As Linux: anything that is not exactly what was written is taken as the legacy area alone.
    bool extended = uses_extended_state(vector_state_size) && software.magic1 == kFpXstateMagic1 &&
                    software.xstate_size > kFpLegacySize + 64 &&
                    software.xstate_size <= vector_state_size &&
                    software.extended_size >= software.xstate_size + sizeof(uint32_t);
    if (extended) {
      auto magic2 = mm.copy_in(UserIn<uint32_t>(context.fpstate + software.xstate_size));
      extended = magic2.ok() && magic2.value() == kFpXstateMagic2;
    }
    if (extended) {
      state.resize(software.xstate_size);
      TRY(mm.copy_in(state.data() + kFpLegacySize, context.fpstate + kFpLegacySize,
                     state.size() - kFpLegacySize)
              .result());
    }
    result.vector_state = std::move(state);
  }
  regs.r8 = context.r8;
  regs.r9 = context.r9;
  regs.r10 = context.r10;
  regs.r11 = context.r11;
  regs.r12 = context.r12;
  regs.r13 = context.r13;
  regs.r14 = context.r14;
  regs.r15 = context.r15;
  regs.rdi = context.rdi;
  regs.rsi = context.rsi;
  regs.rbp = context.rbp;
  regs.rbx = context.rbx;
  regs.rdx = context.rdx;
  regs.rax = context.rax;
  regs.rcx = context.rcx;
  regs.rsp = context.rsp;
  regs.rip = context.rip;
  // A patched call does not say how these are; what they were before the handler is as good a
  // guess.
  const uint64_t restored = kRestorableFlags | (flags_known ? 0 : kNestedTaskFlag | kIdFlag);
  regs.eflags = (regs.eflags & ~restored) | (context.eflags & restored);
  regs.cs = kUserCs;
  regs.ss = kUserSs;
  regs.orig_rax = ~0ull;
  result.mask = SignalSet(uc.sigmask) & ~kUnblockable;
  result.stack = uc.stack;
  return result;
}

}  // namespace caisson
