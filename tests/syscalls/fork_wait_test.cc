// fork, vfork, _exit, wait4, waitid: statuses, options, selection, usage, interruption.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstring>
#include <thread>

#include "tests/util/child.h"
#include "tests/util/clock.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"
#include "tests/util/signals.h"

namespace caisson::test {
namespace {

int wait_forever() {
  while (true) pause();
}

TEST(Fork, ReturnsTwiceWithRightIds) {
  const pid_t parent = getpid();
  Child child = Child::run([&] {
    REQUIRE(getppid() == parent);
    REQUIRE(getpid() != parent);
    REQUIRE(syscall(SYS_gettid) == getpid());
    return 0;
  });
  EXPECT_NE(child.pid(), parent);
  EXPECT_THAT(child.wait(), ExitedWith(0));
  EXPECT_EQ(getpid(), parent);
}

TEST(Fork, MemoryIsCopied) {
  Mapping page = Mapping::anonymous(kPageSize);
  volatile int* value = page.as<int>();
  *value = 1;
  Child child = Child::run([&] {
    REQUIRE(*value == 1);
    *value = 2;
    return *value;
  });
  EXPECT_THAT(child.wait(), ExitedWith(2));
  EXPECT_EQ(*value, 1);
}

TEST(Fork, SharedMemoryIsShared) {
  Mapping page = Mapping::shared(kPageSize);
  volatile int* value = page.as<int>();
  Child child = Child::run([&] {
    *value = 42;
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
  EXPECT_EQ(*value, 42);
}

// Larger than any eager copy: every page keeps its own content on both sides.
TEST(Fork, BigMemoryStaysApart) {
  constexpr size_t kPages = 8192;
  Mapping memory = Mapping::anonymous(kPages * kPageSize);
  for (size_t i = 0; i < kPages; ++i) *memory.as<size_t>(i * kPageSize) = i;
  Child child = Child::run([&] {
    for (size_t i = 0; i < kPages; ++i) REQUIRE(*memory.as<size_t>(i * kPageSize) == i);
    for (size_t i = 0; i < kPages; i += 7) *memory.as<size_t>(i * kPageSize) = ~i;
    return 0;
  });
  for (size_t i = 3; i < kPages; i += 11) *memory.as<size_t>(i * kPageSize) += 1;
  EXPECT_THAT(child.wait(), ExitedWith(0));
  for (size_t i = 0; i < kPages; ++i) {
    ASSERT_EQ(*memory.as<size_t>(i * kPageSize), i + (i >= 3 && (i - 3) % 11 == 0 ? 1 : 0));
  }
}

TEST(Fork, GrandchildrenSeeTheMiddleState) {
  Mapping page = Mapping::anonymous(kPageSize);
  volatile int* value = page.as<int>();
  *value = 1;
  Child child = Child::run([&] {
    *value = 2;
    Child grandchild = Child::run([&] {
      REQUIRE(*value == 2);
      *value = 3;
      return 0;
    });
    REQUIRE(WEXITSTATUS(grandchild.wait()) == 0);
    return *value;
  });
  EXPECT_THAT(child.wait(), ExitedWith(2));
  EXPECT_EQ(*value, 1);
}

TEST(Fork, OnlyTheCallingThreadIsCopied) {
  Pipe pipe = must_pipe();
  std::thread other([&] {
    char byte;
    read(pipe.read_end.get(), &byte, 1);
  });
  Child child = Child::run([] {
    REQUIRE(syscall(SYS_tgkill, getpid(), getpid(), 0) == 0);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
  write_all(pipe.write_end.get(), "x");
  other.join();
}

TEST(Fork, PendingSignalsAreNotInherited) {
  MaskGuard blocked(SIG_BLOCK, {SIGUSR1});
  raise(SIGUSR1);
  Child child = Child::run([] {
    sigset_t pending;
    sigpending(&pending);
    REQUIRE(!sigismember(&pending, SIGUSR1));
    sigset_t mask;
    sigprocmask(SIG_SETMASK, nullptr, &mask);
    REQUIRE(sigismember(&mask, SIGUSR1));
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
  siginfo_t info;
  timespec zero = {};
  const sigset_t set = signal_set({SIGUSR1});
  EXPECT_THAT(sigtimedwait(&set, &info, &zero), SucceedsWith(SIGUSR1));
}

TEST(Fork, ManyInARow) {
  for (int i = 0; i < 300; ++i) {
    const pid_t pid = fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) _exit(i & 0x7f);
    int status;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    ASSERT_THAT(status, ExitedWith(i & 0x7f));
  }
}

TEST(Fork, FromTwoThreadsAtOnce) {
  auto loop = [] {
    for (int i = 0; i < 50; ++i) {
      const pid_t pid = fork();
      if (pid == 0) _exit(7);
      int status = 0;
      EXPECT_EQ(waitpid(pid, &status, 0), pid);
      EXPECT_THAT(status, ExitedWith(7));
    }
  };
  std::thread one(loop), two(loop);
  one.join();
  two.join();
}

// The child borrows the parent's memory; the parent stays suspended until exit or exec.
TEST(Vfork, SharesMemoryAndSuspendsParent) {
  volatile int value = 1;
  const int64_t start_ms = now_ms();
  const pid_t pid = vfork();
  if (pid == 0) {
    value = 2;
    timespec pause = {0, 30'000'000};
    syscall(SYS_nanosleep, &pause, nullptr);
    _exit(3);
  }
  EXPECT_GE(now_ms() - start_ms, 29);
  EXPECT_EQ(value, 2);
  EXPECT_THAT(Child::adopt(pid).wait(), ExitedWith(3));
}

TEST(Vfork, ParentResumesAtExec) {
  const pid_t pid = vfork();
  if (pid == 0) {
    execl("/bin/busybox", "busybox", "sh", "-c", "exit 4", nullptr);
    _exit(90);
  }
  const int status = Child::adopt(pid).wait();
  if (WEXITSTATUS(status) == 90) GTEST_SKIP() << "no /bin/busybox";
  EXPECT_THAT(status, ExitedWith(4));
}

TEST(Vfork, ParentResumesWhenChildIsKilled) {
  const pid_t pid = vfork();
  if (pid == 0) {
    syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
    _exit(1);
  }
  EXPECT_THAT(Child::adopt(pid).wait(), KilledBy(SIGKILL));
}

TEST(Exit, StatusIsLowEightBits) {
  EXPECT_THAT(Child::run([] { return 0x1ff; }).wait(), ExitedWith(0xff));
  EXPECT_THAT(Child::run([] { return -1; }).wait(), ExitedWith(255));
}

TEST(Wait, KilledStatusAndCoreBit) {
  Child child = Child::run(wait_forever);
  child.kill(SIGTERM);
  const int status = child.wait();
  EXPECT_THAT(status, KilledBy(SIGTERM));
  EXPECT_FALSE(WCOREDUMP(status));
}

TEST(Wait, Errors) {
  int status;
  EXPECT_THAT(waitpid(-1, &status, 0), FailsWith(ECHILD));
  EXPECT_THAT(waitpid(getpid(), &status, 0), FailsWith(ECHILD));
  EXPECT_THAT(waitpid(1, &status, 0), FailsWith(ECHILD));
  EXPECT_THAT(syscall(SYS_wait4, -1, &status, 0x00ff'0000, nullptr), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_wait4, INT_MIN, &status, 0, nullptr), FailsWith(ESRCH));
  siginfo_t info;
  EXPECT_THAT(waitid(P_ALL, 0, &info, WEXITED), FailsWith(ECHILD));
  EXPECT_THAT(waitid(P_ALL, 0, &info, 0), FailsWith(EINVAL));
  EXPECT_THAT(waitid(static_cast<idtype_t>(99), 0, &info, WEXITED), FailsWith(EINVAL));
  EXPECT_THAT(waitid(P_PID, 0, &info, WEXITED), FailsWith(EINVAL));
}

TEST(Wait, BadStatusPointerReapsAnyway) {
  Child child = Child::run([] { return 0; });
  GuardedPages pages;
  EXPECT_THAT(waitpid(child.pid(), pages.one_past<int>(), 0), FailsWith(EFAULT));
  EXPECT_THAT(waitpid(child.pid(), nullptr, 0), FailsWith(ECHILD));
  child.disown();
}

TEST(Wait, NohangWithLiveAndDeadChild) {
  Child child = Child::run(wait_forever);
  int status = 0x1234;
  EXPECT_THAT(waitpid(child.pid(), &status, WNOHANG), SucceedsWith(0));
  EXPECT_EQ(status, 0x1234);
  siginfo_t info;
  std::memset(&info, 0x55, sizeof(info));
  EXPECT_THAT(waitid(P_PID, child.pid(), &info, WEXITED | WNOHANG), SucceedsWith(0));
  EXPECT_EQ(info.si_pid, 0);
  EXPECT_EQ(info.si_signo, 0);
  child.kill(SIGKILL);
  EXPECT_THAT(child.wait(), KilledBy(SIGKILL));
}

TEST(Waitid, SiginfoContents) {
  Child exits = Child::run([] { return 9; });
  siginfo_t info = {};
  ASSERT_THAT(waitid(P_PID, exits.pid(), &info, WEXITED), SucceedsWith(0));
  EXPECT_EQ(info.si_signo, SIGCHLD);
  EXPECT_EQ(info.si_code, CLD_EXITED);
  EXPECT_EQ(info.si_status, 9);
  EXPECT_EQ(info.si_pid, exits.pid());
  EXPECT_EQ(info.si_uid, getuid());
  EXPECT_EQ(info.si_errno, 0);
  exits.disown();
  Child killed = Child::run(wait_forever);
  killed.kill(SIGKILL);
  ASSERT_THAT(waitid(P_PID, killed.pid(), &info, WEXITED), SucceedsWith(0));
  EXPECT_EQ(info.si_code, CLD_KILLED);
  EXPECT_EQ(info.si_status, SIGKILL);
  killed.disown();
}

TEST(Waitid, NowaitLeavesTheZombie) {
  Child child = Child::run([] { return 3; });
  siginfo_t info = {};
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(waitid(P_ALL, 0, &info, WEXITED | WNOWAIT), SucceedsWith(0));
    EXPECT_EQ(info.si_pid, child.pid());
  }
  // A zombie still takes signals.
  EXPECT_THAT(kill(child.pid(), 0), SucceedsWith(0));
  EXPECT_THAT(kill(child.pid(), SIGKILL), SucceedsWith(0));
  EXPECT_THAT(child.wait(), ExitedWith(3));
}

TEST(Waitid, BadInfoPointer) {
  Child child = Child::run([] { return 0; });
  EXPECT_THAT(syscall(SYS_waitid, P_PID, child.pid(), bad_pointer(), WEXITED, nullptr),
              FailsWith(EFAULT));
  child.disown();
  Child second = Child::run([] { return 0; });
  EXPECT_THAT(syscall(SYS_waitid, P_PID, second.pid(), nullptr, WEXITED, nullptr), SucceedsWith(0));
  second.disown();
}

TEST(Wait, SelectsByGroup) {
  Child leader = Child::run([] { return setpgid(0, 0), wait_forever(); });
  ASSERT_TRUE(eventually([&] { return getpgid(leader.pid()) == leader.pid(); }));
  Child own = Child::run([] { return 6; });
  int status;
  EXPECT_THAT(waitpid(-leader.pid(), &status, WNOHANG), SucceedsWith(0));
  EXPECT_THAT(waitpid(0, &status, 0), SucceedsWith(own.pid()));
  EXPECT_THAT(status, ExitedWith(6));
  own.disown();
  leader.kill(SIGKILL);
  EXPECT_THAT(waitpid(-leader.pid(), &status, 0), SucceedsWith(leader.pid()));
  leader.disown();
}

TEST(Wait, AnyChildReturnsEachOnce) {
  std::vector<pid_t> pids, reaped;
  for (int i = 0; i < 10; ++i) pids.push_back(fork_running([i] { return i; }));
  for (int i = 0; i < 10; ++i) reaped.push_back(wait(nullptr));
  EXPECT_THAT(reaped, ::testing::UnorderedElementsAreArray(pids));
  EXPECT_THAT(wait(nullptr), FailsWith(ECHILD));
}

TEST(Wait, InterruptedFailsOrRestarts) {
  for (int flags : {0, SA_RESTART}) {
    Child child = Child::run(wait_forever);
    int status = 0;
    const Interrupted outcome = run_interrupted(
        flags, [&] { return waitpid(child.pid(), &status, 0); }, [&] { child.kill(SIGKILL); });
    EXPECT_EQ(outcome.handler_runs, 1);
    if (flags == 0) {
      EXPECT_EQ(outcome.error, EINTR);
      EXPECT_THAT(child.wait(), KilledBy(SIGKILL));
    } else {
      EXPECT_EQ(outcome.result, child.pid());
      child.disown();
    }
  }
}

TEST(Wait, OtherThreadMayReapUnlessWnothread) {
  Child child = Child::run([] { return 2; });
  std::thread([&] {
    int status;
    EXPECT_THAT(waitpid(child.pid(), &status, __WNOTHREAD), FailsWith(ECHILD));
    EXPECT_THAT(waitpid(child.pid(), &status, 0), SucceedsWith(child.pid()));
  }).join();
  child.disown();
}

TEST(Wait, TwoWaitersOneChild) {
  for (int round = 0; round < 20; ++round) {
    Child child = Child::run([] { return 0; });
    std::atomic<int> got = 0, refused = 0;
    auto waiter = [&] {
      if (waitpid(child.pid(), nullptr, 0) == child.pid()) {
        ++got;
      } else if (errno == ECHILD) {
        ++refused;
      }
    };
    std::thread one(waiter), two(waiter);
    one.join();
    two.join();
    EXPECT_EQ(got, 1);
    EXPECT_EQ(refused, 1);
    child.disown();
  }
}

TEST(Wait, UsageOfTheChild) {
  const pid_t pid = fork_running([] {
    const int64_t start = now_ns(CLOCK_PROCESS_CPUTIME_ID);
    while (now_ns(CLOCK_PROCESS_CPUTIME_ID) - start < 50'000'000) {
    }
    return 0;
  });
  rusage usage = {};
  int status;
  ASSERT_THAT(wait4(pid, &status, 0, &usage), SucceedsWith(pid));
  const int64_t cpu_us = usage.ru_utime.tv_sec * 1'000'000 + usage.ru_utime.tv_usec +
                         usage.ru_stime.tv_sec * 1'000'000 + usage.ru_stime.tv_usec;
  EXPECT_GE(cpu_us, 30'000);
  EXPECT_LT(cpu_us, 5'000'000);
  rusage children = {};
  EXPECT_THAT(getrusage(RUSAGE_CHILDREN, &children), SucceedsWith(0));
  EXPECT_GE(children.ru_utime.tv_usec + children.ru_stime.tv_usec + children.ru_utime.tv_sec, 1);
}

volatile sig_atomic_t sigchld_seen;
siginfo_t sigchld_info;
void note_sigchld(int, siginfo_t* info, void*) {
  sigchld_info = *info;
  sigchld_seen = sigchld_seen + 1;
}

TEST(Sigchld, IsSentWithDetails) {
  sigchld_seen = 0;
  HandlerGuard handler(SIGCHLD, note_sigchld, SA_RESTART);
  Child child = Child::run([] { return 11; });
  ASSERT_TRUE(eventually([] { return sigchld_seen == 1; }));
  EXPECT_EQ(sigchld_info.si_pid, child.pid());
  EXPECT_EQ(sigchld_info.si_code, CLD_EXITED);
  EXPECT_EQ(sigchld_info.si_status, 11);
  EXPECT_THAT(child.wait(), ExitedWith(11));
}

void expect_resident_at_least(pid_t pid, size_t bytes) {
  int status = 0;
  rusage usage{};
  ASSERT_EQ(wait4(pid, &status, 0, &usage), pid);
  EXPECT_THAT(status, ExitedWith(3));
  EXPECT_GE(usage.ru_maxrss, static_cast<long>(bytes >> 10));
}

TEST(Wait4, MaximumResidentSizeOfAProcessWhoseThreadsEndTogether) {
  constexpr size_t kSize = 20 << 20;
  for (int i = 0; i < 20; ++i) {
    const pid_t pid = fork_running([]() -> int {
      Mapping memory = Mapping::anonymous(kSize);
      memset(memory.as<char>(), 1, kSize);
      std::atomic<int> spinning = 0;
      for (int n = 0; n < 3; ++n)
        std::thread([&spinning] {
          for (++spinning;;) asm volatile("");
        }).detach();
      while (spinning < 3) sched_yield();
      _exit(3);
    });
    ASSERT_NO_FATAL_FAILURE(expect_resident_at_least(pid, kSize));
  }
}

TEST(Wait4, MaximumResidentSizeOfAChildOfVforkIsItsParents) {
  constexpr size_t kSize = 40 << 20;
  Mapping memory = Mapping::anonymous(kSize);
  memset(memory.as<char>(), 1, kSize);
  const pid_t pid = vfork();
  if (pid == 0) _exit(3);
  expect_resident_at_least(pid, kSize);
}

TEST(Sigchld, IgnoredChildrenReapThemselves) {
  HandlerGuard ignore(SIGCHLD, SIG_IGN);
  const pid_t pid = fork_running([] {
    sleep_ms(10);
    return 1;
  });
  // Waits until all are gone, then finds none.
  EXPECT_THAT(waitpid(pid, nullptr, 0), FailsWith(ECHILD));
}

TEST(Sigchld, NocldwaitReapsThemselves) {
  sigchld_seen = 0;
  HandlerGuard handler(SIGCHLD, note_sigchld, SA_NOCLDWAIT | SA_RESTART);
  fork_running([] { return 1; });
  EXPECT_TRUE(eventually([] { return waitpid(-1, nullptr, WNOHANG) == -1 && errno == ECHILD; }));
  // The signal is sent all the same.
  EXPECT_EQ(sigchld_seen, 1);
}

}  // namespace
}  // namespace caisson::test
