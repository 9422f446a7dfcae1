// Signals as the kernel's ABI has them on x86-64, signal(7). Linux: asm/sigcontext.h, asm/signal.h,
// asm-generic/siginfo.h. Structures of our own, since libc's differ; numbers and flags (SIG*, SA_*,
// SI_*, CLD_*) come from <signal.h>.
#pragma once

#include <signal.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace caisson {

inline constexpr int kSignalCount = 64;    // signals are 1..64
inline constexpr int kFirstRealTime = 32;  // the kernel's SIGRTMIN; libc keeps 32 and 33 for itself
inline constexpr uint64_t kSaRestorer = 0x04000000;
inline constexpr uint64_t kSaUnsupported = 0x00000400;
inline constexpr uint64_t kSaExposeTagBits = 0x00000800;
inline constexpr uint64_t kSigDefault = 0;
inline constexpr uint64_t kSigIgnore = 1;

struct SigAction {
  uint64_t handler = kSigDefault;
  uint64_t flags = 0;
  uint64_t restorer = 0;
  uint64_t mask = 0;
};
static_assert(sizeof(SigAction) == 32);

struct SigInfo {
  int32_t signo = 0;
  int32_t error = 0;
  int32_t code = 0;
  int32_t pad = 0;
  union {
    struct {  // SI_USER, SI_QUEUE, SI_TKILL, SI_MESGQ
      int32_t pid;
      uint32_t uid;
      uint64_t value;
    } rt;
    struct {  // SIGCHLD
      int32_t pid;
      uint32_t uid;
      int32_t status;
      int32_t pad;
      int64_t utime;  // clock ticks
      int64_t stime;
    } child;
    struct {  // SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP
      uint64_t addr;
      int16_t addr_lsb;
      int16_t pad[3];
      uint64_t lower, upper;
    } fault;
    struct {  // SI_TIMER
      int32_t id;
      int32_t overrun;
      uint64_t value;
    } timer;
    struct {  // SIGPOLL
      int64_t band;
      int32_t fd;
    } poll;
    struct {  // SIGSYS
      uint64_t call_addr;
      int32_t number;
      uint32_t arch;
    } sys;
    uint8_t bytes[112];
  };
  SigInfo() { std::memset(bytes, 0, sizeof bytes); }
};
static_assert(sizeof(SigInfo) == 128);
static_assert(offsetof(SigInfo, rt) == 16 && offsetof(SigInfo, rt.value) == 24);
static_assert(offsetof(SigInfo, child.status) == 24 && offsetof(SigInfo, child.utime) == 32);

struct SignalStack {  // stack_t
  uint64_t sp = 0;
  int32_t flags = 0;
  int32_t pad = 0;
  uint64_t size = 0;
};
static_assert(sizeof(SignalStack) == 24);
inline constexpr int32_t kSsOnStack = 1;
inline constexpr int32_t kSsDisable = 2;
inline constexpr int32_t kSsAutoDisarm = static_cast<int32_t>(1u << 31);
inline constexpr uint64_t kMinSignalStack = 2048;  // MINSIGSTKSZ

struct SigContext {
  uint64_t r8, r9, r10, r11, r12, r13, r14, r15;
  uint64_t rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip;
  uint64_t eflags;
  uint16_t cs, gs, fs, ss;
  uint64_t err;
  uint64_t trapno;
  uint64_t oldmask;
  uint64_t cr2;
  uint64_t fpstate;  // address, 0 if none
  uint64_t reserved[8];
};
static_assert(sizeof(SigContext) == 256);

struct UContext {
  uint64_t flags;
  uint64_t link;
  SignalStack stack;
  SigContext context;
  uint64_t sigmask;
};
static_assert(sizeof(UContext) == 304);
inline constexpr uint64_t kUcFpXstate = 1;
inline constexpr uint64_t kUcSigcontextSs = 2;
inline constexpr uint64_t kUcStrictRestoreSs = 4;

struct RtSigFrame {
  uint64_t return_address;
  UContext uc;
  SigInfo info;
};
static_assert(sizeof(RtSigFrame) == 440);

// The last 48 bytes of the 512-byte legacy area of fpstate: says what follows it.
struct FpSoftwareBytes {
  uint32_t magic1;
  uint32_t extended_size;  // with the 4 bytes of magic2
  uint64_t xfeatures;
  uint32_t xstate_size;
  uint32_t padding[7];
};
static_assert(sizeof(FpSoftwareBytes) == 48);
inline constexpr uint32_t kFpXstateMagic1 = 0x46505853;
inline constexpr uint32_t kFpXstateMagic2 = 0x46505845;
inline constexpr size_t kFpLegacySize = 512;
inline constexpr size_t kFpSoftwareOffset = 464;

}  // namespace caisson
