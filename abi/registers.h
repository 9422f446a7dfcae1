// Registers: the general registers of one guest task on x86-64, in the order of Linux's struct
// user_regs_struct (asm/user_64.h), so that ptrace(2) and core dumps can copy it whole.
#pragma once

#include <cstdint>

namespace caisson {

struct Registers {
  uint64_t r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8;
  uint64_t rax, rcx, rdx, rsi, rdi;
  uint64_t orig_rax;  // system call number, or ~0 when the task did not enter by a system call
  uint64_t rip;
  uint64_t cs;
  uint64_t eflags;
  uint64_t rsp;
  uint64_t ss;
  uint64_t fs_base, gs_base;
  uint64_t ds, es, fs, gs;

  uint64_t syscall_number() const { return orig_rax; }
  uint64_t syscall_arg(int index) const {
    switch (index) {
      case 0:
        return rdi;
      case 1:
        return rsi;
      case 2:
        return rdx;
      case 3:
        return r10;
      case 4:
        return r8;
      default:
        return r9;
    }
  }
};
static_assert(sizeof(Registers) == 27 * 8);

// EFLAGS. An instruction sets the arithmetic ones by its result; of exceptions, only faults leave
// RF.
inline constexpr uint64_t kTrapFlag = 1 << 8;
inline constexpr uint64_t kDirectionFlag = 1 << 10;
inline constexpr uint64_t kOverflowFlag = 1 << 11;
inline constexpr uint64_t kNestedTaskFlag = 1 << 14;
inline constexpr uint64_t kResumeFlag = 1 << 16;
inline constexpr uint64_t kAlignmentFlag = 1 << 18;
inline constexpr uint64_t kIdFlag = 1 << 21;
inline constexpr uint64_t kArithmeticFlags = 0xd5 | kOverflowFlag;

// The arithmetic flags as `lahf; seto %al` leave them in ax: lahf's byte in bits 8 to 15, OF in
// bit 0.
inline constexpr uint64_t unpack_arithmetic_flags(uint64_t packed) {
  return (packed >> 8 & kArithmeticFlags & ~kOverflowFlag) |
         ((packed & 1) != 0 ? kOverflowFlag : 0);
}
inline constexpr uint64_t pack_arithmetic_flags(uint64_t flags) {
  return (flags & kArithmeticFlags & ~kOverflowFlag) << 8 | ((flags & kOverflowFlag) != 0 ? 1 : 0);
}

inline constexpr uint64_t kUserCs = 0x33;
inline constexpr uint64_t kUserSs = 0x2b;
inline constexpr uint64_t kUserCs32 = 0x23;

}  // namespace caisson
