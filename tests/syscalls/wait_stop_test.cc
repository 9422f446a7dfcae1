// Stops and continues as the parent sees them, orphans, subreapers, parent-death signals.
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

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

TEST(Stop, StopAndContinueAreReported) {
  Child child = Child::run(wait_forever);
  child.kill(SIGSTOP);
  EXPECT_THAT(child.wait_event(WUNTRACED), StoppedBy(SIGSTOP));
  child.kill(SIGCONT);
  EXPECT_TRUE(WIFCONTINUED(child.wait_event(WCONTINUED)));
  child.kill(SIGKILL);
  EXPECT_THAT(child.wait(), KilledBy(SIGKILL));
}

TEST(Stop, EachReportComesOnce) {
  Child child = Child::run(wait_forever);
  child.kill(SIGSTOP);
  EXPECT_THAT(child.wait_event(WUNTRACED), StoppedBy(SIGSTOP));
  int status;
  EXPECT_THAT(waitpid(child.pid(), &status, WUNTRACED | WNOHANG), SucceedsWith(0));
  // A second stop of a stopped process is no event.
  child.kill(SIGSTOP);
  sleep_ms(10);
  EXPECT_THAT(waitpid(child.pid(), &status, WUNTRACED | WNOHANG), SucceedsWith(0));
  child.kill(SIGCONT);
  EXPECT_TRUE(WIFCONTINUED(child.wait_event(WCONTINUED)));
  EXPECT_THAT(waitpid(child.pid(), &status, WCONTINUED | WNOHANG), SucceedsWith(0));
}

TEST(Stop, NotReportedWithoutWuntraced) {
  Child child = Child::run(wait_forever);
  child.kill(SIGSTOP);
  siginfo_t info = {};
  ASSERT_THAT(waitid(P_PID, child.pid(), &info, WSTOPPED | WNOWAIT), SucceedsWith(0));
  EXPECT_EQ(info.si_code, CLD_STOPPED);
  EXPECT_EQ(info.si_status, SIGSTOP);
  int status;
  EXPECT_THAT(waitpid(child.pid(), &status, WNOHANG), SucceedsWith(0));
  EXPECT_THAT(child.wait_event(WUNTRACED), StoppedBy(SIGSTOP));
}

TEST(Stop, WaitidReportsContinue) {
  Child child = Child::run(wait_forever);
  child.kill(SIGSTOP);
  siginfo_t info = {};
  ASSERT_THAT(waitid(P_PID, child.pid(), &info, WSTOPPED), SucceedsWith(0));
  child.kill(SIGCONT);
  ASSERT_THAT(waitid(P_PID, child.pid(), &info, WCONTINUED), SucceedsWith(0));
  EXPECT_EQ(info.si_code, CLD_CONTINUED);
  EXPECT_EQ(info.si_status, SIGCONT);
}

TEST(Stop, KilledWhileStopped) {
  Child child = Child::run(wait_forever);
  child.kill(SIGSTOP);
  EXPECT_THAT(child.wait_event(WUNTRACED), StoppedBy(SIGSTOP));
  child.kill(SIGTERM);
  int status;
  sleep_ms(10);
  EXPECT_THAT(waitpid(child.pid(), &status, WNOHANG), SucceedsWith(0));
  child.kill(SIGCONT);
  EXPECT_THAT(child.wait(), KilledBy(SIGTERM));
  Child other = Child::run(wait_forever);
  other.kill(SIGSTOP);
  EXPECT_THAT(other.wait_event(WUNTRACED), StoppedBy(SIGSTOP));
  other.kill(SIGKILL);
  EXPECT_THAT(other.wait(), KilledBy(SIGKILL));
}

TEST(Stop, StoppedProcessMakesNoProgress) {
  Mapping page = Mapping::shared(kPageSize);
  auto* counter = page.as<std::atomic<uint64_t>>();
  Child child = Child::run([&]() -> int {
    while (true) counter->fetch_add(1);
  });
  ASSERT_TRUE(eventually([&] { return *counter > 1000; }));
  child.kill(SIGSTOP);
  EXPECT_THAT(child.wait_event(WUNTRACED), StoppedBy(SIGSTOP));
  const uint64_t at_stop = *counter;
  sleep_ms(20);
  EXPECT_EQ(*counter, at_stop);
  child.kill(SIGCONT);
  EXPECT_TRUE(eventually([&] { return *counter > at_stop; }));
}

