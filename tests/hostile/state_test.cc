// What a thread leaves behind for the next process that gets it, and a thread that never answers.
#include "tests/hostile/hostile.h"

namespace caisson::test {
namespace {

// A slot passes on to later processes, without what was written into it.
TEST_F(Hostile, SlotsPassOnClean) {
  constexpr uint64_t kMark = 0x6d61726b6d61726b;
  for (int i = 0; i < 40; ++i) {
    pid_t pid = fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      Stub mine = find_stub();
      if (mine.slot == 0 || mine.text != stub_.text) _exit(1);
      auto* words = reinterpret_cast<uint64_t*>(mine.slot);
      if (words[kSlotSelf / 8] != mine.slot) _exit(2);
      // All fields, and where the host's signal frames end.
      for (uint64_t at = 8; at < sizeof(systrap::Slot); at += 8) {
        if (words[at / 8] == kMark) _exit(3);
      }
      for (uint64_t at = kSlotSize - 0x2000; at < kSlotSize; at += 8) {
        if (words[at / 8] == kMark) _exit(4);
      }
      for (uint64_t at = 8; at < kSlotSize; at += 8) words[at / 8] = kMark;
      // Any call or fault ends this process: its frame is gone.
      __builtin_trap();
    }
    int status = 0;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT_FALSE(WIFEXITED(status)) << WEXITSTATUS(status);
  }
}

// The host's struct ucontext, as far as frames of our own making need it.
struct HostFrame {
  uint64_t flags = 2;  // UC_SIGCONTEXT_SS
  uint64_t link = 0;
  stack_t stack{};
  uint64_t r8_to_rcx[15] = {};
  uint64_t rsp, rip;
  uint64_t eflags = 0x202;
  uint64_t segments = 0x33 | (uint64_t{0x2b} << 48);
  uint64_t rest[13] = {};  // no vector state: the initial one
  uint64_t mask = 0;
};
static_assert(offsetof(HostFrame, mask) == 37 * 8);

[[noreturn]] void host_sigreturn(const HostFrame& frame, uint64_t site) {
  __asm__ volatile("mov %0, %%rsp\n jmp *%1" : : "r"(&frame), "r"(site) : "memory");
  __builtin_unreachable();
}

// What of its thread a guest can tell.
struct Seen {
  std::atomic<uint64_t> slot;
  uint32_t frame, mxcsr, control_word, pkru;
  uint64_t flags;
};

bool has_pkru() {
  uint32_t a = 7, b, c = 0, d;
  __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  return (c & 16) != 0;
}

void look(const Stub& stub, Seen& seen) {
  long number = SYS_getppid;
  __asm__ volatile("nop\n syscall\n nop" : "+a"(number) : : "rcx", "r11", "memory");  // traps
  seen.frame = *reinterpret_cast<volatile uint32_t*>(stub.slot + kSlotFrame);
  seen.mxcsr = _mm_getcsr();
  uint16_t control_word;
  __asm__ volatile("fnstcw %0\n pushfq\n pop %1" : "=m"(control_word), "=r"(seen.flags));
  seen.control_word = control_word;
  seen.pkru = 0;
  if (has_pkru()) __asm__ volatile("rdpkru" : "=a"(seen.pkru) : "c"(0) : "rdx");
  seen.slot = stub.slot;
}

// Leaves its thread in as bad a state as it can make and still end in good order.
[[noreturn]] void dirty_exit() {
  static const uint32_t mxcsr = 0x9fc0;
  static const uint16_t control_word = 0x77f;
  __asm__ volatile("ldmxcsr %0\n fldcw %1\n fld1\n pcmpeqd %%xmm7, %%xmm7"
                   :
                   : "m"(mxcsr), "m"(control_word));
  if (has_pkru()) __asm__ volatile("wrpkru" : : "a"(0x10), "c"(0), "d"(0));
  __asm__ volatile(
      "wrgsbase %0\n"
      "pushfq\n orl $0x244400, (%%rsp)\n popfq\n"  // DF, NT, AC, ID
      "mov $231, %%eax\n xor %%edi, %%edi\n syscall"
      :
      : "r"(0x123456789000)
      : "memory");
  __builtin_unreachable();
}

// A thread passes on to later processes of the same owner, from the reset state: the host's signal
// mask and alternate stack, which a frame of its own making changes, vector state, flags, bases.
// (systrap_test has affinity, nice value and CPU time, which guests can't change by themselves.)
TEST_F(Hostile, ThreadsPassOnInTheResetState) {
  auto* seen = static_cast<Seen*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(seen, MAP_FAILED);
  Seen& own = seen[0];
  look(stub_, own);
  int same = 0;
  for (int i = 0; i < 30; ++i) {
    Seen& dirty = seen[1];
    Seen& clean = seen[2];
    dirty.slot = clean.slot = 0;
    pid_t pid = fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      stub_ = find_stub();
      dirty.slot = stub_.slot;
      static unsigned char stack[16384];
      static HostFrame frame;
      frame.stack.ss_sp = reinterpret_cast<void*>(stub_.slot + 0x1000);
      frame.stack.ss_size = 0x5000;
      frame.rsp = reinterpret_cast<uint64_t>(stack + sizeof stack - 8);
      frame.rip = reinterpret_cast<uint64_t>(&dirty_exit);
      frame.mask = uint64_t{1} << (SIGUSR1 - 1);
      host_sigreturn(frame, sites_of(stub_, SYS_rt_sigreturn).at(0));
    }
    int status = 0;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    ASSERT_EQ(status, 0) << "the attack did not work";
    pid = fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      look(find_stub(), clean);
      for (;;) {
      }
    }
    for (int waited = 0; waited < 2000 && clean.slot == 0; ++waited) usleep(1000);
    ASSERT_NE(clean.slot, 0u);
    kill(pid, SIGTERM);
    // Not only at the deadline of an interrupt that is never answered.
    for (int waited = 0; waited < 1500 && waitpid(pid, &status, WNOHANG) == 0; ++waited)
      usleep(1000);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM) << status;
    if (clean.slot == dirty.slot) ++same;
    EXPECT_EQ(clean.frame, own.frame);
    EXPECT_EQ(clean.mxcsr, own.mxcsr);
    EXPECT_EQ(clean.control_word, own.control_word);
    EXPECT_EQ(clean.pkru, own.pkru);
    EXPECT_EQ(clean.flags & 0x244400, 0u);
  }
  EXPECT_GT(same, 0) << "no thread was used again: nothing was tested";
  munmap(seen, 4096);
}

// A frame of its own making lets guest code block the interrupt signal on the host: the thread then
// never answers.
TEST_F(Hostile, AThreadThatNeverAnswersIsKilled) {
  pid_t pid = fork();
  ASSERT_GE(pid, 0);
  if (pid == 0) {
    stub_ = find_stub();
    auto* code = static_cast<unsigned char*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                                                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    code[0] = 0xeb;
    code[1] = 0xfe;
    HostFrame frame;
    frame.rsp = reinterpret_cast<uint64_t>(&frame);
    frame.rip = reinterpret_cast<uint64_t>(code);
    frame.mask = ~uint64_t{0};
    host_sigreturn(frame, sites_of(stub_, SYS_rt_sigreturn).at(0));
  }
  usleep(100000);
  int status = 0;
  if (waitpid(pid, &status, WNOHANG) == pid)
    GTEST_FAIL() << "the attack did not work: status " << status;
  kill(pid, SIGKILL);
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
}

}  // namespace
}  // namespace caisson::test
