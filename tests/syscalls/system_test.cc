// Limits and facts: rlimits, uname, sysinfo, times, getrusage, sched_*, priorities, getcpu, prctl
// basics.
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/times.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <thread>

#include "tests/util/child.h"
#include "tests/util/clock.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"
#include "tests/util/signals.h"

namespace caisson::test {
namespace {

void burn_ms(int64_t ms) {
  const int64_t end = now_ns(CLOCK_PROCESS_CPUTIME_ID) + ms * 1'000'000;
  while (now_ns(CLOCK_PROCESS_CPUTIME_ID) < end) {
  }
}

TEST(Rlimit, GetSetAndInherit) {
  Child child = Child::run([] {
    rlimit limit = {50, 100}, now = {};
    REQUIRE(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    REQUIRE(getrlimit(RLIMIT_NOFILE, &now) == 0 && now.rlim_cur == 50 && now.rlim_max == 100);
    Child inner = Child::run([] {
      rlimit mine;
      getrlimit(RLIMIT_NOFILE, &mine);
      return static_cast<int>(mine.rlim_cur);
    });
    REQUIRE(WEXITSTATUS(inner.wait()) == 50);
    limit.rlim_cur = 101;
    REQUIRE(setrlimit(RLIMIT_NOFILE, &limit) == -1 && errno == EINVAL);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

TEST(Rlimit, RaisingTheHardLimitNeedsPrivilege) {
  Child child = Child::run([] {
    rlimit limit = {50, 100};
    REQUIRE(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    if (geteuid() == 0) REQUIRE(setresuid(12'345, 12'345, 12'345) == 0);
    limit.rlim_max = 200;
    REQUIRE(setrlimit(RLIMIT_NOFILE, &limit) == -1 && errno == EPERM);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

TEST(Rlimit, Errors) {
  rlimit limit;
  EXPECT_THAT(syscall(SYS_getrlimit, 99, &limit), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_setrlimit, 99, &limit), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_getrlimit, RLIMIT_NOFILE, bad_pointer()), FailsWith(EFAULT));
  EXPECT_THAT(syscall(SYS_setrlimit, RLIMIT_NOFILE, bad_pointer()), FailsWith(EFAULT));
  EXPECT_THAT(syscall(SYS_prlimit64, 0x3fff'ffff, RLIMIT_NOFILE, nullptr, &limit),
              FailsWith(ESRCH));
  EXPECT_THAT(syscall(SYS_prlimit64, 0, RLIMIT_STACK, nullptr, &limit), SucceedsWith(0));
}

TEST(Rlimit, CpuTimeLimitKills) {
  Child child = Child::run([] {
    const rlimit limit = {1, 1};
    setrlimit(RLIMIT_CPU, &limit);
    burn_ms(10'000);
    return 0;
  });
  EXPECT_THAT(child.wait(), KilledBy(SIGKILL));
}

TEST(Uname, LooksLikeLinux) {
  utsname names = {};
  ASSERT_THAT(uname(&names), SucceedsWith(0));
  EXPECT_STREQ(names.sysname, "Linux");
  EXPECT_STREQ(names.machine, "x86_64");
  int major = 0, minor = 0;
  EXPECT_EQ(std::sscanf(names.release, "%d.%d", &major, &minor), 2);
  EXPECT_GE(major, 4);
  EXPECT_GT(std::strlen(names.nodename), 0u);
  EXPECT_GT(std::strlen(names.version), 0u);
  EXPECT_THAT(syscall(SYS_uname, bad_pointer()), FailsWith(EFAULT));
  GuardedPages pages;
  EXPECT_THAT(syscall(SYS_uname, pages.one_past<utsname>()), FailsWith(EFAULT));
}

TEST(Sysinfo, IsPlausible) {
  struct sysinfo info = {};
  ASSERT_THAT(sysinfo(&info), SucceedsWith(0));
  EXPECT_GT(info.uptime, 0);
  EXPECT_GT(info.totalram, 1u << 20);
  EXPECT_LE(info.freeram, info.totalram);
  EXPECT_GT(info.procs, 0);
  EXPECT_GT(info.mem_unit, 0u);
  EXPECT_THAT(syscall(SYS_sysinfo, bad_pointer()), FailsWith(EFAULT));
}

TEST(Times, CountOwnAndChildrensWork) {
  tms before = {}, after = {};
  const clock_t start = times(&before);
  EXPECT_GT(start, 0);
  burn_ms(40);
  Child child = Child::run([] {
    burn_ms(40);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
  EXPECT_GE(times(&after), start + 5);
  EXPECT_GE(after.tms_utime + after.tms_stime - before.tms_utime - before.tms_stime, 2);
  EXPECT_GE(after.tms_cutime + after.tms_cstime - before.tms_cutime - before.tms_cstime, 2);
  EXPECT_THAT(syscall(SYS_times, bad_pointer()), FailsWith(EFAULT));
  EXPECT_GT(syscall(SYS_times, nullptr), 0);
}

TEST(Getrusage, SelfThreadAndErrors) {
  rusage usage = {};
  burn_ms(20);
  ASSERT_THAT(getrusage(RUSAGE_SELF, &usage), SucceedsWith(0));
  EXPECT_GT(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec + usage.ru_utime.tv_sec, 0);
  EXPECT_GT(usage.ru_maxrss, 100);
  std::thread([] {
    rusage mine = {};
    ASSERT_THAT(getrusage(RUSAGE_THREAD, &mine), SucceedsWith(0));
    EXPECT_EQ(mine.ru_utime.tv_sec, 0);
    EXPECT_LT(mine.ru_utime.tv_usec, 15'000);
  }).join();
  EXPECT_THAT(syscall(SYS_getrusage, 99, &usage), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_getrusage, RUSAGE_SELF, bad_pointer()), FailsWith(EFAULT));
}

TEST(Sched, AffinityAndCpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  EXPECT_GT(syscall(SYS_sched_getaffinity, 0, sizeof(set), &set), 0);
  const int count = CPU_COUNT(&set);
  ASSERT_GE(count, 1);
  EXPECT_EQ(sysconf(_SC_NPROCESSORS_ONLN) >= count, true);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &set)) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    ASSERT_THAT(sched_setaffinity(0, sizeof(one), &one), SucceedsWith(0));
    EXPECT_EQ(sched_getcpu(), cpu);
    unsigned raw = ~0u;
    EXPECT_THAT(syscall(SYS_getcpu, &raw, nullptr, nullptr), SucceedsWith(0));
    EXPECT_EQ(raw, static_cast<unsigned>(cpu));
  }
  ASSERT_THAT(sched_setaffinity(0, sizeof(set), &set), SucceedsWith(0));
  EXPECT_THAT(syscall(SYS_sched_getaffinity, 0, 1, &set), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_sched_getaffinity, 0x3fff'ffff, sizeof(set), &set), FailsWith(ESRCH));
  cpu_set_t none;
  CPU_ZERO(&none);
  EXPECT_THAT(sched_setaffinity(0, sizeof(none), &none), FailsWith(EINVAL));
}

// Another thread's, while it runs and makes no call; a child has its parent's.
TEST(Sched, AffinityOfAnotherThreadAndOfAChild) {
  cpu_set_t all;
  ASSERT_THAT(sched_getaffinity(0, sizeof all, &all), SucceedsWith(0));
  std::atomic<pid_t> thread{0};
  std::atomic<int> seen{-1};
  std::atomic<bool> stop{false};
  std::thread spinner([&] {
    thread = static_cast<pid_t>(syscall(SYS_gettid));
    while (!stop) seen = sched_getcpu();
  });
  while (thread == 0) usleep(100);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &all)) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    ASSERT_THAT(sched_setaffinity(thread, sizeof one, &one), SucceedsWith(0));
    for (int i = 0; i < 500 && seen != cpu; ++i) usleep(1000);
    EXPECT_EQ(seen, cpu);
    ASSERT_THAT(sched_setaffinity(0, sizeof one, &one), SucceedsWith(0));
    auto child = Child::run([&] {
      cpu_set_t mine;
      REQUIRE(sched_getaffinity(0, sizeof mine, &mine) == 0);
      return CPU_EQUAL(&mine, &one) && sched_getcpu() == cpu ? 0 : 1;
    });
    EXPECT_EQ(child.wait(), 0);
  }
  stop = true;
  spinner.join();
  ASSERT_THAT(sched_setaffinity(0, sizeof all, &all), SucceedsWith(0));
}

TEST(Sched, YieldAndPolicy) {
  EXPECT_THAT(sched_yield(), SucceedsWith(0));
  EXPECT_THAT(sched_getscheduler(0), SucceedsWith(SCHED_OTHER));
  EXPECT_THAT(sched_get_priority_max(SCHED_FIFO), SucceedsWith(99));
  EXPECT_THAT(sched_get_priority_min(SCHED_FIFO), SucceedsWith(1));
  EXPECT_THAT(sched_get_priority_max(SCHED_OTHER), SucceedsWith(0));
  EXPECT_THAT(sched_get_priority_max(77), FailsWith(EINVAL));
  sched_param param = {};
  EXPECT_THAT(sched_getparam(0, &param), SucceedsWith(0));
  EXPECT_EQ(param.sched_priority, 0);
  param.sched_priority = 5;
  EXPECT_THAT(sched_setscheduler(0, SCHED_OTHER, &param), FailsWith(EINVAL));
}

TEST(Priority, NiceIsKeptAndInherited) {
  Child child = Child::run([] {
    REQUIRE(setpriority(PRIO_PROCESS, 0, 5) == 0);
    errno = 0;
    REQUIRE(getpriority(PRIO_PROCESS, 0) == 5 && errno == 0);
    Child inner = Child::run([] { return getpriority(PRIO_PROCESS, 0); });
    REQUIRE(WEXITSTATUS(inner.wait()) == 5);
    REQUIRE(setpriority(PRIO_PROCESS, 0, 100) == 0);
    REQUIRE(getpriority(PRIO_PROCESS, 0) == 19);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
  EXPECT_THAT(getpriority(static_cast<__priority_which>(9), 0), FailsWith(EINVAL));
  EXPECT_THAT(getpriority(PRIO_PROCESS, 0x3fff'ffff), FailsWith(ESRCH));
}

TEST(Prctl, NamesBelongToThreads) {
  char name[17] = {};
  prctl(PR_SET_NAME, "a-name-longer-than-fifteen");
  prctl(PR_GET_NAME, name);
  EXPECT_STREQ(name, "a-name-longer-t");
  std::thread([] {
    char mine[17] = {};
    prctl(PR_GET_NAME, mine);
    EXPECT_STREQ(mine, "a-name-longer-t");
    prctl(PR_SET_NAME, "other");
  }).join();
  prctl(PR_GET_NAME, name);
  EXPECT_STREQ(name, "a-name-longer-t");
  EXPECT_THAT(prctl(PR_SET_NAME, bad_pointer()), FailsWith(EFAULT));
  EXPECT_THAT(prctl(PR_GET_NAME, bad_pointer()), FailsWith(EFAULT));
}

TEST(Prctl, DumpableKeepcapsNoNewPrivs) {
  Child child = Child::run([] {
    REQUIRE(prctl(PR_GET_DUMPABLE) == 1);
    REQUIRE(prctl(PR_SET_DUMPABLE, 0) == 0 && prctl(PR_GET_DUMPABLE) == 0);
    REQUIRE(prctl(PR_SET_DUMPABLE, 2) == -1 && errno == EINVAL);
    REQUIRE(prctl(PR_SET_KEEPCAPS, 1) == 0 && prctl(PR_GET_KEEPCAPS) == 1);
    REQUIRE(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    REQUIRE(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
    REQUIRE(prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0) == -1 && errno == EINVAL);
    REQUIRE(prctl(PR_SET_NO_NEW_PRIVS, 1, 1, 0, 0) == -1 && errno == EINVAL);
    Child inner = Child::run([] { return prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); });
    REQUIRE(WEXITSTATUS(inner.wait()) == 1);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
  EXPECT_THAT(prctl(987'654), FailsWith(EINVAL));
}

TEST(Sync, SucceedsOnFilesOnly) {
  EXPECT_THAT(fsync(-1), FailsWith(EBADF));
  Pipe pipe = must_pipe();
  EXPECT_THAT(fsync(pipe.write_end.get()), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_sync), SucceedsWith(0));
}

}  // namespace
}  // namespace caisson::test