TEST(Stop, AllThreadsStop) {
  Mapping page = Mapping::shared(kPageSize);
  auto* counters = page.as<std::atomic<uint64_t>>();
  Child child = Child::run([&]() -> int {
    std::thread([&] {
      while (true) counters[1].fetch_add(1);
    }).detach();
    while (true) counters[0].fetch_add(1);
  });
  ASSERT_TRUE(eventually([&] { return counters[0] > 1000 && counters[1] > 1000; }));
  child.kill(SIGSTOP);
  EXPECT_THAT(child.wait_event(WUNTRACED), StoppedBy(SIGSTOP));
  const uint64_t first = counters[0], second = counters[1];
  sleep_ms(20);
  EXPECT_EQ(counters[0], first);
  EXPECT_EQ(counters[1], second);
  child.kill(SIGCONT);
  EXPECT_TRUE(eventually([&] { return counters[0] > first && counters[1] > second; }));
}

volatile sig_atomic_t chld_codes[8];
volatile sig_atomic_t chld_count;
void note_code(int, siginfo_t* info, void*) {
  if (chld_count < 8) chld_codes[chld_count] = info->si_code;
  chld_count = chld_count + 1;
}

TEST(Stop, SigchldForStopsUnlessNocldstop) {
  for (int flags : {0, SA_NOCLDSTOP}) {
    chld_count = 0;
    HandlerGuard handler(SIGCHLD, note_code, SA_RESTART | flags);
    Child child = Child::run(wait_forever);
    child.kill(SIGSTOP);
    EXPECT_THAT(child.wait_event(WUNTRACED), StoppedBy(SIGSTOP));
    if (flags == 0) {
      ASSERT_TRUE(eventually([] { return chld_count >= 1; }));
      EXPECT_EQ(chld_codes[0], CLD_STOPPED);
    } else {
      sleep_ms(10);
      EXPECT_EQ(chld_count, 0);
    }
    child.kill(SIGKILL);
    EXPECT_THAT(child.wait(), KilledBy(SIGKILL));
  }
}

TEST(Stop, ContinueIsTakenEvenIfIgnoredOrBlocked) {
  Child child = Child::run([] {
    signal(SIGCONT, SIG_IGN);
    const sigset_t set = signal_set({SIGCONT});
    sigprocmask(SIG_BLOCK, &set, nullptr);
    raise(SIGSTOP);
    return 8;
  });
  EXPECT_THAT(child.wait_event(WUNTRACED), StoppedBy(SIGSTOP));
  child.kill(SIGCONT);
  EXPECT_THAT(child.wait(), ExitedWith(8));
}

