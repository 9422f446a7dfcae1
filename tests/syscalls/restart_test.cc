// What a handler does to every kind of blocking call: which fail with EINTR, which start again
// under SA_RESTART, and which go on by themselves when only a stop and continue came between.
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <memory>
#include <thread>

#include "tests/util/child.h"
#include "tests/util/clock.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"
#include "tests/util/signals.h"
#include "tests/util/temp_dir.h"

namespace caisson::test {
namespace {

enum class OnHandler { kAlwaysEintr, kRestarts };

// One blocking call in a fresh setting. `call` blocks until `release`.
struct Blocking {
  virtual ~Blocking() = default;
  virtual long call() = 0;
  virtual void release() = 0;
  virtual OnHandler rule() const { return OnHandler::kRestarts; }
};

struct PipeRead : Blocking {
  Pipe pipe = must_pipe();
  char byte = 0;
  long call() override { return read(pipe.read_end.get(), &byte, 1); }
  void release() override { write_all(pipe.write_end.get(), "x"); }
};
struct PipeReadv : PipeRead {
  long call() override {
    iovec vector = {&byte, 1};
    return readv(pipe.read_end.get(), &vector, 1);
  }
};
struct PipeWrite : Blocking {
  Pipe pipe = must_pipe();
  PipeWrite() { fill_pipe(pipe.write_end.get()); }
  long call() override { return write(pipe.write_end.get(), "x", 1); }
  void release() override {
    char sink[8192];
    must(read(pipe.read_end.get(), sink, sizeof(sink)), "read");
  }
};
struct PipeWritev : PipeWrite {
  long call() override {
    char byte = 'x';
    iovec vector = {&byte, 1};
    return writev(pipe.write_end.get(), &vector, 1);
  }
};
struct FifoOpen : Blocking {
  TempDir dir;
  UniqueFd other;
  FifoOpen() { must(mkfifo(dir.file("fifo").c_str(), 0600), "mkfifo"); }
  long call() override { return UniqueFd(open(dir.file("fifo").c_str(), O_RDONLY)).get(); }
  void release() override {
    // Opens both ends, so it never blocks itself.
    other = must_open(dir.file("fifo"), O_RDWR);
    sleep_ms(20);
  }
};
struct Flock : Blocking {
  TempDir dir;
  UniqueFd holder = must_open(dir.file("lock"), O_RDWR | O_CREAT);
  UniqueFd waiter = must_open(dir.file("lock"), O_RDWR);
  Flock() { must(flock(holder.get(), LOCK_EX), "flock"); }
  long call() override { return flock(waiter.get(), LOCK_EX); }
  void release() override { must(flock(holder.get(), LOCK_UN), "flock"); }
};
struct WaitChild : Blocking {
  Child child = Child::run([]() -> int {
    while (true) pause();
  });
  long call() override { return waitpid(child.pid(), nullptr, 0); }
  void release() override { kill(child.pid(), SIGKILL); }
};
struct WaitidChild : WaitChild {
  long call() override { return waitid(P_PID, child.pid(), nullptr, WEXITED | WNOWAIT); }
};
struct FutexWait : Blocking {
  uint32_t word = 0;
  long call() override { return syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, nullptr); }
  void release() override { syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1); }
};
struct SharedFutexWait : Blocking {
  Mapping page = Mapping::shared(kPageSize);
  long call() override { return syscall(SYS_futex, page.address(), FUTEX_WAIT, 0, nullptr); }
  void release() override { syscall(SYS_futex, page.address(), FUTEX_WAKE, 1); }
};
// With a timeout a handler ends the wait; a stop alone doesn't (it goes on with the time that is
// left).
struct FutexTimedWait : FutexWait {
  OnHandler rule() const override { return OnHandler::kAlwaysEintr; }
  long call() override {
    timespec limit = from_ms(5000);
    return syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &limit);
  }
};

