// What is x86's own: FS and GS bases, the vDSO, the system call instruction's side effects, odd
// numbers and entries.
#include <asm/prctl.h>
#include <elf.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#include <csignal>
#include <ctime>
#include <thread>

#include "tests/util/child.h"
#include "tests/util/clock.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"
#include "tests/util/signals.h"

namespace caisson::test {
namespace {

long arch_prctl(int code, uint64_t value) { return syscall(SYS_arch_prctl, code, value); }
long arch_prctl_get(int code, uint64_t* value) { return syscall(SYS_arch_prctl, code, value); }
uint64_t read_gs0() {
  uint64_t value;
  asm volatile("mov %%gs:0, %0" : "=r"(value));
  return value;
}

TEST(Bases, FsIsTheThreadPointer) {
  uint64_t base = 0, pointer;
  ASSERT_THAT(arch_prctl_get(ARCH_GET_FS, &base), SucceedsWith(0));
  asm("mov %%fs:0, %0" : "=r"(pointer));
  EXPECT_EQ(base, pointer);
  std::thread([base] {
    uint64_t mine = 0;
    arch_prctl_get(ARCH_GET_FS, &mine);
    EXPECT_NE(mine, base);
  }).join();
}

TEST(Bases, GsIsTheProgramsToUse) {
  uint64_t words[2] = {0x1234'5678, 0x9abc};
  uint64_t before = 1;
  ASSERT_THAT(arch_prctl_get(ARCH_GET_GS, &before), SucceedsWith(0));
  EXPECT_EQ(before, 0u);
  ASSERT_THAT(arch_prctl(ARCH_SET_GS, reinterpret_cast<uint64_t>(words)), SucceedsWith(0));
  EXPECT_EQ(read_gs0(), words[0]);
  // Kept across calls, waits, signals and fork.
  syscall(SYS_getppid);
  sleep_us(100);
  EXPECT_EQ(read_gs0(), words[0]);
  {
    HandlerGuard handler(SIGUSR1, [](int) { REQUIRE(read_gs0() == 0x1234'5678); });
    raise(SIGUSR1);
  }
  EXPECT_EQ(read_gs0(), words[0]);
  Child child = Child::run([] { return read_gs0() == 0x1234'5678 ? 0 : 1; });
  EXPECT_THAT(child.wait(), ExitedWith(0));
  std::thread([&] {
    uint64_t other[1] = {77};
    arch_prctl(ARCH_SET_GS, reinterpret_cast<uint64_t>(other));
    for (int i = 0; i < 1000; ++i) {
      sched_yield();
      ASSERT_EQ(read_gs0(), 77u);
    }
    arch_prctl(ARCH_SET_GS, 0);
  }).join();
  EXPECT_EQ(read_gs0(), words[0]);
  ASSERT_THAT(arch_prctl(ARCH_SET_GS, 0), SucceedsWith(0));
}

// The instructions do the same as the call where the CPU and kernel offer them (AT_HWCAP2 bit 1).
TEST(Bases, WrgsbaseInstruction) {
  if ((getauxval(AT_HWCAP2) & 2) == 0) GTEST_SKIP() << "FSGSBASE is not offered";
  uint64_t words[1] = {4242};
  asm volatile("wrgsbase %0" ::"r"(reinterpret_cast<uint64_t>(words)));
  for (int i = 0; i < 100; ++i) {
    syscall(i % 2 ? SYS_getppid : SYS_sched_yield);
    ASSERT_EQ(read_gs0(), 4242u);
  }
  uint64_t base = 0;
  EXPECT_THAT(arch_prctl_get(ARCH_GET_GS, &base), SucceedsWith(0));
  EXPECT_EQ(base, reinterpret_cast<uint64_t>(words));
  asm volatile("wrgsbase %0" ::"r"(0ull));
}

TEST(Bases, Errors) {
  EXPECT_THAT(arch_prctl(ARCH_SET_GS, 1ull << 62), FailsWith(EPERM));
  EXPECT_THAT(arch_prctl(ARCH_SET_FS, 1ull << 62), FailsWith(EPERM));
  EXPECT_THAT(arch_prctl(0x9999, 0), FailsWith(EINVAL));
  EXPECT_THAT(arch_prctl(ARCH_GET_FS, 1ull << 62), FailsWith(EFAULT));
}

// The vDSO, found as a libc finds it.
class Vdso {
 public:
  Vdso() : base_(getauxval(AT_SYSINFO_EHDR)) {
    if (base_ == 0) return;
    const auto* header = at<Elf64_Ehdr>(base_);
    const auto* segments = at<Elf64_Phdr>(base_ + header->e_phoff);
    const Elf64_Dyn* dynamic = nullptr;
    for (int i = 0; i < header->e_phnum; ++i) {
      if (segments[i].p_type == PT_LOAD)
        slide_ = base_ + segments[i].p_offset - segments[i].p_vaddr;
      if (segments[i].p_type == PT_DYNAMIC) dynamic = at<Elf64_Dyn>(base_ + segments[i].p_offset);
    }
    for (; dynamic != nullptr && dynamic->d_tag != DT_NULL; ++dynamic) {
      const uint64_t address = slide_ + dynamic->d_un.d_ptr;
      if (dynamic->d_tag == DT_SYMTAB) symbols_ = at<Elf64_Sym>(address);
      if (dynamic->d_tag == DT_STRTAB) names_ = at<char>(address);
      if (dynamic->d_tag == DT_HASH) count_ = at<uint32_t>(address)[1];
    }
    // A vDSO may come with a GNU hash table only; its symbols end where the strings begin.
    if (count_ == 0 && symbols_ != nullptr) {
      count_ = (names_ - reinterpret_cast<const char*>(symbols_)) / sizeof(Elf64_Sym);
    }
  }
  bool present() const { return base_ != 0; }
  template <typename Function>
  Function* find(const char* name) const {
    for (size_t i = 0; i < count_; ++i) {
      if (symbols_[i].st_shndx != SHN_UNDEF &&
          std::strcmp(names_ + symbols_[i].st_name, name) == 0) {
        return reinterpret_cast<Function*>(slide_ + symbols_[i].st_value);
      }
    }
    return nullptr;
  }

 private:
  template <typename T>
  static const T* at(uint64_t address) {
    return reinterpret_cast<const T*>(address);
  }
  uint64_t base_, slide_ = 0;
  const Elf64_Sym* symbols_ = nullptr;
  const char* names_ = nullptr;
  size_t count_ = 0;
};

TEST(Vdso, ClockFunctions) {
  const Vdso vdso;
  ASSERT_TRUE(vdso.present());
  auto* gettime = vdso.find<int(clockid_t, timespec*)>("__vdso_clock_gettime");
  ASSERT_NE(gettime, nullptr);
  for (clockid_t clock : {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_COARSE, CLOCK_BOOTTIME,
                          CLOCK_PROCESS_CPUTIME_ID}) {
    timespec before, inside, after;
    ASSERT_THAT(syscall(SYS_clock_gettime, clock, &before), SucceedsWith(0));
    ASSERT_EQ(gettime(clock, &inside), 0);
    ASSERT_THAT(syscall(SYS_clock_gettime, clock, &after), SucceedsWith(0));
    EXPECT_LE(to_ns(before), to_ns(inside)) << clock;
    EXPECT_LE(to_ns(inside), to_ns(after)) << clock;
  }
  timespec unused;
  EXPECT_EQ(gettime(999, &unused), -EINVAL);
}

TEST(Vdso, OtherFunctions) {
  const Vdso vdso;
  ASSERT_TRUE(vdso.present());
  auto* gettimeofday_in = vdso.find<int(timeval*, void*)>("__vdso_gettimeofday");
  ASSERT_NE(gettimeofday_in, nullptr);
  timeval time = {};
  EXPECT_EQ(gettimeofday_in(&time, nullptr), 0);
  EXPECT_LE(std::abs(time.tv_sec - ::time(nullptr)), 1);
  auto* time_in = vdso.find<time_t(time_t*)>("__vdso_time");
  ASSERT_NE(time_in, nullptr);
  EXPECT_LE(std::abs(time_in(nullptr) - ::time(nullptr)), 1);
  auto* getcpu_in = vdso.find<int(unsigned*, unsigned*, void*)>("__vdso_getcpu");
  ASSERT_NE(getcpu_in, nullptr);
  unsigned cpu = ~0u;
  EXPECT_EQ(getcpu_in(&cpu, nullptr, nullptr), 0);
  EXPECT_LT(cpu, 4096u);
}

TEST(SyscallInstruction, ClobbersOnlyWhatTheAbiSays) {
  uint64_t rcx = 1, r11 = 1, next = 0;
  long result = SYS_getpid;
  asm volatile(
      "lea 1f(%%rip), %[next]\n"
      "syscall\n"
      "1: mov %%rcx, %[rcx]\n mov %%r11, %[r11]\n"
      : "+a"(result), [rcx] "=&r"(rcx), [r11] "=&r"(r11), [next] "=&r"(next)
      :
      : "rcx", "r11", "memory");
  EXPECT_EQ(result, getpid());
  // rcx holds the return address and r11 the flags.
  EXPECT_EQ(rcx, next);
  EXPECT_EQ(r11 & 0x202, 0x202u);
}

TEST(SyscallInstruction, UnknownNumbers) {
  for (long number : {-1L, 1'000L, 100'000L, 0x7fff'ffffL}) {
    EXPECT_THAT(syscall(number, 1, 2, 3, 4, 5, 6), FailsWith(ENOSYS)) << number;
  }
  // Only the low half of rax counts.
  EXPECT_EQ(syscall(static_cast<long>(0xffff'ffff'0000'0000ull) | SYS_getpid), getpid());
  for (long number : {SYS_create_module, SYS_get_kernel_syms, SYS_query_module, SYS_nfsservctl,
                      SYS_getpmsg, SYS_putpmsg, SYS_afs_syscall, SYS_tuxcall, SYS_security,
                      SYS_vserver, SYS_epoll_ctl_old, SYS_epoll_wait_old}) {
    EXPECT_THAT(syscall(number), FailsWith(ENOSYS)) << number;
  }
}

// x32 numbers: served where the kernel has them, else ENOSYS. Never another process's answer.
TEST(SyscallInstruction, X32Numbers) {
  const long result = syscall(0x4000'0000 | SYS_getpid);
  EXPECT_TRUE(result == getpid() || (result == -1 && errno == ENOSYS)) << result;
}

// int 0x80: either the 32-bit calls exist, or the instruction faults; both ends are the guest's
// own.
TEST(SyscallInstruction, Int80) {
  Child child = Child::run([] {
    int result = 20;  // getpid there
    asm volatile("int $0x80" : "+a"(result) : : "r8", "r9", "r10", "r11", "memory");
    REQUIRE(result == getpid() || result == -ENOSYS);
    return 0;
  });
  const int status = child.wait();
  EXPECT_TRUE(status == 0 || (WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV))
      << wait_status_name(status);
}

TEST(SyscallInstruction, Sysenter) {
  // Made for 32-bit code; from 64-bit code it ends the process or behaves as a call, and touches
  // nobody else.
  Child child = Child::run([] {
    asm volatile("mov $20, %%eax\n sysenter" ::: "rax", "rcx", "rdx", "r11", "memory");
    return 0;
  });
  const int status = child.wait();
  EXPECT_TRUE(WIFEXITED(status) || WIFSIGNALED(status));
}

TEST(Vsyscall, LegacyPage) {
  // Emulated (returns the time) or gone (faults); programs from before 2011 call it.
  Child child = Child::run([] {
    auto* legacy_time = reinterpret_cast<time_t (*)(time_t*)>(0xffff'ffff'ff60'0400);
    const time_t now = legacy_time(nullptr);
    REQUIRE(std::abs(now - time(nullptr)) <= 1);
    return 0;
  });
  const int status = child.wait();
  EXPECT_TRUE(status == 0 || (WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV))
      << wait_status_name(status);
}

TEST(Tid, SetTidAddressReturnsTid) {
  static int word;
  EXPECT_THAT(syscall(SYS_set_tid_address, &word), SucceedsWith(gettid_now()));
  EXPECT_THAT(syscall(SYS_set_tid_address, bad_pointer()), SucceedsWith(gettid_now()));
  // Such an address is no reason to fail at exit.
  Child child = Child::run([] {
    syscall(SYS_set_tid_address, bad_pointer());
    return 3;
  });
  EXPECT_THAT(child.wait(), ExitedWith(3));
  syscall(SYS_set_tid_address, nullptr);
}

TEST(Cpuid, IsUsableAndConsistent) {
  unsigned a = 1, b, c, d;
  asm volatile("cpuid" : "+a"(a), "=b"(b), "=c"(c), "=d"(d));
  EXPECT_NE(d & (1u << 26), 0u);  // SSE2
  uint64_t first, second;
  asm volatile("rdtsc\n shl $32, %%rdx\n or %%rdx, %%rax" : "=a"(first) : : "rdx");
  asm volatile("rdtsc\n shl $32, %%rdx\n or %%rdx, %%rax" : "=a"(second) : : "rdx");
  EXPECT_LE(first, second);
}

}  // namespace
}  // namespace caisson::test