TEST(Stop, ContinueDropsPendingStops) {
  Child child = Child::run([] {
    const sigset_t set = signal_set({SIGTSTP, SIGCONT});
    sigprocmask(SIG_BLOCK, &set, nullptr);
    raise(SIGTSTP);
    sigset_t pending;
    sigpending(&pending);
    REQUIRE(sigismember(&pending, SIGTSTP));
    raise(SIGCONT);
    sigpending(&pending);
    REQUIRE(!sigismember(&pending, SIGTSTP) && sigismember(&pending, SIGCONT));
    raise(SIGTSTP);
    sigpending(&pending);
    REQUIRE(sigismember(&pending, SIGTSTP) && !sigismember(&pending, SIGCONT));
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

// Keyboard and terminal stops are not taken by a process of an orphaned group.
TEST(Stop, OrphanedGroupIgnoresTerminalStops) {
  Child child = Child::run([] {
    REQUIRE(setsid() == getpid());
    raise(SIGTSTP);
    raise(SIGTTIN);
    raise(SIGTTOU);
    return 4;
  });
  EXPECT_THAT(child.wait_event(WUNTRACED), ExitedWith(4));
}

TEST(Stop, TerminalStopsInOrdinaryGroup) {
  for (int signal : {SIGTSTP, SIGTTIN, SIGTTOU}) {
    // The middle process keeps the group from being orphaned: same session, another group, parent
    // of a member.
    Child middle = Child::run([signal] {
      REQUIRE(setsid() == getpid());
      Child child = Child::run([signal] {
        REQUIRE(setpgid(0, 0) == 0);
        raise(signal);
        return 4;
      });
      const int status = child.wait_event(WUNTRACED);
      REQUIRE(WIFSTOPPED(status) && WSTOPSIG(status) == signal);
      child.kill(SIGCONT);
      REQUIRE(child.wait() == 4 << 8);
      return 0;
    });
    EXPECT_THAT(middle.wait(), ExitedWith(0));
  }
}

TEST(Orphan, StoppedGroupGetsHupAndCont) {
  Child reaper = Child::run([] {
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    Child leader = Child::run([] {
      REQUIRE(setsid() == getpid());
      const pid_t pid = fork();
      if (pid == 0) {
        setpgid(0, 0);
        signal(SIGHUP, [](int) { _exit(33); });
        raise(SIGSTOP);
        while (true) pause();
      }
      setpgid(pid, pid);
      int status;
      REQUIRE(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));
      return 0;
    });
    REQUIRE(leader.wait() == 0);
    // Its group has lost the one parent that was in its session: hang-up, then continue.
    int status;
    REQUIRE(wait(&status) > 0);
    return WEXITSTATUS(status);
  });
  EXPECT_THAT(reaper.wait(5000), ExitedWith(33));
}

TEST(Orphan, SubreaperAdopts) {
  Child reaper = Child::run([] {
    REQUIRE(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
    int set = 0;
    REQUIRE(prctl(PR_GET_CHILD_SUBREAPER, &set) == 0 && set == 1);
    const pid_t me = getpid();
    Child middle = Child::run([me] {
      const pid_t parent = getpid();
      if (fork() == 0) {
        while (getppid() == parent) sleep_us(200);
        _exit(getppid() == me ? 21 : 22);
      }
      return 0;
    });
    REQUIRE(middle.wait() == 0);
    int status;
    REQUIRE(wait(&status) > 0);
    return WEXITSTATUS(status);
  });
  EXPECT_THAT(reaper.wait(), ExitedWith(21));
}

TEST(Orphan, WithoutSubreaperParentBecomesAnother) {
  Pipe pipe = must_pipe();
  Child middle = Child::run([&] {
    const pid_t parent = getpid();
    if (fork() == 0) {
      while (getppid() == parent) sleep_us(200);
      const pid_t now = getppid();
      write_all(pipe.write_end.get(), std::string(reinterpret_cast<const char*>(&now), 4));
      _exit(0);
    }
    return 0;
  });
  const pid_t middle_pid = middle.pid();
  EXPECT_THAT(middle.wait(), ExitedWith(0));
  pid_t adopter = -1;
  EXPECT_THAT(read(pipe.read_end.get(), &adopter, 4), SucceedsWith(4));
  EXPECT_NE(adopter, middle_pid);
  EXPECT_NE(adopter, getpid());
}

TEST(Orphan, ParentDeathSignal) {
  Pipe pipe = must_pipe();
  Child middle = Child::run([&] {
    Pipe ready = must_pipe();
    if (fork() == 0) {
      prctl(PR_SET_PDEATHSIG, SIGUSR1);
      int now = 0;
      REQUIRE(prctl(PR_GET_PDEATHSIG, &now) == 0 && now == SIGUSR1);
      const sigset_t set = signal_set({SIGUSR1});
      sigprocmask(SIG_BLOCK, &set, nullptr);
      write_all(ready.write_end.get(), "r");
      siginfo_t info;
      timespec limit = from_ms(5000);
      const bool got = sigtimedwait(&set, &info, &limit) == SIGUSR1;
      write_all(pipe.write_end.get(), got ? "y" : "n");
      _exit(0);
    }
    char byte;
    REQUIRE(read(ready.read_end.get(), &byte, 1) == 1);
    return 0;
  });
  EXPECT_THAT(middle.wait(), ExitedWith(0));
  pipe.write_end.reset();
  EXPECT_EQ(read_all(pipe.read_end.get()), "y");
  EXPECT_THAT(prctl(PR_SET_PDEATHSIG, 65), FailsWith(EINVAL));
}

TEST(Orphan, ChildOfDeadParentIsNotMine) {
  Child middle = Child::run([] {
    if (fork() == 0) _exit(0);
    return 0;
  });
  EXPECT_THAT(middle.wait(), ExitedWith(0));
  EXPECT_THAT(waitpid(-1, nullptr, WNOHANG), FailsWith(ECHILD));
}

}  // namespace
}  // namespace caisson::test
