// sigaction and its flags, masks, alternate stacks, sigsuspend, default actions, kill and tgkill.
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csetjmp>
#include <csignal>
#include <thread>

#include "tests/util/child.h"
#include "tests/util/clock.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"
#include "tests/util/signals.h"

namespace caisson::test {
namespace {

volatile sig_atomic_t runs, depth, deepest;
siginfo_t last_info;
void count(int) { runs = runs + 1; }
void keep_info(int, siginfo_t* info, void*) {
  last_info = *info;
  runs = runs + 1;
}
void nest(int signal) {
  depth = depth + 1;
  if (depth > deepest) deepest = depth;
  runs = runs + 1;
  if (runs < 3) raise(signal);
  depth = depth - 1;
}
void reset() {
  runs = 0;
  depth = 0;
  deepest = 0;
}

int wait_forever() {
  while (true) pause();
}

// The kernel's own struct: glibc's calls hide some cases.
constexpr unsigned long kSaRestorer = 0x0400'0000;
struct KernelAction {
  void (*handler)(int);
  unsigned long flags;
  void (*restorer)();
  uint64_t mask;
};

TEST(Sigaction, Errors) {
  KernelAction action = {};
  EXPECT_THAT(syscall(SYS_rt_sigaction, 0, &action, nullptr, 8), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_rt_sigaction, 65, &action, nullptr, 8), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_rt_sigaction, SIGKILL, &action, nullptr, 8), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_rt_sigaction, SIGSTOP, &action, nullptr, 8), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_rt_sigaction, SIGKILL, nullptr, &action, 8), SucceedsWith(0));
  EXPECT_THAT(syscall(SYS_rt_sigaction, SIGUSR1, &action, nullptr, 4), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_rt_sigaction, SIGUSR1, bad_pointer(), nullptr, 8), FailsWith(EFAULT));
  EXPECT_THAT(syscall(SYS_rt_sigaction, SIGUSR1, nullptr, bad_pointer(), 8), FailsWith(EFAULT));
  GuardedPages pages;
  EXPECT_THAT(syscall(SYS_rt_sigaction, SIGUSR1, pages.one_past<KernelAction>(), nullptr, 8),
              FailsWith(EFAULT));
}

TEST(Sigaction, ReturnsWhatWasSet) {
  HandlerGuard guard(SIGUSR1, keep_info, SA_RESTART | SA_NODEFER, {SIGUSR2});
  struct sigaction now;
  ASSERT_THAT(sigaction(SIGUSR1, nullptr, &now), SucceedsWith(0));
  EXPECT_EQ(now.sa_sigaction, keep_info);
  EXPECT_EQ(now.sa_flags & (SA_RESTART | SA_NODEFER | SA_SIGINFO),
            SA_RESTART | SA_NODEFER | SA_SIGINFO);
  EXPECT_TRUE(sigismember(&now.sa_mask, SIGUSR2));
  EXPECT_FALSE(sigismember(&now.sa_mask, SIGUSR1));
}

TEST(Sigaction, UnknownFlagsAreCleared) {
  KernelAction action = {};
  action.handler = SIG_IGN;
  action.flags = 0xffff'ffff & ~kSaRestorer;
  ASSERT_THAT(syscall(SYS_rt_sigaction, SIGUSR1, &action, nullptr, 8), SucceedsWith(0));
  KernelAction now = {};
  ASSERT_THAT(syscall(SYS_rt_sigaction, SIGUSR1, nullptr, &now, 8), SucceedsWith(0));
  EXPECT_EQ(now.flags & 0x400, 0u);      // SA_UNSUPPORTED
  EXPECT_EQ(now.flags & 0x800, 0x800u);  // SA_EXPOSE_TAGBITS is known since 5.11.
  signal(SIGUSR1, SIG_DFL);
}

TEST(Sigaction, MaskNeverHoldsKillAndStop) {
  HandlerGuard guard(SIGUSR1, count, 0, {SIGKILL, SIGSTOP, SIGTERM});
  KernelAction now = {};
  ASSERT_THAT(syscall(SYS_rt_sigaction, SIGUSR1, nullptr, &now, 8), SucceedsWith(0));
  EXPECT_EQ(now.mask, 1ull << (SIGTERM - 1));
}

TEST(Sigaction, HandlerBlocksItsOwnSignal) {
  reset();
  HandlerGuard guard(SIGUSR1, nest);
  raise(SIGUSR1);
  EXPECT_EQ(runs, 3);
  EXPECT_EQ(deepest, 1);
}

