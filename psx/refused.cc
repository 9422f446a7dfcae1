#include "psx/refused.h"

#include <asm/prctl.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <cstdint>

namespace caisson::psx::internal {

namespace {

constexpr char kEnds[] = "it ends the thread or the process";
constexpr char kReplaces[] = "it replaces the program";
constexpr char kCopies[] = "every thread would make a process or thread";
constexpr char kFrame[] = "it would tear down the signal frame";
constexpr char kUndone[] = "the return from the signal handler undoes it";
constexpr char kOwn[] = "each thread has its own address for it";
constexpr char kOwnOfX32[] = "x32 calls of this number take other structures";
constexpr char kMasked[] = "it waits for a signal, and all are masked meanwhile";
constexpr char kStrict[] = "strict mode allows no further call, so no other thread could be told";

struct Refusal {
  long nr;
  const char* why;
};

constexpr Refusal kRefusals[] = {
    {SYS_exit, kEnds},
    {SYS_exit_group, kEnds},
    {SYS_execve, kReplaces},
    {SYS_execveat, kReplaces},
    {SYS_fork, kCopies},
    {SYS_vfork, kCopies},
    {SYS_clone, kCopies},
    {SYS_clone3, kCopies},
    {SYS_rt_sigreturn, kFrame},
    {SYS_restart_syscall, kFrame},
    {SYS_rt_sigprocmask, kUndone},
    {SYS_sigaltstack, kUndone},
    {SYS_pause, kMasked},
    {SYS_rt_sigsuspend, kMasked},
    {SYS_set_tid_address, kOwn},
    {SYS_set_robust_list, kOwn},
    {SYS_rseq, kOwn},
};

// The same as a set, because most calls are looked up in vain. One word for 64 numbers.
constexpr uint32_t kWords = 8;
struct NumberSet {
  uint64_t words[kWords] = {};
  constexpr bool has(uint32_t number) const {
    return number / 64 < kWords && (words[number / 64] >> number % 64 & 1) != 0;
  }
};
constexpr NumberSet kRefused = [] {
  NumberSet set;
  for (const Refusal& refusal : kRefusals) set.words[refusal.nr / 64] |= 1ULL << refusal.nr % 64;
  return set;
}();

// The kernel looks at the low 32 bits only, and from here on are x32's numbers of the same calls.
constexpr uint32_t kX32 = 0x40000000;
constexpr uint32_t kX32End = kX32 + 1024;  // Linux 6.18 uses 548; more is ENOSYS
uint32_t number_of(long nr) {
  const auto number = static_cast<uint32_t>(nr);
  return number >= kX32 && number < kX32End ? number - kX32 : number;
}

}  // namespace

bool installs_filter(long nr, long a1) {
  const uint32_t number = number_of(nr);
  return (number == SYS_prctl && static_cast<int>(a1) == PR_SET_SECCOMP) ||
         (number == SYS_seccomp && static_cast<uint32_t>(a1) == SECCOMP_SET_MODE_FILTER);
}

const char* why_refused(long nr, long a1, long a2) {
  const uint32_t number = number_of(nr);
  if (kRefused.has(number)) {
    for (const Refusal& refusal : kRefusals) {
      if (number == static_cast<uint32_t>(refusal.nr)) return refusal.why;
    }
  }
  // x32 has numbers of its own from 512 on, execve and rt_sigreturn among them.
  if (static_cast<uint32_t>(nr) - kX32 == number && number >= 512) return kOwnOfX32;
  if (number == SYS_arch_prctl && (a1 == ARCH_SET_FS || a1 == ARCH_SET_GS)) return kOwn;
  const bool strict_prctl =
      number == SYS_prctl && static_cast<int>(a1) == PR_SET_SECCOMP && a2 == SECCOMP_MODE_STRICT;
  const bool strict_seccomp =
      number == SYS_seccomp && static_cast<uint32_t>(a1) == SECCOMP_SET_MODE_STRICT;
  return strict_prctl || strict_seccomp ? kStrict : nullptr;
}

}  // namespace caisson::psx::internal
