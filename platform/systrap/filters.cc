#include "platform/systrap/filters.h"

#include <linux/futex.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "platform/systrap/stub_image.h"
#include "platform/systrap/sysmsg/sysmsg.h"
#include "seccomp/program.h"

namespace caisson::systrap {

using seccomp::arg32_is;
using seccomp::arg_at_least;
using seccomp::arg_below;
using seccomp::arg_is;
using seccomp::Condition;
using seccomp::instruction_pointer_in;
using seccomp::instruction_pointer_is;
using seccomp::Rule;

std::vector<sock_filter> stub_process_filter(uint64_t base) {
  Condition text = instruction_pointer_in(base, base + stub_header().text_size);
  constexpr uint64_t kThread = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_PARENT;
  constexpr uint64_t kStub = CLONE_FILES | CLONE_PARENT;
  std::vector<Rule> rules = {
      {SYS_rt_sigreturn, "a stub thread goes back to the guest", {text}},
      {SYS_sigaltstack, "a stub thread sets its signal stack", {text}},
      {SYS_futex, "waits and wake-ups between stubs and the kernel process", {text}},
      {SYS_restart_syscall, "a wait with a timeout goes on after SIGCONT or a thaw", {text}},
      {SYS_mmap, "the mapper's orders", {text}},
      {SYS_munmap, "the mapper's orders", {text}},
      {SYS_mprotect, "the mapper's orders", {text}},
      {SYS_madvise, "the mapper asks for huge pages", {text, arg_is(2, MADV_HUGEPAGE)}},
      {SYS_pwrite64, "the mapper acknowledges", {text}},
      {SYS_lseek, "the mapper reports a new thread's id", {text}},
      {SYS_clone, "the mapper makes a stub thread", {text, arg_is(0, kThread)}},
      {SYS_clone, "the zygote makes a stub", {text, arg_is(0, kStub)}},
      {SYS_seccomp,
       "a new stub thread puts on the guest-thread filter",
       {text, arg_is(0, SECCOMP_SET_MODE_FILTER), arg_is(1, 0)}},
      {SYS_prctl, "stubs die with the kernel process", {text, arg_is(0, PR_SET_PDEATHSIG)}},
      {SYS_getppid, "stubs die with the kernel process", {text}},
      {SYS_rseq, "a stub thread registers the guest's area", {text}},
      {SYS_exit, "a stub thread ends", {text}},
      {SYS_recvmsg, "the zygote's commands", {text, arg_is(0, FD_COMMANDS)}},
      {SYS_sendto, "the zygote's answers", {text, arg_is(0, FD_COMMANDS)}},
      {SYS_dup3, "the zygote installs a descriptor", {text}},
      {SYS_close, "the zygote closes a descriptor", {text}},
  };
  return seccomp::compile(rules, SECCOMP_RET_TRAP, SECCOMP_RET_TRAP);
}

std::vector<sock_filter> guest_thread_filter(uint64_t base, bool stub_calls) {
  const StubHeader& stub = stub_header();
  auto site = [base](uint32_t offset) { return instruction_pointer_is(base + offset); };
  Condition below_gap = arg_below(0, STUB_USER_END);
  Condition above_table = arg_at_least(0, CALL_TABLE_END);
  Condition in_region = arg_at_least(0, base);
  Condition below_end = arg_below(0, base + STUB_REGION_SIZE);
  std::vector<Rule> rules = {
      {SYS_rt_sigreturn, "back to the guest", {site(stub.site_sigreturn)}},
      {SYS_sigaltstack,
       "a reused thread's signal stack, as rt_sigreturn sets it too",
       {site(stub.site_stack), in_region, below_end, arg_is(1, 0)}},
      {SYS_futex,
       "wait for the kernel's answer in a slot",
       {site(stub.site_wait), in_region, below_end, arg32_is(1, FUTEX_WAIT)}},
      {SYS_futex,
       "ring a worker",
       {site(stub.site_wake), in_region, below_end, arg32_is(1, FUTEX_WAKE)}},
      {SYS_restart_syscall, "that wait goes on after SIGCONT or a thaw", {site(stub.site_wait)}},
      {SYS_exit, "the thread ends", {site(stub.site_exit)}},
  };
  if (!stub_calls) return seccomp::compile(rules, SECCOMP_RET_TRAP, SECCOMP_RET_TRAP);
  rules.push_back({SYS_restart_syscall,
                   "a private wait goes on after SIGCONT or a thaw",
                   {site(stub.site_private_wait)}});
  // The gap is longer than the range can be, so that it ends below the stub region.
  rules.push_back({SYS_mprotect,
                   "protects the guest's own memory",
                   {site(stub.site_protect), above_table, below_gap, arg_below(1, STUB_GAP + 1),
                    arg_below(2, 8)}});
  rules.push_back({SYS_rseq,
                   "registers the guest's area, or takes it back",
                   {site(stub.site_rseq), below_gap, arg_below(2, 2)}});
  rules.push_back({SYS_rseq,
                   "proves that nothing is registered",
                   {site(stub.site_rseq), arg_is(0, RSEQ_NOWHERE), arg_below(2, 2)}});
  for (uint32_t op : {FUTEX_WAIT_PRIVATE, FUTEX_WAIT_BITSET_PRIVATE,
                      FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME})
    rules.push_back({SYS_futex,
                     "waits on a private word of the guest",
                     {site(stub.site_private_wait), below_gap, arg32_is(1, op)}});
  for (uint32_t place : {stub.site_private_wait, stub.site_private_wake})
    for (uint32_t op : {FUTEX_WAKE_PRIVATE, FUTEX_WAKE_BITSET_PRIVATE})
      rules.push_back({SYS_futex,
                       "wakes waiters of a private word of the guest",
                       {site(place), below_gap, arg32_is(1, op)}});
  return seccomp::compile(rules, SECCOMP_RET_TRAP, SECCOMP_RET_TRAP);
}

}  // namespace caisson::systrap
