// Real-time signals and synchronous waiting: sigqueue, order, limits, sigtimedwait.
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>
#include <thread>

#include "tests/util/child.h"
#include "tests/util/clock.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"
#include "tests/util/signals.h"

namespace caisson::test {
namespace {

int queue_to_self(int signal, int value) {
  sigval argument = {};
  argument.sival_int = value;
  return sigqueue(getpid(), signal, argument);
}

int take(std::initializer_list<int> signals, siginfo_t* info, int64_t timeout_ms = 0) {
  const sigset_t set = signal_set(signals);
  const timespec limit = from_ms(timeout_ms);
  return sigtimedwait(&set, info, &limit);
}

TEST(Sigqueue, CarriesValueAndSender) {
  MaskGuard blocked(SIG_BLOCK, {SIGRTMIN});
  ASSERT_THAT(queue_to_self(SIGRTMIN, 4711), SucceedsWith(0));
  siginfo_t info = {};
  ASSERT_THAT(take({SIGRTMIN}, &info), SucceedsWith(SIGRTMIN));
  EXPECT_EQ(info.si_code, SI_QUEUE);
  EXPECT_EQ(info.si_value.sival_int, 4711);
  EXPECT_EQ(info.si_pid, getpid());
  EXPECT_EQ(info.si_uid, getuid());
}

TEST(Sigqueue, RealTimeSignalsQueueInOrder) {
  MaskGuard blocked(SIG_BLOCK, {SIGRTMIN, SIGRTMIN + 1});
  for (int i = 0; i < 10; ++i) {
    queue_to_self(SIGRTMIN + 1, i);
    queue_to_self(SIGRTMIN, 100 + i);
  }
  siginfo_t info;
  // Lower numbers first, each in sending order.
  for (int i = 0; i < 10; ++i) {
    ASSERT_THAT(take({SIGRTMIN, SIGRTMIN + 1}, &info), SucceedsWith(SIGRTMIN));
    EXPECT_EQ(info.si_value.sival_int, 100 + i);
  }
  for (int i = 0; i < 10; ++i) {
    ASSERT_THAT(take({SIGRTMIN, SIGRTMIN + 1}, &info), SucceedsWith(SIGRTMIN + 1));
    EXPECT_EQ(info.si_value.sival_int, i);
  }
  EXPECT_THAT(take({SIGRTMIN, SIGRTMIN + 1}, &info), FailsWith(EAGAIN));
}

TEST(Sigqueue, StandardSignalsDoNotQueue) {
  MaskGuard blocked(SIG_BLOCK, {SIGUSR1});
  queue_to_self(SIGUSR1, 1);
  queue_to_self(SIGUSR1, 2);
  siginfo_t info;
  ASSERT_THAT(take({SIGUSR1}, &info), SucceedsWith(SIGUSR1));
  EXPECT_EQ(info.si_value.sival_int, 1);
  EXPECT_THAT(take({SIGUSR1}, &info), FailsWith(EAGAIN));
}

int order[8], ordered;
void note_order(int signal) {
  if (ordered < 8) order[ordered++] = signal;
}

// Of several pending signals the lowest is dequeued first; each frame is pushed on top of the one
// before, so handlers that leave all open run in reverse. With everything masked in the handler
// they run in order.
TEST(Sigqueue, HandlersRunLowestFirst) {
  ordered = 0;
  const std::initializer_list<int> all = {SIGUSR1, SIGUSR2, SIGRTMIN, SIGRTMIN + 3};
  HandlerGuard a(SIGUSR1, note_order, 0, all), b(SIGUSR2, note_order, 0, all),
      c(SIGRTMIN, note_order, 0, all), d(SIGRTMIN + 3, note_order, 0, all);
  {
    MaskGuard blocked(SIG_BLOCK, all);
    queue_to_self(SIGRTMIN + 3, 0);
    queue_to_self(SIGRTMIN, 0);
    raise(SIGUSR2);
    raise(SIGUSR1);
  }
  ASSERT_EQ(ordered, 4);
  EXPECT_EQ(order[0], SIGUSR1);
  EXPECT_EQ(order[1], SIGUSR2);
  EXPECT_EQ(order[2], SIGRTMIN);
  EXPECT_EQ(order[3], SIGRTMIN + 3);
}

TEST(Sigqueue, ThreadsQueueComesBeforeTheProcesss) {
  MaskGuard blocked(SIG_BLOCK, {SIGRTMIN});
  queue_to_self(SIGRTMIN, 1);
  siginfo_t mine = {};
  mine.si_code = SI_QUEUE;
  mine.si_value.sival_int = 2;
  mine.si_pid = getpid();
  ASSERT_THAT(syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid_now(), SIGRTMIN, &mine),
              SucceedsWith(0));
  siginfo_t info;
  ASSERT_THAT(take({SIGRTMIN}, &info), SucceedsWith(SIGRTMIN));
  EXPECT_EQ(info.si_value.sival_int, 2);
  ASSERT_THAT(take({SIGRTMIN}, &info), SucceedsWith(SIGRTMIN));
  EXPECT_EQ(info.si_value.sival_int, 1);
}

TEST(Sigqueue, Errors) {
  sigval value = {};
  EXPECT_THAT(sigqueue(getpid(), 65, value), FailsWith(EINVAL));
  EXPECT_THAT(sigqueue(getpid(), 0, value), SucceedsWith(0));
  EXPECT_THAT(sigqueue(0x3fff'ffff, SIGUSR1, value), FailsWith(ESRCH));
  siginfo_t info = {};
  info.si_code = SI_USER;
  Child child = Child::run([] {
    while (true) pause();
    return 0;
  });
  // Only the kernel may claim such codes about another process.
  EXPECT_THAT(syscall(SYS_rt_sigqueueinfo, child.pid(), SIGUSR1, &info), FailsWith(EPERM));
  info.si_code = SI_TKILL;
  EXPECT_THAT(syscall(SYS_rt_sigqueueinfo, child.pid(), SIGUSR1, &info), FailsWith(EPERM));
  EXPECT_THAT(syscall(SYS_rt_sigqueueinfo, child.pid(), SIGUSR1, bad_pointer()), FailsWith(EFAULT));
}

TEST(Sigqueue, LimitGivesEagain) {
  Child child = Child::run([] {
    rlimit limit = {5, 5};
    REQUIRE(setrlimit(RLIMIT_SIGPENDING, &limit) == 0);
    const sigset_t set = signal_set({SIGRTMIN, SIGUSR1});
    sigprocmask(SIG_BLOCK, &set, nullptr);
    int sent = 0;
    while (sent < 100 && queue_to_self(SIGRTMIN, sent) == 0) ++sent;
    REQUIRE(sent <= 5 && errno == EAGAIN);
    // kill() of a standard signal always arrives.
    REQUIRE(kill(getpid(), SIGUSR1) == 0);
    siginfo_t info;
    REQUIRE(take({SIGUSR1}, &info) == SIGUSR1);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

TEST(Sigtimedwait, TimesOut) {
  siginfo_t info;
  Stopwatch watch;
  EXPECT_THAT(take({SIGUSR1}, &info, 30), FailsWith(EAGAIN));
  EXPECT_GE(watch.ms(), 29);
}

TEST(Sigtimedwait, WakesWhenSignalArrives) {
  MaskGuard blocked(SIG_BLOCK, {SIGUSR1});
  const pid_t pid = getpid();
  Later later(20, [pid] { kill(pid, SIGUSR1); });
  siginfo_t info = {};
  EXPECT_THAT(take({SIGUSR1}, &info, 5000), SucceedsWith(SIGUSR1));
  EXPECT_EQ(info.si_code, SI_USER);
  sigset_t pending;
  sigpending(&pending);
  EXPECT_FALSE(sigismember(&pending, SIGUSR1));
}

// A signal that isn't blocked is taken by the wait rather than by its handler.
TEST(Sigtimedwait, TakesUnblockedSignalToo) {
  HandlerGuard handler(SIGUSR2, [](int) { _exit(1); });
  const pid_t tid = gettid_now();
  Later later(20, [tid] { tgkill_now(getpid(), tid, SIGUSR2); });
  siginfo_t info;
  EXPECT_THAT(take({SIGUSR2}, &info, 5000), SucceedsWith(SIGUSR2));
}

TEST(Sigtimedwait, OtherHandlerInterrupts) {
  for (int flags : {0, SA_RESTART}) {
    const sigset_t set = signal_set({SIGUSR2});
    const timespec limit = from_ms(5000);
    const Interrupted outcome = run_interrupted(
        flags, [&] { return sigtimedwait(&set, nullptr, &limit); }, [] {});
    EXPECT_EQ(outcome.error, EINTR);
    EXPECT_LT(outcome.elapsed_ms, 2000);
  }
}

TEST(Sigtimedwait, Errors) {
  uint64_t set = 1ull << (SIGUSR1 - 1);
  timespec bad = {0, 1'000'000'000};
  timespec zero = {};
  EXPECT_THAT(syscall(SYS_rt_sigtimedwait, &set, nullptr, &bad, 8), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_rt_sigtimedwait, &set, nullptr, &zero, 9), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_rt_sigtimedwait, bad_pointer(), nullptr, &zero, 8), FailsWith(EFAULT));
  EXPECT_THAT(syscall(SYS_rt_sigtimedwait, &set, nullptr, bad_pointer(), 8), FailsWith(EFAULT));
  MaskGuard blocked(SIG_BLOCK, {SIGUSR1});
  raise(SIGUSR1);
  EXPECT_THAT(syscall(SYS_rt_sigtimedwait, &set, bad_pointer(), &zero, 8), FailsWith(EFAULT));
  siginfo_t info;
  take({SIGUSR1}, &info);
}

TEST(Sigtimedwait, NeverTakesKill) {
  Child child = Child::run([] {
    const sigset_t set = signal_set({SIGKILL, SIGSTOP, SIGUSR1});
    return sigwaitinfo(&set, nullptr) >= 0;
  });
  sleep_ms(10);
  child.kill(SIGKILL);
  EXPECT_THAT(child.wait(), KilledBy(SIGKILL));
}

TEST(Sigtimedwait, EachSignalGoesToOneOfTwoWaiters) {
  MaskGuard blocked(SIG_BLOCK, {SIGRTMIN + 2});
  constexpr int kSignals = 400;
  std::atomic<int> taken = 0;
  auto waiter = [&] {
    siginfo_t info;
    while (true) {
      const int signal = take({SIGRTMIN + 2}, &info, 10'000);
      // Linux wakes a waiter whose signal the other one took.
      if (signal == -1 && errno == EINTR) continue;
      if (signal == -1 || info.si_value.sival_int < 0) return;
      ++taken;
    }
  };
  std::thread one(waiter), two(waiter);
  for (int i = 0; i < kSignals; ++i) {
    while (queue_to_self(SIGRTMIN + 2, i) == -1) sleep_us(100);
  }
  ASSERT_TRUE(eventually([&] { return taken == kSignals; }));
  queue_to_self(SIGRTMIN + 2, -1);
  queue_to_self(SIGRTMIN + 2, -1);
  one.join();
  two.join();
  EXPECT_EQ(taken, kSignals);
}

TEST(Sigqueue, FromChildToParent) {
  MaskGuard blocked(SIG_BLOCK, {SIGRTMIN});
  const pid_t parent = getpid();
  Child child = Child::run([parent] {
    for (int i = 0; i < 50; ++i) {
      sigval value = {};
      value.sival_int = i;
      REQUIRE(sigqueue(parent, SIGRTMIN, value) == 0);
    }
    return 0;
  });
  siginfo_t info;
  for (int i = 0; i < 50; ++i) {
    ASSERT_THAT(take({SIGRTMIN}, &info, 5000), SucceedsWith(SIGRTMIN));
    EXPECT_EQ(info.si_value.sival_int, i);
    EXPECT_EQ(info.si_pid, child.pid());
  }
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

}  // namespace
}  // namespace caisson::test
