// Clocks and sleeping: clock_gettime, clock_getres, gettimeofday, time, nanosleep, clock_nanosleep.
#include <linux/time_types.h>
#include <sys/syscall.h>
#include <sys/time.h>
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

int64_t raw_ns(clockid_t clock) {
  timespec time;
  must(syscall(SYS_clock_gettime, clock, &time), "clock_gettime");
  return to_ns(time);
}

TEST(Clock, CallAndLibraryAgree) {
  for (clockid_t clock : {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_TAI}) {
    const int64_t before = raw_ns(clock), library = now_ns(clock), after = raw_ns(clock);
    EXPECT_LE(before, library) << clock;
    EXPECT_LE(library, after) << clock;
  }
}

TEST(Clock, CoarseClocksTrail) {
  const int64_t coarse = raw_ns(CLOCK_MONOTONIC_COARSE), fine = raw_ns(CLOCK_MONOTONIC);
  EXPECT_LE(coarse, fine);
  EXPECT_GT(raw_ns(CLOCK_MONOTONIC_COARSE), fine - 100'000'000);
  const int64_t real_coarse = raw_ns(CLOCK_REALTIME_COARSE), real_fine = raw_ns(CLOCK_REALTIME);
  EXPECT_LE(real_coarse, real_fine);
  EXPECT_GE(raw_ns(CLOCK_MONOTONIC_RAW), 0);
}

TEST(Clock, MonotonicNeverGoesBack) {
  auto loop = [] {
    int64_t last = now_ns();
    for (int i = 0; i < 50'000; ++i) {
      const int64_t now = now_ns();
      ASSERT_GE(now, last);
      last = now;
    }
  };
  std::thread other(loop);
  loop();
  other.join();
}

// What one thread read before, another doesn't read as later.
TEST(Clock, OrderHoldsBetweenThreads) {
  std::atomic<int64_t> published = now_ns();
  std::atomic<bool> stop = false;
  std::thread publisher([&] {
    while (!stop) published = now_ns();
  });
  for (int i = 0; i < 50'000; ++i) {
    const int64_t seen = published;
    ASSERT_GE(now_ns(), seen);
  }
  stop = true;
  publisher.join();
}

TEST(Clock, RealtimeIsPlausible) {
  EXPECT_GT(now_ns(CLOCK_REALTIME), 1'700'000'000LL * 1'000'000'000);
  timeval time;
  ASSERT_THAT(gettimeofday(&time, nullptr), SucceedsWith(0));
  EXPECT_LE(std::abs(time.tv_sec - now_ns(CLOCK_REALTIME) / 1'000'000'000), 1);
  EXPECT_LE(std::abs(::time(nullptr) - time.tv_sec), 1);
  EXPECT_LE(std::abs(syscall(SYS_time, nullptr) - time.tv_sec), 1);
  EXPECT_THAT(syscall(SYS_gettimeofday, &time, nullptr), SucceedsWith(0));
}

TEST(Clock, Errors) {
  timespec time;
  EXPECT_THAT(syscall(SYS_clock_gettime, 999, &time), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, bad_pointer()), FailsWith(EFAULT));
  GuardedPages pages;
  EXPECT_THAT(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, pages.one_past<timespec>()),
              FailsWith(EFAULT));
  EXPECT_THAT(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, pages.last<timespec>()), SucceedsWith(0));
  EXPECT_THAT(syscall(SYS_gettimeofday, bad_pointer(), nullptr), FailsWith(EFAULT));
  EXPECT_THAT(syscall(SYS_time, bad_pointer()), FailsWith(EFAULT));
  time = {0, 0};
  EXPECT_THAT(syscall(SYS_clock_settime, CLOCK_MONOTONIC, &time), FailsWith(EINVAL));
}

TEST(Clock, Resolutions) {
  timespec time = {};
  EXPECT_THAT(clock_getres(CLOCK_MONOTONIC, &time), SucceedsWith(0));
  EXPECT_EQ(to_ns(time), 1);
  EXPECT_THAT(clock_getres(CLOCK_MONOTONIC_COARSE, &time), SucceedsWith(0));
  EXPECT_GE(to_ns(time), 1'000'000);
  EXPECT_THAT(syscall(SYS_clock_getres, CLOCK_REALTIME, nullptr), SucceedsWith(0));
  EXPECT_THAT(syscall(SYS_clock_getres, 999, &time), FailsWith(EINVAL));
}

void burn(int64_t ns) {
  const int64_t end = now_ns(CLOCK_THREAD_CPUTIME_ID) + ns;
  while (now_ns(CLOCK_THREAD_CPUTIME_ID) < end) {
  }
}

TEST(CpuClock, CountsWorkNotSleep) {
  const int64_t start = now_ns(CLOCK_PROCESS_CPUTIME_ID);
  sleep_ms(40);
  EXPECT_LT(now_ns(CLOCK_PROCESS_CPUTIME_ID) - start, 30'000'000);
  burn(20'000'000);
  EXPECT_GE(now_ns(CLOCK_PROCESS_CPUTIME_ID) - start, 15'000'000);
}

