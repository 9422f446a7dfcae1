// Every call number at every `syscall` instruction of the stub image, against the exact lists.
#include "platform/systrap/filters.h"

#include <gtest/gtest.h>
#include <linux/audit.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <functional>
#include <set>

#include "platform/systrap/stub_image.h"
#include "platform/systrap/sysmsg/sysmsg.h"
#include "seccomp/program.h"

namespace caisson::systrap {
namespace {

constexpr uint64_t kBase = 0x7f3234500000;

seccomp_data call(uint32_t nr, uint64_t ip, uint64_t a0 = 0, uint64_t a1 = 0) {
  seccomp_data data{};
  data.nr = static_cast<int>(nr);
  data.arch = AUDIT_ARCH_X86_64;
  data.instruction_pointer = ip;
  data.args[0] = a0;
  data.args[1] = a1;
  return data;
}

bool allowed(const std::vector<sock_filter>& filter, const seccomp_data& data) {
  uint32_t action = seccomp::evaluate(filter, data);
  EXPECT_TRUE(action == SECCOMP_RET_ALLOW || action == SECCOMP_RET_TRAP);
  return action == SECCOMP_RET_ALLOW;
}

// Addresses after each `syscall` (0f 05) in the image.
std::vector<uint64_t> sites() {
  std::vector<uint64_t> result;
  auto image = stub_image();
  for (size_t i = 0; i + 1 < image.size(); ++i) {
    if (image[i] == std::byte{0x0f} && image[i + 1] == std::byte{0x05})
      result.push_back(kBase + i + 2);
  }
  return result;
}

const uint64_t kArguments[] = {0,
                               1,
                               2,
                               3,
                               128,
                               129,
                               kBase,
                               kBase + STUB_CONTROL,
                               CALL_TABLE,
                               CALL_TABLE_END - 1,
                               CALL_TABLE_END,
                               0x400000,
                               0x7effffff,
                               137,
                               138,
                               393,
                               STUB_GAP,
                               STUB_GAP + 1,
                               STUB_USER_END - 1,
                               STUB_USER_END,
                               kBase - 1,
                               CLONE_VM,
                               CLONE_FILES,
                               ~uint64_t{0},
                               RSEQ_NOWHERE,
                               PR_SET_PDEATHSIG};

TEST(GuestThreadFilter, AllowsTheExactListAndNothingElse) {
  auto filter = guest_thread_filter(kBase);
  const StubHeader& stub = stub_header();
  std::vector<uint64_t> addresses = sites();
  ASSERT_GT(addresses.size(), 5u);
  addresses.insert(addresses.end(), {0x400000, kBase, kBase + 0x20000, kBase - 2, stub.site_wait});
  for (uint64_t ip : addresses) {
    for (uint32_t nr = 0; nr < 600; ++nr) {
      for (uint64_t a0 : kArguments) {
        for (uint64_t a1 : kArguments) {
          auto op = static_cast<uint32_t>(a1);
          bool guest = a0 < STUB_USER_END;
          bool in_region = a0 >= kBase && a0 < kBase + STUB_REGION_SIZE;
          bool expected =
              (ip == kBase + stub.site_sigreturn && nr == SYS_rt_sigreturn) ||
              (ip == kBase + stub.site_stack && nr == SYS_sigaltstack && in_region && a1 == 0) ||
              (ip == kBase + stub.site_wait && nr == SYS_futex && in_region &&
               static_cast<uint32_t>(a1) == FUTEX_WAIT) ||
              (ip == kBase + stub.site_wake && nr == SYS_futex && in_region &&
               static_cast<uint32_t>(a1) == FUTEX_WAKE) ||
              (ip == kBase + stub.site_exit && nr == SYS_exit) ||
              ((ip == kBase + stub.site_wait || ip == kBase + stub.site_private_wait) &&
               nr == SYS_restart_syscall) ||
              (ip == kBase + stub.site_protect && nr == SYS_mprotect && a0 >= CALL_TABLE_END &&
               guest && a1 <= STUB_GAP) ||
              (ip == kBase + stub.site_private_wait && nr == SYS_futex && guest &&
               (op == 128 || op == 137 || op == 393 || op == 129 || op == 138)) ||
              (ip == kBase + stub.site_rseq && nr == SYS_rseq && (guest || a0 == RSEQ_NOWHERE)) ||
              (ip == kBase + stub.site_private_wake && nr == SYS_futex && guest &&
               (op == 129 || op == 138));
          if (allowed(filter, call(nr, ip, a0, a1)) != expected)
            FAIL() << std::hex << "nr " << nr << " ip " << ip << " a0 " << a0 << " a1 " << a1;
        }
      }
    }
  }
}

TEST(GuestThreadFilter, WithoutStubCallsNothingIsTheGuestsOwn) {
  auto filter = guest_thread_filter(kBase, false);
  const StubHeader& stub = stub_header();
  EXPECT_TRUE(allowed(filter, call(SYS_futex, kBase + stub.site_wait, kBase, FUTEX_WAIT)));
  EXPECT_FALSE(allowed(filter, call(SYS_mprotect, kBase + stub.site_protect, 4096, 4096)));
  EXPECT_FALSE(allowed(filter, call(SYS_futex, kBase + stub.site_private_wait, 4096, 128)));
  EXPECT_FALSE(allowed(filter, call(SYS_futex, kBase + stub.site_private_wake, 4096, 129)));
  EXPECT_FALSE(allowed(filter, call(SYS_rseq, kBase + stub.site_rseq, 4096, 32)));
}

TEST(GuestThreadFilter, OtherArchitecturesAndX32Trap) {
  for (auto& filter : {guest_thread_filter(kBase), stub_process_filter(kBase)}) {
    for (uint64_t ip : sites()) {
      for (uint32_t nr = 0; nr < 600; ++nr) {
        seccomp_data data = call(nr, ip, kBase);
        data.arch = AUDIT_ARCH_I386;
        EXPECT_FALSE(allowed(filter, data));
        EXPECT_FALSE(allowed(filter, call(nr | 0x40000000, ip, kBase)));
      }
    }
  }
}

TEST(StubProcessFilter, AllowsOnlyWhatStubsNeedAndOnlyInTheStubText) {
  auto filter = stub_process_filter(kBase);
  const std::set<uint32_t> needed = {
      SYS_rt_sigreturn, SYS_sigaltstack, SYS_futex,  SYS_mmap,    SYS_munmap, SYS_mprotect,
      SYS_pwrite64,     SYS_lseek,       SYS_clone,  SYS_seccomp, SYS_prctl,  SYS_getppid,
      SYS_exit,         SYS_recvmsg,     SYS_sendto, SYS_dup3,    SYS_close,  SYS_restart_syscall,
      SYS_rseq};
  uint64_t inside = kBase + 100;
  uint64_t outside = kBase + stub_header().text_size;
  for (uint32_t nr = 0; nr < 600; ++nr) {
    for (uint64_t a0 : kArguments) {
      EXPECT_FALSE(allowed(filter, call(nr, outside, a0)));
      EXPECT_FALSE(allowed(filter, call(nr, 0x400000, a0)));
      if (needed.count(nr) == 0) {
        EXPECT_FALSE(allowed(filter, call(nr, inside, a0))) << nr;
      }
    }
  }
  EXPECT_FALSE(allowed(filter, call(SYS_clone, inside, SIGCHLD)));
  EXPECT_FALSE(allowed(filter, call(SYS_prctl, inside, PR_SET_DUMPABLE)));
  EXPECT_FALSE(allowed(filter, call(SYS_recvmsg, inside, FD_COMMANDS + 1)));
}

}  // namespace
}  // namespace caisson::systrap
