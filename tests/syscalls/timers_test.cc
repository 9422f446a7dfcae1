// alarm, setitimer, timer_create and friends: expiry, intervals, signals, overruns, inheritance.
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <csignal>
#include <ctime>

#include "tests/util/child.h"
#include "tests/util/clock.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"
#include "tests/util/program.h"
#include "tests/util/signals.h"

namespace caisson::test {
namespace {

volatile sig_atomic_t fired;
siginfo_t last;
void count(int, siginfo_t* info, void*) {
  last = *info;
  fired = fired + 1;
}
bool fires(int count) {
  return eventually([count] { return fired >= count; });
}

itimerval us_timer(int64_t first_us, int64_t interval_us = 0) {
  return {{interval_us / 1'000'000, interval_us % 1'000'000},
          {first_us / 1'000'000, first_us % 1'000'000}};
}

TEST(Alarm, ReturnsSecondsLeft) {
  EXPECT_EQ(alarm(100), 0u);
  EXPECT_EQ(alarm(50), 100u);
  sleep_ms(5);
  EXPECT_EQ(alarm(0), 50u);
  EXPECT_EQ(alarm(0), 0u);
}

TEST(Alarm, DefaultActionKills) {
  Child child = Child::run([] {
    const itimerval timer = us_timer(10'000);
    setitimer(ITIMER_REAL, &timer, nullptr);
    while (true) pause();
    return 0;
  });
  EXPECT_THAT(child.wait(), KilledBy(SIGALRM));
}

TEST(Itimer, FiresOnceOrPeriodically) {
  HandlerGuard handler(SIGALRM, count, SA_RESTART);
  fired = 0;
  itimerval timer = us_timer(5'000);
  ASSERT_THAT(setitimer(ITIMER_REAL, &timer, nullptr), SucceedsWith(0));
  EXPECT_TRUE(fires(1));
  EXPECT_EQ(last.si_code, SI_KERNEL);
  sleep_ms(15);
  EXPECT_EQ(fired, 1);
  fired = 0;
  timer = us_timer(5'000, 5'000);
  ASSERT_THAT(setitimer(ITIMER_REAL, &timer, nullptr), SucceedsWith(0));
  EXPECT_TRUE(fires(4));
  itimerval now = {};
  EXPECT_THAT(getitimer(ITIMER_REAL, &now), SucceedsWith(0));
  EXPECT_EQ(now.it_interval.tv_usec, 5'000);
  timer = {};
  itimerval before = {};
  EXPECT_THAT(setitimer(ITIMER_REAL, &timer, &before), SucceedsWith(0));
  EXPECT_EQ(before.it_interval.tv_usec, 5'000);
  const int at_stop = fired;
  sleep_ms(15);
  EXPECT_EQ(fired, at_stop);
}

TEST(Itimer, CpuTimers) {
  const struct {
    int which, signal;
  } cases[] = {{ITIMER_VIRTUAL, SIGVTALRM}, {ITIMER_PROF, SIGPROF}};
  for (const auto& one : cases) {
    HandlerGuard handler(one.signal, count, SA_RESTART);
    fired = 0;
    const itimerval timer = us_timer(10'000);
    ASSERT_THAT(setitimer(one.which, &timer, nullptr), SucceedsWith(0));
    sleep_ms(30);
    EXPECT_EQ(fired, 0);
    Stopwatch watch;
    while (fired == 0 && watch.ms() < 5000) {
    }
    EXPECT_EQ(fired, 1);
  }
}

TEST(Itimer, Errors) {
  itimerval timer = us_timer(1'000'000);
  EXPECT_THAT(setitimer(static_cast<__itimer_which>(9), &timer, nullptr), FailsWith(EINVAL));
  EXPECT_THAT(getitimer(static_cast<__itimer_which>(-1), &timer), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_setitimer, ITIMER_REAL, bad_pointer(), nullptr), FailsWith(EFAULT));
  EXPECT_THAT(syscall(SYS_getitimer, ITIMER_REAL, bad_pointer()), FailsWith(EFAULT));
  timer.it_value.tv_usec = 1'000'000;
  EXPECT_THAT(setitimer(ITIMER_REAL, &timer, nullptr), FailsWith(EINVAL));
  timer.it_value = {-1, 0};
  EXPECT_THAT(setitimer(ITIMER_REAL, &timer, nullptr), FailsWith(EINVAL));
}

int report_alarm(int, char**) { return alarm(0) > 50 ? 31 : 32; }
RegisterProbe report_alarm_probe("report_alarm", report_alarm);

TEST(Itimer, NotInheritedByForkKeptByExec) {
  const auto command = probe_command("report_alarm");
  const auto arguments = exec_vector(command);
  alarm(100);
  Child child = Child::run([&] {
    REQUIRE(alarm(100) == 0);
    execv(arguments[0], arguments.data());
    return 90;
  });
  EXPECT_THAT(child.wait(), ExitedWith(31));
  EXPECT_GT(alarm(0), 90u);
}

// POSIX timers.
class PosixTimer {
 public:
  PosixTimer(clockid_t clock, sigevent* event) {
    must(syscall(SYS_timer_create, clock, event, &id_), "timer_create");
  }
  ~PosixTimer() { syscall(SYS_timer_delete, id_); }
  long set(int64_t first_ns, int64_t interval_ns = 0, int flags = 0, itimerspec* old = nullptr) {
    const itimerspec time = {from_ns(interval_ns), from_ns(first_ns)};
    return syscall(SYS_timer_settime, id_, flags, &time, old);
  }
  itimerspec get() {
    itimerspec time = {};
    must(syscall(SYS_timer_gettime, id_, &time), "timer_gettime");
    return time;
  }
  long overrun() { return syscall(SYS_timer_getoverrun, id_); }
  int id() const { return id_; }

 private:
  int id_ = -1;
};

sigevent signal_event(int signal, int value) {
  sigevent event = {};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = signal;
  event.sigev_value.sival_int = value;
  return event;
}

TEST(PosixTimer, SignalCarriesValueAndId) {
  HandlerGuard handler(SIGUSR1, count, SA_RESTART);
  fired = 0;
  sigevent event = signal_event(SIGUSR1, 99);
  PosixTimer timer(CLOCK_MONOTONIC, &event);
  ASSERT_THAT(timer.set(5'000'000), SucceedsWith(0));
  ASSERT_TRUE(fires(1));
  EXPECT_EQ(last.si_code, SI_TIMER);
  EXPECT_EQ(last.si_value.sival_int, 99);
  EXPECT_EQ(last.si_timerid, timer.id());
  EXPECT_EQ(to_ns(timer.get().it_value), 0);
}

TEST(PosixTimer, DefaultEventIsSigalrm) {
  HandlerGuard handler(SIGALRM, count, SA_RESTART);
  fired = 0;
  PosixTimer timer(CLOCK_REALTIME, nullptr);
  ASSERT_THAT(timer.set(5'000'000), SucceedsWith(0));
  ASSERT_TRUE(fires(1));
  EXPECT_EQ(last.si_value.sival_int, timer.id());
}

TEST(PosixTimer, AbsoluteAndPast) {
  HandlerGuard handler(SIGUSR1, count, SA_RESTART);
  fired = 0;
  sigevent event = signal_event(SIGUSR1, 0);
  PosixTimer timer(CLOCK_MONOTONIC, &event);
  const int64_t goal = now_ns() + 10'000'000;
  ASSERT_THAT(timer.set(goal, 0, TIMER_ABSTIME), SucceedsWith(0));
  ASSERT_TRUE(fires(1));
  EXPECT_GE(now_ns(), goal);
  ASSERT_THAT(timer.set(1, 0, TIMER_ABSTIME), SucceedsWith(0));
  EXPECT_TRUE(fires(2));
}

TEST(PosixTimer, GetAndDisarm) {
  sigevent event = signal_event(SIGUSR1, 0);
  PosixTimer timer(CLOCK_MONOTONIC, &event);
  ASSERT_THAT(timer.set(5'000'000'000, 1'000'000), SucceedsWith(0));
  const itimerspec now = timer.get();
  EXPECT_EQ(to_ns(now.it_interval), 1'000'000);
  EXPECT_GT(to_ns(now.it_value), 4'000'000'000);
  EXPECT_LE(to_ns(now.it_value), 5'000'000'000);
  itimerspec old = {};
  ASSERT_THAT(timer.set(0, 0, 0, &old), SucceedsWith(0));
  EXPECT_GT(to_ns(old.it_value), 4'000'000'000);
  EXPECT_EQ(to_ns(timer.get().it_value), 0);
}

TEST(PosixTimer, OverrunsAreCounted) {
  HandlerGuard handler(SIGUSR1, count, SA_RESTART);
  sigevent event = signal_event(SIGUSR1, 0);
  PosixTimer timer(CLOCK_MONOTONIC, &event);
  fired = 0;
  {
    MaskGuard blocked(SIG_BLOCK, {SIGUSR1});
    ASSERT_THAT(timer.set(1'000'000, 1'000'000), SucceedsWith(0));
    sleep_ms(30);
  }
  EXPECT_GE(fired, 1);
  EXPECT_LT(fired, 20);
  EXPECT_GE(timer.overrun(), 0);
  timer.set(0);
  EXPECT_GE(last.si_overrun, 0);
}

TEST(PosixTimer, ThreadDirected) {
  HandlerGuard handler(SIGUSR1, count, SA_RESTART);
  fired = 0;
  sigevent event = signal_event(SIGUSR1, 0);
  event.sigev_notify = SIGEV_THREAD_ID;
  event._sigev_un._tid = gettid_now();
  PosixTimer timer(CLOCK_MONOTONIC, &event);
  timer.set(5'000'000);
  EXPECT_TRUE(fires(1));
}

TEST(PosixTimer, Errors) {
  int id;
  sigevent event = signal_event(65, 0);
  EXPECT_THAT(syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &id), FailsWith(EINVAL));
  event = signal_event(SIGUSR1, 0);
  event.sigev_notify = 77;
  EXPECT_THAT(syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &id), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_timer_create, 999, nullptr, &id), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_timer_create, CLOCK_MONOTONIC, bad_pointer(), &id), FailsWith(EFAULT));
  EXPECT_THAT(syscall(SYS_timer_create, CLOCK_MONOTONIC, nullptr, bad_pointer()),
              FailsWith(EFAULT));
  itimerspec time = {};
  EXPECT_THAT(syscall(SYS_timer_gettime, 12'345, &time), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_timer_settime, 12'345, 0, &time, nullptr), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_timer_delete, 12'345), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_timer_getoverrun, 12'345), FailsWith(EINVAL));
  event.sigev_notify = SIGEV_NONE;
  PosixTimer timer(CLOCK_MONOTONIC, &event);
  time.it_value.tv_nsec = 1'000'000'000;
  EXPECT_THAT(syscall(SYS_timer_settime, timer.id(), 0, &time, nullptr), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_timer_settime, timer.id(), 0, bad_pointer(), nullptr), FailsWith(EFAULT));
}

TEST(PosixTimer, NotInheritedByFork) {
  sigevent event = {};
  event.sigev_notify = SIGEV_NONE;
  PosixTimer timer(CLOCK_MONOTONIC, &event);
  Child child = Child::run([&] {
    itimerspec time;
    REQUIRE(syscall(SYS_timer_gettime, timer.id(), &time) == -1 && errno == EINVAL);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

}  // namespace
}  // namespace caisson::test