TEST(CpuClock, ThreadAndProcess) {
  const int64_t mine = now_ns(CLOCK_THREAD_CPUTIME_ID);
  const int64_t all = now_ns(CLOCK_PROCESS_CPUTIME_ID);
  std::thread([] { burn(20'000'000); }).join();
  EXPECT_LT(now_ns(CLOCK_THREAD_CPUTIME_ID) - mine, 15'000'000);
  EXPECT_GE(now_ns(CLOCK_PROCESS_CPUTIME_ID) - all, 15'000'000);
  clockid_t clock;
  EXPECT_EQ(clock_getcpuclockid(0, &clock), 0);
  EXPECT_GT(now_ns(clock), 0);
}

TEST(Nanosleep, SleepsAtLeastThatLong) {
  for (int64_t us : {1, 100, 2'000, 20'000}) {
    const timespec time = from_ns(us * 1000);
    Stopwatch watch;
    EXPECT_THAT(syscall(SYS_nanosleep, &time, nullptr), SucceedsWith(0));
    EXPECT_GE(watch.us(), us);
    EXPECT_LT(watch.us(), us + 1'000'000);
  }
}

TEST(Nanosleep, Errors) {
  timespec bad[] = {{0, -1}, {0, 1'000'000'000}, {-1, 0}};
  for (timespec& time : bad) {
    EXPECT_THAT(syscall(SYS_nanosleep, &time, nullptr), FailsWith(EINVAL));
    EXPECT_THAT(syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &time, nullptr),
                FailsWith(EINVAL));
  }
  EXPECT_THAT(syscall(SYS_nanosleep, bad_pointer(), nullptr), FailsWith(EFAULT));
  const timespec zero = {};
  EXPECT_THAT(syscall(SYS_clock_nanosleep, 999, 0, &zero, nullptr), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_clock_nanosleep, CLOCK_THREAD_CPUTIME_ID, 0, &zero, nullptr),
              FailsWith(EOPNOTSUPP));
}

// An unused remainder pointer is not looked at.
TEST(Nanosleep, BadRemainderMattersOnlyWhenInterrupted) {
  const timespec time = from_ms(1);
  EXPECT_THAT(syscall(SYS_nanosleep, &time, bad_pointer()), SucceedsWith(0));
  const timespec longer = from_ms(5000);
  const Interrupted outcome = run_interrupted(
      0, [&] { return syscall(SYS_nanosleep, &longer, bad_pointer()); }, [] {});
  EXPECT_EQ(outcome.error, EFAULT);
}

TEST(Nanosleep, RemainderAfterInterrupt) {
  const timespec time = from_ms(5000);
  timespec rest = {};
  const Interrupted outcome = run_interrupted(
      SA_RESTART, [&] { return syscall(SYS_nanosleep, &time, &rest); }, [] {});
  EXPECT_EQ(outcome.error, EINTR);
  EXPECT_LT(to_ns(rest), 5'000'000'000 - 15'000'000);
  EXPECT_GT(to_ns(rest), 3'000'000'000);
}

TEST(Nanosleep, AbsoluteLeavesRemainderAlone) {
  const timespec time = from_ns(now_ns() + 5'000'000'000);
  timespec rest = {77, 77};
  const Interrupted outcome = run_interrupted(
      0, [&] { return syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &time, &rest); },
      [] {});
  EXPECT_EQ(outcome.error, EINTR);
  EXPECT_EQ(rest.tv_sec, 77);
}

TEST(Nanosleep, AbsoluteTimes) {
  for (clockid_t clock : {CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_BOOTTIME}) {
    const int64_t goal = now_ns(clock) + 20'000'000;
    const timespec time = from_ns(goal);
    EXPECT_THAT(syscall(SYS_clock_nanosleep, clock, TIMER_ABSTIME, &time, nullptr),
                SucceedsWith(0));
    EXPECT_GE(now_ns(clock), goal);
  }
  const timespec past = {1, 0};
  Stopwatch watch;
  EXPECT_THAT(syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &past, nullptr),
              SucceedsWith(0));
  EXPECT_LT(watch.ms(), 1000);
}

// In the order of their ends, though they began the other way round. A busy machine may run threads
// that wake close together in another order now and then, but not each time.
TEST(Nanosleep, ManySleepersWakeInOrder) {
  constexpr int kSleepers = 10, kTries = 6;
  std::vector<int> sorted(kSleepers);
  for (int i = 0; i < kSleepers; ++i) sorted[i] = i;
  std::vector<int> order;
  for (int tries = 0; tries < kTries && order != sorted; ++tries) {
    order.assign(kSleepers, -1);
    std::atomic<int> next = 0;
    std::atomic<int> early = 0;
    std::vector<std::thread> sleepers;
    const int64_t start = now_ns() + 60'000'000;
    for (int i = kSleepers - 1; i >= 0; --i) {
      sleepers.emplace_back([&, i] {
        const int64_t end = start + i * 25'000'000LL;
        const timespec time = from_ns(end);
        syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &time, nullptr);
        if (now_ns() < end) ++early;
        order[next++] = i;
      });
    }
    for (std::thread& sleeper : sleepers) sleeper.join();
    EXPECT_EQ(early, 0);
  }
  EXPECT_EQ(order, sorted);
}

TEST(Nanosleep, KillEndsALongSleep) {
  Child child = Child::run([] {
    sleep(1000);
    return 0;
  });
  sleep_ms(10);
  child.kill(SIGTERM);
  EXPECT_THAT(child.wait(), KilledBy(SIGTERM));
}

}  // namespace
}  // namespace caisson::test