TEST(Sigaction, NodeferNests) {
  reset();
  HandlerGuard guard(SIGUSR1, nest, SA_NODEFER);
  raise(SIGUSR1);
  EXPECT_EQ(runs, 3);
  EXPECT_EQ(deepest, 3);
}

TEST(Sigaction, ResethandRunsOnce) {
  Child child = Child::run([] {
    reset();
    HandlerGuard guard(SIGUSR1, count, SA_RESETHAND);
    raise(SIGUSR1);
    REQUIRE(runs == 1);
    struct sigaction now;
    sigaction(SIGUSR1, nullptr, &now);
    REQUIRE(now.sa_handler == SIG_DFL);
    raise(SIGUSR1);
    return 0;
  });
  EXPECT_THAT(child.wait(), KilledBy(SIGUSR1));
}

sigset_t mask_in_handler;
void keep_mask(int) { pthread_sigmask(SIG_SETMASK, nullptr, &mask_in_handler); }

TEST(Sigaction, MaskInsideHandler) {
  HandlerGuard guard(SIGUSR1, keep_mask, 0, {SIGTERM});
  MaskGuard blocked(SIG_BLOCK, {SIGUSR2});
  raise(SIGUSR1);
  for (int signal : {SIGUSR1, SIGUSR2, SIGTERM}) {
    EXPECT_TRUE(sigismember(&mask_in_handler, signal)) << signal_name(signal);
  }
  sigset_t after;
  pthread_sigmask(SIG_SETMASK, nullptr, &after);
  EXPECT_FALSE(sigismember(&after, SIGUSR1));
  EXPECT_TRUE(sigismember(&after, SIGUSR2));
}

TEST(Sigaction, SettingIgnoreDropsPending) {
  reset();
  MaskGuard blocked(SIG_BLOCK, {SIGUSR1});
  raise(SIGUSR1);
  signal(SIGUSR1, SIG_IGN);
  sigset_t pending;
  sigpending(&pending);
  EXPECT_FALSE(sigismember(&pending, SIGUSR1));
  signal(SIGUSR1, SIG_DFL);
}

TEST(Siginfo, KillAndTgkill) {
  reset();
  HandlerGuard guard(SIGUSR1, keep_info);
  kill(getpid(), SIGUSR1);
  EXPECT_EQ(runs, 1);
  EXPECT_EQ(last_info.si_signo, SIGUSR1);
  EXPECT_EQ(last_info.si_code, SI_USER);
  EXPECT_EQ(last_info.si_pid, getpid());
  EXPECT_EQ(last_info.si_uid, getuid());
  tgkill_now(getpid(), gettid_now(), SIGUSR1);
  EXPECT_EQ(runs, 2);
  EXPECT_EQ(last_info.si_code, SI_TKILL);
  EXPECT_EQ(last_info.si_pid, getpid());
}