struct AlwaysEintr : Blocking {
  OnHandler rule() const override { return OnHandler::kAlwaysEintr; }
  void release() override {}
};
struct Pause : AlwaysEintr {
  long call() override { return pause(); }
};
struct Sigsuspend : AlwaysEintr {
  long call() override {
    const sigset_t open = signal_set({});
    return sigsuspend(&open);
  }
};
struct Sigtimedwait : AlwaysEintr {
  long call() override {
    const sigset_t set = signal_set({SIGUSR2});
    const timespec limit = from_ms(5000);
    return sigtimedwait(&set, nullptr, &limit);
  }
};
struct Poll : AlwaysEintr {
  Pipe pipe = must_pipe();
  long call() override {
    pollfd entry = {pipe.read_end.get(), POLLIN, 0};
    return poll(&entry, 1, 5000);
  }
};
struct Ppoll : AlwaysEintr {
  long call() override {
    const timespec limit = from_ms(5000);
    return ppoll(nullptr, 0, &limit, nullptr);
  }
};
struct Select : AlwaysEintr {
  long call() override {
    timeval limit = {5, 0};
    return select(0, nullptr, nullptr, nullptr, &limit);
  }
};
struct Pselect : AlwaysEintr {
  long call() override {
    const timespec limit = from_ms(5000);
    return pselect(0, nullptr, nullptr, nullptr, &limit, nullptr);
  }
};
struct Nanosleep : AlwaysEintr {
  long call() override {
    const timespec time = from_ms(5000);
    return syscall(SYS_nanosleep, &time, nullptr);
  }
};
struct ClockNanosleepAbsolute : AlwaysEintr {
  long call() override {
    const timespec time = from_ns(now_ns() + 5'000'000'000);
    return syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &time, nullptr);
  }
};

struct Case {
  const char* name;
  std::unique_ptr<Blocking> (*make)();
};
template <typename T>
Case make_case(const char* name) {
  return {name, [] { return std::unique_ptr<Blocking>(std::make_unique<T>()); }};
}

class Restart : public ::testing::TestWithParam<Case> {};
// The calls that something can release.
class Transparent : public ::testing::TestWithParam<Case> {};

TEST_P(Restart, HandlerWithoutRestart) {
  auto blocking = GetParam().make();
  const Interrupted outcome = run_interrupted(
      0, [&] { return blocking->call(); }, [&] { blocking->release(); });
  EXPECT_EQ(outcome.handler_runs, 1);
  EXPECT_EQ(outcome.result, -1);
  EXPECT_EQ(errno_name(outcome.error), errno_name(EINTR));
}

TEST_P(Restart, HandlerWithRestart) {
  auto blocking = GetParam().make();
  const Interrupted outcome = run_interrupted(
      SA_RESTART, [&] { return blocking->call(); }, [&] { blocking->release(); });
  EXPECT_EQ(outcome.handler_runs, 1);
  if (blocking->rule() == OnHandler::kAlwaysEintr) {
    EXPECT_EQ(outcome.result, -1);
    EXPECT_EQ(errno_name(outcome.error), errno_name(EINTR));
  } else {
    EXPECT_GE(outcome.result, 0) << errno_name(outcome.error);
    EXPECT_GE(outcome.elapsed_ms, 45);
  }
}

// An ignored signal, and one whose default is to be ignored, wake nobody.
TEST_P(Transparent, IgnoredSignalsDoNotInterrupt) {
  auto blocking = GetParam().make();
  HandlerGuard ignored(SIGUSR2, SIG_IGN);
  const pid_t tid = gettid_now();
  Stopwatch watch;
  Later later(10, [&] {
    for (int signal : {SIGUSR2, SIGURG, SIGWINCH, SIGCONT}) tgkill_now(getpid(), tid, signal);
    sleep_ms(10);
    blocking->release();
  });
  EXPECT_THAT(blocking->call(), Succeeds());
  EXPECT_GE(watch.ms(), 19);
}

