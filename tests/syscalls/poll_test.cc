// poll, ppoll, select, pselect6: readiness, timeouts, masks, errors, interruption.
#include <poll.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>
#include <thread>

#include "tests/util/child.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"
#include "tests/util/signals.h"
#include "tests/util/temp_dir.h"

namespace caisson::test {
namespace {

short poll_once(int fd, short events, int timeout_ms = 0) {
  pollfd entry = {fd, events, 0};
  must(poll(&entry, 1, timeout_ms), "poll");
  return entry.revents;
}

TEST(Poll, PipeEnds) {
  Pipe pipe = must_pipe();
  EXPECT_EQ(poll_once(pipe.read_end.get(), POLLIN), 0);
  EXPECT_EQ(poll_once(pipe.write_end.get(), POLLOUT), POLLOUT);
  write_all(pipe.write_end.get(), "x");
  EXPECT_EQ(poll_once(pipe.read_end.get(), POLLIN | POLLRDNORM), POLLIN | POLLRDNORM);
  fill_pipe(pipe.write_end.get());
  EXPECT_EQ(poll_once(pipe.write_end.get(), POLLOUT), 0);
  read(pipe.read_end.get(), std::string(8192, ' ').data(), 8192);
  EXPECT_EQ(poll_once(pipe.write_end.get(), POLLOUT), POLLOUT);
}

TEST(Poll, HangUpAndError) {
  Pipe pipe = must_pipe();
  write_all(pipe.write_end.get(), "x");
  pipe.write_end.reset();
  EXPECT_EQ(poll_once(pipe.read_end.get(), POLLIN), POLLIN | POLLHUP);
  char byte;
  must(read(pipe.read_end.get(), &byte, 1), "read");
  EXPECT_EQ(poll_once(pipe.read_end.get(), 0), POLLHUP);
  Pipe broken = must_pipe();
  broken.read_end.reset();
  EXPECT_EQ(poll_once(broken.write_end.get(), POLLOUT), POLLOUT | POLLERR);
}

TEST(Poll, RegularFilesAreAlwaysReady) {
  TempDir dir;
  UniqueFd fd = must_open(dir.file("f"), O_RDWR | O_CREAT);
  EXPECT_EQ(poll_once(fd.get(), POLLIN | POLLOUT), POLLIN | POLLOUT);
}

TEST(Poll, NegativeAndClosedDescriptors) {
  pollfd entries[] = {{-1, POLLIN, 77}, {9'999, POLLIN, 0}};
  EXPECT_THAT(poll(entries, 2, -1), SucceedsWith(1));
  EXPECT_EQ(entries[0].revents, 0);
  EXPECT_EQ(entries[1].revents, POLLNVAL);
}

TEST(Poll, TimeoutsPass) {
  Pipe pipe = must_pipe();
  pollfd entry = {pipe.read_end.get(), POLLIN, 0};
  Stopwatch watch;
  EXPECT_THAT(poll(&entry, 1, 30), SucceedsWith(0));
  EXPECT_GE(watch.ms(), 29);
  EXPECT_LT(watch.ms(), 2000);
  EXPECT_THAT(poll(nullptr, 0, 5), SucceedsWith(0));
  timespec pause = from_ms(5);
  EXPECT_THAT(ppoll(nullptr, 0, &pause, nullptr), SucceedsWith(0));
}

TEST(Poll, WakesOnWriteFromAnotherThread) {
  Pipe pipe = must_pipe();
  Later later(20, [&] { write_all(pipe.write_end.get(), "x"); });
  EXPECT_EQ(poll_once(pipe.read_end.get(), POLLIN, 5000), POLLIN);
}

TEST(Poll, WakesOnHangUpFromAnotherProcess) {
  Pipe pipe = must_pipe();
  Child child = Child::run([&] {
    sleep_ms(20);
    return 0;
  });
  pipe.write_end.reset();
  EXPECT_EQ(poll_once(pipe.read_end.get(), POLLIN, 5000), POLLHUP);
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

TEST(Poll, Errors) {
  GuardedPages pages;
  EXPECT_THAT(poll(bad_pointer_to<pollfd>(), 1, 0), FailsWith(EFAULT));
  EXPECT_THAT(poll(pages.one_past<pollfd>(), 1, 0), FailsWith(EFAULT));
  EXPECT_THAT(poll(pages.one_before<pollfd>(), 1, 0), FailsWith(EFAULT));
  EXPECT_THAT(poll(nullptr, 1u << 30, 0), FailsWith(EINVAL));
  timespec bad[] = {{-1, 0}, {0, -1}, {0, 1'000'000'000}};
  for (timespec& time : bad) EXPECT_THAT(ppoll(nullptr, 0, &time, nullptr), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_ppoll, nullptr, 0, bad_pointer(), nullptr, 8), FailsWith(EFAULT));
  timespec zero = {};
  EXPECT_THAT(syscall(SYS_ppoll, nullptr, 0, &zero, &zero, 7), FailsWith(EINVAL));
}

TEST(Poll, CountAboveLimitIsRefused) {
  Child child = Child::run([] {
    rlimit limit = {8, 8};
    REQUIRE(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    pollfd entries[9];
    for (pollfd& entry : entries) entry = {-1, 0, 0};
    REQUIRE(poll(entries, 9, 0) == -1 && errno == EINVAL);
    REQUIRE(poll(entries, 8, 0) == 0);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

// poll and select are never restarted after a handler, whatever SA_RESTART says (signal(7)).
TEST(Poll, InterruptedFailsWithEintr) {
  Pipe pipe = must_pipe();
  for (int flags : {0, SA_RESTART}) {
    pollfd entry = {pipe.read_end.get(), POLLIN, 0};
    Interrupted outcome = run_interrupted(
        flags, [&] { return poll(&entry, 1, 5000); }, [] {});
    EXPECT_EQ(outcome.result, -1);
    EXPECT_EQ(outcome.error, EINTR);
    EXPECT_LT(outcome.elapsed_ms, 2000);
    timespec time = from_ms(5000);
    outcome = run_interrupted(
        flags, [&] { return ppoll(&entry, 1, &time, nullptr); }, [] {});
    EXPECT_EQ(outcome.error, EINTR);
    fd_set set;
    FD_ZERO(&set);
    FD_SET(pipe.read_end.get(), &set);
    outcome = run_interrupted(
        flags, [&] { return select(entry.fd + 1, &set, nullptr, nullptr, nullptr); }, [] {});
    EXPECT_EQ(outcome.error, EINTR);
  }
}

volatile sig_atomic_t usr1_seen;
void note_usr1(int) { usr1_seen = usr1_seen + 1; }

// The mask of ppoll is in force during the wait only, and a signal pending before is taken at once.
TEST(Poll, PpollMaskOpensPendingSignal) {
  usr1_seen = 0;
  HandlerGuard handler(SIGUSR1, note_usr1);
  MaskGuard blocked(SIG_BLOCK, {SIGUSR1});
  raise(SIGUSR1);
  EXPECT_EQ(usr1_seen, 0);
  const sigset_t open = signal_set({});
  timespec time = from_ms(5000);
  EXPECT_THAT(ppoll(nullptr, 0, &time, &open), FailsWith(EINTR));
  EXPECT_EQ(usr1_seen, 1);
  sigset_t now;
  pthread_sigmask(SIG_SETMASK, nullptr, &now);
  EXPECT_TRUE(sigismember(&now, SIGUSR1));
}

TEST(Poll, PpollMaskHoldsSignalBack) {
  usr1_seen = 0;
  HandlerGuard handler(SIGUSR1, note_usr1);
  const sigset_t closed = signal_set({SIGUSR1});
  const pid_t tid = gettid_now();
  Later later(10, [tid] { tgkill_now(getpid(), tid, SIGUSR1); });
  timespec time = from_ms(40);
  EXPECT_THAT(ppoll(nullptr, 0, &time, &closed), SucceedsWith(0));
  // Delivered when the old mask came back.
  EXPECT_EQ(usr1_seen, 1);
}

TEST(Poll, RawPpollWritesTimeLeft) {
  Pipe pipe = must_pipe();
  write_all(pipe.write_end.get(), "x");
  pollfd entry = {pipe.read_end.get(), POLLIN, 0};
  timespec time = from_ms(5000);
  EXPECT_THAT(syscall(SYS_ppoll, &entry, 1, &time, nullptr, 8), SucceedsWith(1));
  EXPECT_LT(to_ns(time), 5'000'000'000);
  EXPECT_GT(to_ns(time), 3'000'000'000);
}

TEST(Select, ReportsSetsAndCount) {
  Pipe pipe = must_pipe();
  write_all(pipe.write_end.get(), "x");
  fd_set readable, writable;
  FD_ZERO(&readable);
  FD_ZERO(&writable);
  FD_SET(pipe.read_end.get(), &readable);
  FD_SET(pipe.write_end.get(), &readable);
  FD_SET(pipe.write_end.get(), &writable);
  const int count = std::max(pipe.read_end.get(), pipe.write_end.get()) + 1;
  EXPECT_THAT(select(count, &readable, &writable, nullptr, nullptr), SucceedsWith(2));
  EXPECT_TRUE(FD_ISSET(pipe.read_end.get(), &readable));
  EXPECT_FALSE(FD_ISSET(pipe.write_end.get(), &readable));
  EXPECT_TRUE(FD_ISSET(pipe.write_end.get(), &writable));
}

TEST(Select, TimeoutClearsSetsAndTime) {
  Pipe pipe = must_pipe();
  fd_set readable;
  FD_ZERO(&readable);
  FD_SET(pipe.read_end.get(), &readable);
  timeval time = {0, 20'000};
  Stopwatch watch;
  EXPECT_THAT(select(pipe.read_end.get() + 1, &readable, nullptr, nullptr, &time), SucceedsWith(0));
  EXPECT_GE(watch.ms(), 19);
  EXPECT_FALSE(FD_ISSET(pipe.read_end.get(), &readable));
  EXPECT_EQ(time.tv_sec, 0);
  EXPECT_EQ(time.tv_usec, 0);
}

TEST(Select, HangUpIsReadable) {
  Pipe pipe = must_pipe();
  pipe.write_end.reset();
  fd_set readable;
  FD_ZERO(&readable);
  FD_SET(pipe.read_end.get(), &readable);
  EXPECT_THAT(select(pipe.read_end.get() + 1, &readable, nullptr, nullptr, nullptr),
              SucceedsWith(1));
}

TEST(Select, Errors) {
  fd_set set;
  FD_ZERO(&set);
  EXPECT_THAT(select(-1, &set, nullptr, nullptr, nullptr), FailsWith(EINVAL));
  timeval bad = {-1, 0};
  EXPECT_THAT(select(0, nullptr, nullptr, nullptr, &bad), FailsWith(EINVAL));
  FD_SET(60, &set);  // Closed, yet below the smallest table size (larger nfds are cut to that).
  timeval zero = {};
  EXPECT_THAT(select(61, &set, nullptr, nullptr, &zero), FailsWith(EBADF));
  EXPECT_THAT(syscall(SYS_select, 64, bad_pointer(), nullptr, nullptr, &zero), FailsWith(EFAULT));
  EXPECT_THAT(syscall(SYS_select, 0, nullptr, nullptr, nullptr, bad_pointer()), FailsWith(EFAULT));
  // Bits at and above nfds don't count.
  EXPECT_THAT(select(60, &set, nullptr, nullptr, &zero), SucceedsWith(0));
}

TEST(Select, PselectMaskArgument) {
  usr1_seen = 0;
  HandlerGuard handler(SIGUSR1, note_usr1);
  MaskGuard blocked(SIG_BLOCK, {SIGUSR1});
  raise(SIGUSR1);
  const sigset_t open = signal_set({});
  timespec time = from_ms(5000);
  EXPECT_THAT(pselect(0, nullptr, nullptr, nullptr, &time, &open), FailsWith(EINTR));
  EXPECT_EQ(usr1_seen, 1);
  const uint64_t set_argument[2] = {reinterpret_cast<uint64_t>(&open), 4};
  EXPECT_THAT(syscall(SYS_pselect6, 0, nullptr, nullptr, nullptr, nullptr, set_argument),
              FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_pselect6, 0, nullptr, nullptr, nullptr, nullptr, bad_pointer()),
              FailsWith(EFAULT));
}

// Many waiters on one pipe: all wake at hang-up.
TEST(Poll, AllWaitersWake) {
  Pipe pipe = must_pipe();
  std::vector<std::thread> waiters;
  std::atomic<int> woken = 0;
  for (int i = 0; i < 8; ++i) {
    waiters.emplace_back([&] {
      if (poll_once(pipe.read_end.get(), POLLIN, 10'000) == POLLHUP) ++woken;
    });
  }
  sleep_ms(20);
  pipe.write_end.reset();
  for (std::thread& waiter : waiters) waiter.join();
  EXPECT_EQ(woken, 8);
}

// One waiter on many pipes.
TEST(Poll, ManyDescriptors) {
  std::vector<Pipe> pipes;
  std::vector<pollfd> entries;
  for (int i = 0; i < 200; ++i) {
    pipes.push_back(must_pipe());
    entries.push_back({pipes.back().read_end.get(), POLLIN, 0});
  }
  Later later(20, [&] { write_all(pipes[137].write_end.get(), "x"); });
  EXPECT_THAT(poll(entries.data(), entries.size(), 5000), SucceedsWith(1));
  EXPECT_EQ(entries[137].revents, POLLIN);
}

}  // namespace
}  // namespace caisson::test