TEST(Kill, ErrorsAndProbe) {
  EXPECT_THAT(kill(getpid(), 0), SucceedsWith(0));
  EXPECT_THAT(kill(getpid(), 65), FailsWith(EINVAL));
  EXPECT_THAT(kill(getpid(), -1), FailsWith(EINVAL));
  EXPECT_THAT(kill(0x3fff'ffff, 0), FailsWith(ESRCH));
  EXPECT_THAT(kill(-0x3fff'ffff, 0), FailsWith(ESRCH));
  EXPECT_THAT(tgkill_now(getpid(), 0x3fff'ffff, 0), FailsWith(ESRCH));
  EXPECT_THAT(tgkill_now(0x3fff'ffff, gettid_now(), 0), FailsWith(ESRCH));
  EXPECT_THAT(tgkill_now(-1, gettid_now(), 0), FailsWith(EINVAL));
  EXPECT_THAT(tgkill_now(getpid(), 0, 0), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_tkill, gettid_now(), 0), SucceedsWith(0));
  EXPECT_THAT(syscall(SYS_tkill, -1, 0), FailsWith(EINVAL));
}

TEST(Kill, ProcessGroup) {
  Child child = Child::run([] {
    setpgid(0, 0);
    Child first = Child::run(wait_forever), second = Child::run(wait_forever);
    signal(SIGTERM, SIG_IGN);
    REQUIRE(kill(0, SIGTERM) == 0);
    REQUIRE(WTERMSIG(first.wait()) == SIGTERM);
    REQUIRE(WTERMSIG(second.wait()) == SIGTERM);
    REQUIRE(kill(-getpgrp(), 0) == 0);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

TEST(Kill, PermissionOfOtherUser) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root to change to another user";
  Child target = Child::run(wait_forever);
  Child sender = Child::run([&] {
    REQUIRE(setresuid(12'345, 12'345, 12'345) == 0);
    REQUIRE(kill(target.pid(), SIGTERM) == -1 && errno == EPERM);
    REQUIRE(kill(target.pid(), 0) == -1 && errno == EPERM);
    // SIGCONT is allowed within a session.
    REQUIRE(kill(target.pid(), SIGCONT) == 0);
    return 0;
  });
  EXPECT_THAT(sender.wait(), ExitedWith(0));
}

TEST(Kill, TargetsThreadWithSignalOpen) {
  reset();
  HandlerGuard guard(SIGUSR1, count);
  std::atomic<bool> stop = false;
  std::thread other([&] {
    while (!stop) sleep_us(200);
  });
  MaskGuard blocked(SIG_BLOCK, {SIGUSR1});
  kill(getpid(), SIGUSR1);
  EXPECT_TRUE(eventually([] { return runs == 1; }));
  stop = true;
  other.join();
}

TEST(Sigprocmask, HowsAndErrors) {
  uint64_t set = 1ull << (SIGUSR1 - 1), old = 0;
  EXPECT_THAT(syscall(SYS_rt_sigprocmask, 99, &set, nullptr, 8), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_rt_sigprocmask, 99, nullptr, &old, 8), SucceedsWith(0));
  EXPECT_THAT(syscall(SYS_rt_sigprocmask, SIG_BLOCK, &set, nullptr, 16), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_rt_sigprocmask, SIG_BLOCK, bad_pointer(), nullptr, 8), FailsWith(EFAULT));
  EXPECT_THAT(syscall(SYS_rt_sigprocmask, SIG_BLOCK, nullptr, bad_pointer(), 8), FailsWith(EFAULT));
  set = ~0ull;
  EXPECT_THAT(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &set, &old, 8), SucceedsWith(0));
  EXPECT_THAT(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &old, &set, 8), SucceedsWith(0));
  EXPECT_EQ(set, ~0ull & ~(1ull << (SIGKILL - 1)) & ~(1ull << (SIGSTOP - 1)));
}

TEST(Sigprocmask, PendingIsDeliveredOnUnblock) {
  reset();
  HandlerGuard guard(SIGUSR1, count);
  {
    MaskGuard blocked(SIG_BLOCK, {SIGUSR1});
    raise(SIGUSR1);
    raise(SIGUSR1);
    sigset_t pending;
    sigpending(&pending);
    EXPECT_TRUE(sigismember(&pending, SIGUSR1));
    EXPECT_EQ(runs, 0);
  }
  // Standard signals don't queue.
  EXPECT_EQ(runs, 1);
}

TEST(Sigprocmask, MasksArePerThread) {
  MaskGuard blocked(SIG_BLOCK, {SIGUSR2});
  std::thread([] {
    sigset_t mine;
    pthread_sigmask(SIG_SETMASK, nullptr, &mine);
    EXPECT_TRUE(sigismember(&mine, SIGUSR2));
    const sigset_t none = signal_set({});
    pthread_sigmask(SIG_SETMASK, &none, nullptr);
  }).join();
  sigset_t mine;
  pthread_sigmask(SIG_SETMASK, nullptr, &mine);
  EXPECT_TRUE(sigismember(&mine, SIGUSR2));
}

TEST(Sigpending, Errors) {
  EXPECT_THAT(syscall(SYS_rt_sigpending, bad_pointer(), 8), FailsWith(EFAULT));
  uint64_t set;
  EXPECT_THAT(syscall(SYS_rt_sigpending, &set, 9), FailsWith(EINVAL));
}

TEST(Sigsuspend, OpensMaskAndPutsItBack) {
  reset();
  HandlerGuard guard(SIGUSR1, count);
  MaskGuard blocked(SIG_BLOCK, {SIGUSR1});
  raise(SIGUSR1);
  const sigset_t open = signal_set({});
  EXPECT_THAT(sigsuspend(&open), FailsWith(EINTR));
  EXPECT_EQ(runs, 1);
  sigset_t now;
  pthread_sigmask(SIG_SETMASK, nullptr, &now);
  EXPECT_TRUE(sigismember(&now, SIGUSR1));
  EXPECT_THAT(syscall(SYS_rt_sigsuspend, bad_pointer(), 8), FailsWith(EFAULT));
  EXPECT_THAT(syscall(SYS_rt_sigsuspend, &open, 7), FailsWith(EINVAL));
}

TEST(Sigsuspend, RestartFlagDoesNotMatter) {
  const sigset_t open = signal_set({});
  const Interrupted outcome = run_interrupted(
      SA_RESTART, [&] { return sigsuspend(&open); }, [] {});
  EXPECT_EQ(outcome.error, EINTR);
  EXPECT_EQ(run_interrupted(
                SA_RESTART, [] { return pause(); }, [] {})
                .error,
            EINTR);
}

// Alternate stacks.
char* handler_stack_pointer;
stack_t stack_in_handler;
void note_stack(int) {
  char local;
  handler_stack_pointer = &local;
  sigaltstack(nullptr, &stack_in_handler);
}
constexpr size_t kAltStack = 64 * 1024;

TEST(Altstack, HandlerRunsOnIt) {
  Mapping memory = Mapping::anonymous(kAltStack);
  stack_t stack = {.ss_sp = memory.address(), .ss_flags = 0, .ss_size = kAltStack};
  ASSERT_THAT(sigaltstack(&stack, nullptr), SucceedsWith(0));
  HandlerGuard on(SIGUSR1, note_stack, SA_ONSTACK);
  HandlerGuard off(SIGUSR2, note_stack);
  raise(SIGUSR1);
  EXPECT_GE(handler_stack_pointer, memory.address());
  EXPECT_LT(handler_stack_pointer, memory.end());
  EXPECT_EQ(stack_in_handler.ss_flags, SS_ONSTACK);
  raise(SIGUSR2);
  EXPECT_FALSE(handler_stack_pointer >= memory.address() && handler_stack_pointer < memory.end());
  EXPECT_EQ(stack_in_handler.ss_flags, 0);
  stack = {.ss_sp = nullptr, .ss_flags = SS_DISABLE, .ss_size = 0};
  stack_t before;
  EXPECT_THAT(sigaltstack(&stack, &before), SucceedsWith(0));
  EXPECT_EQ(before.ss_sp, memory.address());
  EXPECT_EQ(before.ss_size, kAltStack);
}

volatile int change_errno;
void try_change(int) {
  stack_t off = {.ss_sp = nullptr, .ss_flags = SS_DISABLE, .ss_size = 0};
  change_errno = sigaltstack(&off, nullptr) == -1 ? errno : 0;
}

TEST(Altstack, NoChangeWhileOnIt) {
  Mapping memory = Mapping::anonymous(kAltStack);
  stack_t stack = {.ss_sp = memory.address(), .ss_flags = 0, .ss_size = kAltStack};
  ASSERT_THAT(sigaltstack(&stack, nullptr), SucceedsWith(0));
  HandlerGuard guard(SIGUSR1, try_change, SA_ONSTACK);
  raise(SIGUSR1);
  EXPECT_EQ(change_errno, EPERM);
  stack.ss_flags = SS_DISABLE;
  EXPECT_THAT(sigaltstack(&stack, nullptr), SucceedsWith(0));
}

TEST(Altstack, AutodisarmAndErrors) {
  Mapping memory = Mapping::anonymous(kAltStack);
  constexpr int kAutodisarm = static_cast<int>(1u << 31);
  stack_t stack = {.ss_sp = memory.address(), .ss_flags = kAutodisarm, .ss_size = kAltStack};
  ASSERT_THAT(sigaltstack(&stack, nullptr), SucceedsWith(0));
  HandlerGuard guard(SIGUSR1, note_stack, SA_ONSTACK);
  raise(SIGUSR1);
  EXPECT_EQ(stack_in_handler.ss_flags, SS_DISABLE);
  stack_t now;
  sigaltstack(nullptr, &now);
  EXPECT_EQ(now.ss_flags & kAutodisarm, kAutodisarm);
  EXPECT_EQ(now.ss_sp, memory.address());
  stack = {.ss_sp = memory.address(), .ss_flags = 0, .ss_size = 100};
  EXPECT_THAT(sigaltstack(&stack, nullptr), FailsWith(ENOMEM));
  stack.ss_flags = 0x1234;
  EXPECT_THAT(sigaltstack(&stack, nullptr), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_sigaltstack, bad_pointer(), nullptr), FailsWith(EFAULT));
  stack = {.ss_sp = nullptr, .ss_flags = SS_DISABLE, .ss_size = 0};
  EXPECT_THAT(sigaltstack(&stack, nullptr), SucceedsWith(0));
}

TEST(Altstack, StackOverflowIsHandledThere) {
  Child child = Child::run([] {
    static char memory[kAltStack];
    stack_t stack = {.ss_sp = memory, .ss_flags = 0, .ss_size = sizeof(memory)};
    REQUIRE(sigaltstack(&stack, nullptr) == 0);
    HandlerGuard guard(
        SIGSEGV, [](int) { _exit(31); }, SA_ONSTACK);
    rlimit limit = {1 << 20, 1 << 20};
    REQUIRE(setrlimit(RLIMIT_STACK, &limit) == 0);
    volatile char* down = static_cast<volatile char*>(__builtin_frame_address(0));
    while (true) *(down -= 512) = 1;
    return 1;
  });
  EXPECT_THAT(child.wait(), ExitedWith(31));
}

TEST(Altstack, ThreadsAndForkAndClone) {
  Mapping memory = Mapping::anonymous(kAltStack);
  stack_t stack = {.ss_sp = memory.address(), .ss_flags = 0, .ss_size = kAltStack};
  ASSERT_THAT(sigaltstack(&stack, nullptr), SucceedsWith(0));
  std::thread([] {
    stack_t mine;
    sigaltstack(nullptr, &mine);
    EXPECT_EQ(mine.ss_flags, SS_DISABLE);
  }).join();
  Child child = Child::run([&] {
    stack_t mine;
    sigaltstack(nullptr, &mine);
    return mine.ss_sp == memory.address() ? 0 : 1;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
  stack.ss_flags = SS_DISABLE;
  EXPECT_THAT(sigaltstack(&stack, nullptr), SucceedsWith(0));
}

// A frame that can't be written kills with SIGSEGV, handler or not.
TEST(Frame, UnwritableStackKills) {
  Child child = Child::run([] {
    HandlerGuard segv(SIGSEGV, [](int) { _exit(1); });
    HandlerGuard guard(SIGUSR1, [](int) { _exit(2); });
    asm volatile(
        "mov %%rsp, %%rbx\n"
        "mov $0x1000, %%rsp\n"
        "syscall\n"
        "mov %%rbx, %%rsp\n"
        :
        : "a"(SYS_kill), "D"(getpid()), "S"(SIGUSR1)
        : "rbx", "rcx", "r11", "memory");
    return 3;
  });
  EXPECT_THAT(child.wait(), KilledBy(SIGSEGV));
}

TEST(Frame, RedZoneIsKept) {
  reset();
  HandlerGuard guard(SIGUSR1, count);
  const pid_t pid = getpid();
  long sum = 0;
  asm volatile(
      "movq $0x1234, -8(%%rsp)\n"
      "movq $0x5678, -128(%%rsp)\n"
      "syscall\n"
      "movq -8(%%rsp), %0\n"
      "addq -128(%%rsp), %0\n"
      : "=&r"(sum)
      : "a"(SYS_kill), "D"(pid), "S"(SIGUSR1)
      : "rcx", "r11", "memory");
  EXPECT_EQ(runs, 1);
  EXPECT_EQ(sum, 0x1234 + 0x5678);
}

TEST(Frame, HandlerMayJumpOut) {
  static sigjmp_buf jump;
  HandlerGuard guard(SIGUSR1, [](int) { siglongjmp(jump, 1); });
  for (int i = 0; i < 3; ++i) {
    if (sigsetjmp(jump, 1) == 0) {
      raise(SIGUSR1);
      FAIL();
    }
  }
}

TEST(Frame, StackIsAligned) {
  static std::atomic<uint64_t> alignment;
  HandlerGuard guard(SIGUSR1, [](int) {
    // At entry rsp is 8 below a multiple of 16, so the frame pointer (pushed) is aligned.
    alignment = reinterpret_cast<uint64_t>(__builtin_frame_address(0)) % 16;
  });
  alignment = 99;
  raise(SIGUSR1);
  EXPECT_EQ(alignment, 0u);
}

// Default actions of every signal.
class DefaultAction : public ::testing::TestWithParam<int> {};

TEST_P(DefaultAction, IsLinuxs) {
  const int signal = GetParam();
  Child child = Child::run([signal] {
    rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    setpgid(0, 0);
    kill(getpid(), signal);
    return 50;
  });
  const int status = child.wait_event(WUNTRACED);
  switch (signal) {
    case SIGCHLD:
    case SIGURG:
    case SIGWINCH:
    case SIGCONT:
      EXPECT_THAT(status, ExitedWith(50));
      break;
    case SIGSTOP:
    case SIGTSTP:
    case SIGTTIN:
    case SIGTTOU:
      EXPECT_THAT(status, StoppedBy(signal));
      break;
    default:
      EXPECT_THAT(status, KilledBy(signal));
  }
}
INSTANTIATE_TEST_SUITE_P(AllStandardAndSomeRealTime, DefaultAction,
                         ::testing::Values(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
                                           17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30,
                                           31, 32, 34, 50, 64));

}  // namespace
}  // namespace caisson::test