// A stop and continue without handlers is transparent, except where signal(7) lists the call.
TEST_P(Transparent, StopAndContinueIsTransparent) {
  Child child = Child::run([] {
    auto blocking = GetParam().make();
    std::thread releaser([&] {
      sleep_ms(60);
      blocking->release();
    });
    const long result = blocking->call();
    releaser.join();
    REQUIRE(result >= 0);
    return 0;
  });
  sleep_ms(15);
  child.kill(SIGSTOP);
  EXPECT_THAT(child.wait_event(WUNTRACED), StoppedBy(SIGSTOP));
  child.kill(SIGCONT);
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

std::string case_name(const ::testing::TestParamInfo<Case>& info) { return info.param.name; }

const Case kReleased[] = {
    make_case<PipeRead>("PipeRead"),
    make_case<PipeReadv>("PipeReadv"),
    make_case<PipeWrite>("PipeWrite"),
    make_case<PipeWritev>("PipeWritev"),
    make_case<FifoOpen>("FifoOpen"),
    make_case<Flock>("Flock"),
    make_case<WaitChild>("WaitChild"),
    make_case<WaitidChild>("WaitidChild"),
    make_case<FutexWait>("FutexWait"),
    make_case<SharedFutexWait>("SharedFutexWait"),
    make_case<FutexTimedWait>("FutexTimedWait"),
};
const Case kUnreleased[] = {
    make_case<Pause>("Pause"),
    make_case<Sigsuspend>("Sigsuspend"),
    make_case<Sigtimedwait>("Sigtimedwait"),
    make_case<Poll>("Poll"),
    make_case<Ppoll>("Ppoll"),
    make_case<Select>("Select"),
    make_case<Pselect>("Pselect"),
    make_case<Nanosleep>("Nanosleep"),
    make_case<ClockNanosleepAbsolute>("ClockNanosleepAbsolute"),
};
INSTANTIATE_TEST_SUITE_P(Released, Restart, ::testing::ValuesIn(kReleased), case_name);
INSTANTIATE_TEST_SUITE_P(Unreleased, Restart, ::testing::ValuesIn(kUnreleased), case_name);
INSTANTIATE_TEST_SUITE_P(Released, Transparent, ::testing::ValuesIn(kReleased), case_name);

// Prints the case by name rather than by its bytes.
void PrintTo(const Case& one, std::ostream* out) { *out << one.name; }

// Sleeps and timed polls go on after a stop, with the time that is left.
TEST(RestartBlock, StoppedSleepKeepsItsEnd) {
  Child child = Child::run([] {
    const int64_t start_ms = now_ms();
    const timespec time = from_ms(80);
    REQUIRE(syscall(SYS_nanosleep, &time, nullptr) == 0);
    const int64_t took_ms = now_ms() - start_ms;
    REQUIRE(took_ms >= 79 && took_ms < 3000);
    return 0;
  });
  sleep_ms(15);
  child.kill(SIGSTOP);
  EXPECT_THAT(child.wait_event(WUNTRACED), StoppedBy(SIGSTOP));
  child.kill(SIGCONT);
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

TEST(RestartBlock, StoppedPollKeepsItsEnd) {
  Child child = Child::run([] {
    const int64_t start_ms = now_ms();
    REQUIRE(poll(nullptr, 0, 80) == 0);
    REQUIRE(now_ms() - start_ms >= 79);
    return 0;
  });
  sleep_ms(15);
  child.kill(SIGSTOP);
  EXPECT_THAT(child.wait_event(WUNTRACED), StoppedBy(SIGSTOP));
  child.kill(SIGCONT);
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

TEST(RestartBlock, CallWithoutAWaitFails) {
  EXPECT_THAT(syscall(SYS_restart_syscall), FailsWith(EINTR));
}

}  // namespace
}  // namespace caisson::test
