// The kernel process' filter as the host's BPF machine sees it: what a rule names passes, nothing
// else does.
#include "runtime/kernel_filter.h"

#include <gtest/gtest.h>
#include <linux/audit.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <set>

namespace caisson::runtime {
namespace {

constexpr uint32_t kLastNumber = 700;

class KernelFilter : public testing::Test {
 protected:
  static seccomp_data call(uint32_t nr, uint64_t a0 = 0, uint64_t a1 = 0, uint64_t a2 = 0) {
    seccomp_data data{};
    data.nr = static_cast<int>(nr);
    data.arch = AUDIT_ARCH_X86_64;
    data.instruction_pointer = 0x400000;
    data.args[0] = a0;
    data.args[1] = a1;
    data.args[2] = a2;
    return data;
  }
  bool passes(const seccomp_data& data) const {
    uint32_t action = seccomp::evaluate(program_, data);
    EXPECT_TRUE(action == SECCOMP_RET_ALLOW || action == SECCOMP_RET_KILL_PROCESS);
    return action == SECCOMP_RET_ALLOW;
  }

  const std::vector<seccomp::Rule> rules_ = kernel_process_rules();
  const std::vector<sock_filter> program_ =
      seccomp::compile(rules_, SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_KILL_PROCESS);
};

// Arguments that fulfil a rule's conditions.
seccomp_data fulfilling(const seccomp::Rule& rule, seccomp_data data) {
  for (const seccomp::Condition& condition : rule.conditions) {
    size_t index = (condition.offset - offsetof(seccomp_data, args)) / 8;
    EXPECT_LT(index, 6u);
    data.args[index] = condition.a;
  }
  return data;
}

TEST_F(KernelFilter, EachRulePassesWhatItNamesAndHasAReason) {
  for (const seccomp::Rule& rule : rules_) {
    EXPECT_FALSE(rule.reason.empty()) << rule.nr;
    EXPECT_TRUE(passes(fulfilling(rule, call(rule.nr)))) << rule.nr;
  }
}

TEST_F(KernelFilter, NothingElsePasses) {
  std::set<uint32_t> named;
  for (const seccomp::Rule& rule : rules_) named.insert(rule.nr);
  for (uint32_t nr = 0; nr < kLastNumber; ++nr) {
    if (named.count(nr) != 0) continue;
    for (uint64_t a : {uint64_t{0}, uint64_t{1}, ~uint64_t{0}})
      EXPECT_FALSE(passes(call(nr, a, a, a))) << nr;
  }
  // Those that would undo the walls, by name: a rule for one of them is a mistake.
  for (uint32_t nr : {SYS_execve,
                      SYS_execveat,
                      SYS_fork,
                      SYS_vfork,
                      SYS_clone,
                      SYS_ptrace,
                      SYS_process_vm_readv,
                      SYS_process_vm_writev,
                      SYS_open,
                      SYS_openat,
                      SYS_socket,
                      SYS_connect,
                      SYS_bind,
                      SYS_mount,
                      SYS_unshare,
                      SYS_setns,
                      SYS_prctl,
                      SYS_seccomp,
                      SYS_kill,
                      SYS_bpf,
                      SYS_io_uring_setup,
                      SYS_pidfd_getfd,
                      SYS_perf_event_open,
                      SYS_userfaultfd,
                      SYS_keyctl,
                      SYS_chroot,
                      SYS_pivot_root,
                      SYS_open_by_handle_at,
                      SYS_init_module,
                      SYS_shmget,
                      SYS_unlinkat})
    EXPECT_EQ(named.count(nr), 0u) << nr;
}

TEST_F(KernelFilter, OtherArchitecturesAndX32AreKilled) {
  for (uint32_t nr = 0; nr < kLastNumber; ++nr) {
    seccomp_data data = call(nr);
    data.arch = AUDIT_ARCH_I386;
    EXPECT_FALSE(passes(data)) << nr;
    EXPECT_FALSE(passes(call(nr | 0x40000000))) << nr;
  }
}

TEST_F(KernelFilter, NoMemoryIsEverExecutable) {
  for (uint64_t prot = 0; prot < 16; ++prot) {
    bool executable = (prot & PROT_EXEC) != 0;
    EXPECT_EQ(passes(call(SYS_mmap, 0, 4096, prot)), !executable) << prot;
    EXPECT_EQ(passes(call(SYS_mprotect, 0, 4096, prot)), !executable) << prot;
  }
}

TEST_F(KernelFilter, ConditionsHoldForNeighboursToo) {
  std::set<uint64_t> requests;
  std::set<uint64_t> commands;
  for (const seccomp::Rule& rule : rules_) {
    if (rule.nr == SYS_ioctl) requests.insert(rule.conditions.at(0).a);
    if (rule.nr == SYS_fcntl) commands.insert(rule.conditions.at(0).a);
  }
  EXPECT_EQ(requests.count(TIOCSTI), 0u);
  EXPECT_EQ(requests.count(TIOCSCTTY), 0u);
  EXPECT_EQ(requests.count(0x541c /* TIOCLINUX */), 0u);
  for (uint64_t request = 0x5400; request < 0x5480; ++request) {
    EXPECT_EQ(passes(call(SYS_ioctl, 0, request)), requests.count(request) != 0) << request;
    // The host looks at the lower half only.
    EXPECT_EQ(passes(call(SYS_ioctl, 0, request | uint64_t{1} << 32)),
              requests.count(request) != 0);
  }
  for (uint64_t command = 0; command < 1100; ++command)
    EXPECT_EQ(passes(call(SYS_fcntl, 0, command)), commands.count(command) != 0) << command;
}

}  // namespace
}  // namespace caisson::runtime
