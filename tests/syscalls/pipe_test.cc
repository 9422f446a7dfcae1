// pipe(2), pipe2(2), pipe(7): data, capacity, ends, errors, blocking, interruption.
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <csignal>
#include <cstring>
#include <thread>

#include "tests/util/child.h"
#include "tests/util/clock.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"
#include "tests/util/signals.h"
#include "tests/util/temp_dir.h"

namespace caisson::test {
namespace {

TEST(Pipe, CarriesBytesInOrder) {
  Pipe pipe = must_pipe();
  EXPECT_THAT(write(pipe.write_end.get(), "abcdef", 6), SucceedsWith(6));
  char buffer[10] = {};
  EXPECT_THAT(read(pipe.read_end.get(), buffer, 2), SucceedsWith(2));
  EXPECT_STREQ(buffer, "ab");
  EXPECT_THAT(read(pipe.read_end.get(), buffer, 10), SucceedsWith(4));
  EXPECT_STREQ(buffer, "cdef");
}

TEST(Pipe, OldCallGivesLowestDescriptorsReadEndFirst) {
  UniqueFd lowest(dup(0));
  const int first = lowest.get();
  lowest.reset();
  int fds[2];
  ASSERT_THAT(syscall(SYS_pipe, fds), SucceedsWith(0));
  UniqueFd read_end(fds[0]), write_end(fds[1]);
  EXPECT_EQ(fds[0], first);
  EXPECT_GT(fds[1], fds[0]);
  EXPECT_EQ(fcntl(fds[0], F_GETFL) & O_ACCMODE, O_RDONLY);
  EXPECT_EQ(fcntl(fds[1], F_GETFL) & O_ACCMODE, O_WRONLY);
}

TEST(Pipe, FlagsShowInDescriptors) {
  Pipe pipe = must_pipe(O_CLOEXEC | O_NONBLOCK);
  for (int fd : {pipe.read_end.get(), pipe.write_end.get()}) {
    EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    EXPECT_NE(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
  }
}

TEST(Pipe, BadFlagsAndPointers) {
  int fds[2] = {-7, -7};
  EXPECT_THAT(syscall(SYS_pipe2, fds, 0x7fffffff), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_pipe2, fds, O_APPEND), FailsWith(EINVAL));
  EXPECT_EQ(fds[0], -7);
  const int next_before = must_open("/dev/null", O_RDONLY).get();
  GuardedPages pages;
  EXPECT_THAT(syscall(SYS_pipe2, nullptr, 0), FailsWith(EFAULT));
  EXPECT_THAT(syscall(SYS_pipe2, pages.one_before<int[2]>(), 0), FailsWith(EFAULT));
  EXPECT_THAT(syscall(SYS_pipe2, pages.one_past<int[2]>(), 0), FailsWith(EFAULT));
  // No descriptor leaked.
  EXPECT_EQ(must_open("/dev/null", O_RDONLY).get(), next_before);
}

TEST(Pipe, WrongDirection) {
  Pipe pipe = must_pipe();
  char byte = 0;
  EXPECT_THAT(write(pipe.read_end.get(), &byte, 1), FailsWith(EBADF));
  EXPECT_THAT(read(pipe.write_end.get(), &byte, 1), FailsWith(EBADF));
}

TEST(Pipe, NoSeekNoPread) {
  Pipe pipe = must_pipe();
  char byte = 0;
  EXPECT_THAT(lseek(pipe.read_end.get(), 0, SEEK_CUR), FailsWith(ESPIPE));
  EXPECT_THAT(pread(pipe.read_end.get(), &byte, 1, 0), FailsWith(ESPIPE));
  EXPECT_THAT(pwrite(pipe.write_end.get(), &byte, 1, 0), FailsWith(ESPIPE));
  EXPECT_THAT(ftruncate(pipe.write_end.get(), 0), FailsWith(EINVAL));
}

TEST(Pipe, EndOfFileAfterLastWriterCloses) {
  Pipe pipe = must_pipe();
  UniqueFd second(dup(pipe.write_end.get()));
  write_all(pipe.write_end.get(), "x");
  pipe.write_end.reset();
  char byte;
  EXPECT_THAT(read(pipe.read_end.get(), &byte, 1), SucceedsWith(1));
  second.reset();
  EXPECT_THAT(read(pipe.read_end.get(), &byte, 1), SucceedsWith(0));
}

TEST(Pipe, WriteWithoutReaderRaisesSigpipe) {
  Child child = Child::run([] {
    Pipe pipe = must_pipe();
    pipe.read_end.reset();
    [[maybe_unused]] ssize_t written = write(pipe.write_end.get(), "x", 1);
    return 0;
  });
  EXPECT_THAT(child.wait(), KilledBy(SIGPIPE));
}

TEST(Pipe, WriteWithoutReaderGivesEpipe) {
  HandlerGuard ignore(SIGPIPE, SIG_IGN);
  Pipe pipe = must_pipe();
  pipe.read_end.reset();
  EXPECT_THAT(write(pipe.write_end.get(), "x", 1), FailsWith(EPIPE));
  // Nothing is nothing, reader or not.
  EXPECT_THAT(write(pipe.write_end.get(), "x", 0), SucceedsWith(0));
}

TEST(Pipe, NonBlockingErrors) {
  Pipe pipe = must_pipe(O_NONBLOCK);
  char byte;
  EXPECT_THAT(read(pipe.read_end.get(), &byte, 1), FailsWith(EAGAIN));
  fill_pipe(pipe.write_end.get());
  EXPECT_THAT(write(pipe.write_end.get(), "x", 1), FailsWith(EAGAIN));
}

TEST(Pipe, CapacityAndResize) {
  Pipe pipe = must_pipe();
  const int fd = pipe.write_end.get();
  EXPECT_THAT(fcntl(fd, F_GETPIPE_SZ), SucceedsWith(65536));
  EXPECT_EQ(fill_pipe(fd), 65536u);
  EXPECT_THAT(fcntl(fd, F_SETPIPE_SZ, 4096), FailsWith(EBUSY));
  EXPECT_THAT(fcntl(fd, F_SETPIPE_SZ, 70000), SucceedsWith(131072));
  EXPECT_THAT(fcntl(fd, F_GETPIPE_SZ), SucceedsWith(131072));
  EXPECT_EQ(fill_pipe(fd), 65536u);
  UniqueFd null = must_open("/dev/null", O_RDONLY);
  EXPECT_THAT(fcntl(null.get(), F_GETPIPE_SZ), FailsWith(EBADF));
}

TEST(Pipe, FionreadCountsBytes) {
  Pipe pipe = must_pipe();
  write_all(pipe.write_end.get(), "12345");
  int bytes = -1;
  EXPECT_THAT(ioctl(pipe.read_end.get(), FIONREAD, &bytes), SucceedsWith(0));
  EXPECT_EQ(bytes, 5);
  EXPECT_THAT(ioctl(pipe.read_end.get(), FIONREAD, bad_pointer()), FailsWith(EFAULT));
  EXPECT_THAT(ioctl(pipe.read_end.get(), TCGETS, &bytes), FailsWith(ENOTTY));
}

TEST(Pipe, StatShowsFifo) {
  Pipe pipe = must_pipe();
  struct stat read_stat, write_stat;
  ASSERT_THAT(fstat(pipe.read_end.get(), &read_stat), SucceedsWith(0));
  ASSERT_THAT(fstat(pipe.write_end.get(), &write_stat), SucceedsWith(0));
  EXPECT_TRUE(S_ISFIFO(read_stat.st_mode));
  EXPECT_EQ(read_stat.st_mode & 07777, 0600u);
  EXPECT_EQ(read_stat.st_ino, write_stat.st_ino);
  EXPECT_EQ(read_stat.st_size, 0);
}

TEST(Pipe, LargeWriteBlocksUntilRead) {
  Pipe pipe = must_pipe();
  const std::string data(300'000, 'q');
  std::thread writer([&] {
    write_all(pipe.write_end.get(), data);
    pipe.write_end.reset();
  });
  EXPECT_EQ(read_all(pipe.read_end.get()), data);
  writer.join();
}

TEST(Pipe, SmallWritesAreAtomic) {
  Pipe pipe = must_pipe();
  constexpr int kWriters = 2, kRecords = 200;
  std::vector<std::thread> writers;
  for (int w = 0; w < kWriters; ++w) {
    writers.emplace_back([&, w] {
      const std::string record(PIPE_BUF, static_cast<char>('a' + w));
      for (int i = 0; i < kRecords; ++i) {
        EXPECT_THAT(write(pipe.write_end.get(), record.data(), PIPE_BUF), SucceedsWith(PIPE_BUF));
      }
    });
  }
  for (int i = 0; i < kWriters * kRecords; ++i) {
    char record[PIPE_BUF];
    size_t got = 0;
    while (got < sizeof(record)) {
      got += must(read(pipe.read_end.get(), record + got, sizeof(record) - got), "read");
    }
    EXPECT_EQ(std::string(record, PIPE_BUF).find_first_not_of(record[0]), std::string::npos);
  }
  for (std::thread& writer : writers) writer.join();
}

TEST(Pipe, BlockedReadWakesOnWriteAndOnClose) {
  Pipe pipe = must_pipe();
  char byte = 0;
  {
    Later later(20, [&] { write_all(pipe.write_end.get(), "z"); });
    EXPECT_THAT(read(pipe.read_end.get(), &byte, 1), SucceedsWith(1));
    EXPECT_EQ(byte, 'z');
  }
  Later later(20, [&] { pipe.write_end.reset(); });
  EXPECT_THAT(read(pipe.read_end.get(), &byte, 1), SucceedsWith(0));
}

TEST(Pipe, BlockedWriteFailsWhenReaderCloses) {
  HandlerGuard ignore(SIGPIPE, SIG_IGN);
  Pipe pipe = must_pipe();
  fill_pipe(pipe.write_end.get());
  Later later(20, [&] { pipe.read_end.reset(); });
  EXPECT_THAT(write(pipe.write_end.get(), "x", 1), FailsWith(EPIPE));
}

TEST(Pipe, InterruptedReadFailsOrRestarts) {
  for (int flags : {0, SA_RESTART}) {
    Pipe pipe = must_pipe();
    char byte = 0;
    const Interrupted outcome = run_interrupted(
        flags, [&] { return read(pipe.read_end.get(), &byte, 1); },
        [&] { write_all(pipe.write_end.get(), "r"); });
    EXPECT_EQ(outcome.handler_runs, 1);
    EXPECT_EQ(outcome.result, flags == 0 ? -1 : 1);
    EXPECT_EQ(outcome.error, flags == 0 ? EINTR : 0);
  }
}

TEST(Pipe, InterruptedWriteFailsOrRestarts) {
  for (int flags : {0, SA_RESTART}) {
    Pipe pipe = must_pipe();
    fill_pipe(pipe.write_end.get());
    char sink[8192];
    const Interrupted outcome = run_interrupted(
        flags, [&] { return write(pipe.write_end.get(), "w", 1); },
        [&] { must(read(pipe.read_end.get(), sink, sizeof(sink)), "read"); });
    EXPECT_EQ(outcome.handler_runs, 1);
    EXPECT_EQ(outcome.result, flags == 0 ? -1 : 1);
    EXPECT_EQ(outcome.error, flags == 0 ? EINTR : 0);
  }
}

// A write that moved bytes before the signal reports them, whatever SA_RESTART says.
TEST(Pipe, InterruptedPartialWriteReportsBytes) {
  for (int flags : {0, SA_RESTART}) {
    Pipe pipe = must_pipe();
    const std::string data(200'000, 'p');
    const Interrupted outcome = run_interrupted(
        flags, [&] { return write(pipe.write_end.get(), data.data(), data.size()); }, [] {});
    EXPECT_EQ(outcome.result, 65536);
  }
}

TEST(Pipe, SurvivesForkBothWays) {
  Pipe down = must_pipe(), up = must_pipe();
  Child child = Child::run([&] {
    down.write_end.reset();
    up.read_end.reset();
    write_all(up.write_end.get(), read_all(down.read_end.get()) + "!");
    return 5;
  });
  down.read_end.reset();
  up.write_end.reset();
  write_all(down.write_end.get(), "hello");
  down.write_end.reset();
  EXPECT_EQ(read_all(up.read_end.get()), "hello!");
  EXPECT_THAT(child.wait(), ExitedWith(5));
}

TEST(Pipe, ReaderSeesEofWhenWriterProcessDies) {
  Pipe pipe = must_pipe();
  Child child = Child::run([&] {
    while (true) pause();
    return 0;
  });
  pipe.write_end.reset();
  Later later(20, [&] { child.kill(SIGKILL); });
  char byte;
  EXPECT_THAT(read(pipe.read_end.get(), &byte, 1), SucceedsWith(0));
}

TEST(Pipe, BadBufferMovesNothing) {
  Pipe pipe = must_pipe(O_NONBLOCK);
  write_all(pipe.write_end.get(), "keep");
  GuardedPages pages;
  EXPECT_THAT(read(pipe.read_end.get(), bad_pointer(), 4), FailsWith(EFAULT));
  EXPECT_THAT(read(pipe.read_end.get(), pages.end(), 4), FailsWith(EFAULT));
  EXPECT_THAT(write(pipe.write_end.get(), pages.begin() - 1, 1), FailsWith(EFAULT));
  char buffer[5] = {};
  EXPECT_THAT(read(pipe.read_end.get(), buffer, 4), SucceedsWith(4));
  EXPECT_STREQ(buffer, "keep");
}

// The descriptor is resolved once: closing and reusing its number doesn't redirect a blocked read.
TEST(Pipe, BlockedReadKeepsItsFile) {
  Pipe first = must_pipe(), second = must_pipe();
  write_all(second.write_end.get(), "wrong");
  const int fd = first.read_end.get();
  Later later(20, [&] {
    must(dup2(second.read_end.get(), fd), "dup2");
    sleep_ms(20);
    write_all(first.write_end.get(), "right");
  });
  HandlerGuard ignore(SIGPIPE, SIG_IGN);
  char buffer[6] = {};
  EXPECT_THAT(read(fd, buffer, 5), SucceedsWith(5));
  EXPECT_STREQ(buffer, "right");
}

TEST(Pipe, TwoReadersShareTheBytes) {
  Pipe pipe = must_pipe();
  constexpr int kBytes = 20'000;
  std::atomic<int> total = 0;
  std::vector<std::thread> readers;
  for (int i = 0; i < 2; ++i) {
    readers.emplace_back([&] {
      char buffer[64];
      ssize_t got;
      while ((got = read(pipe.read_end.get(), buffer, sizeof(buffer))) > 0) total += got;
    });
  }
  for (int i = 0; i < kBytes / 20; ++i) write_all(pipe.write_end.get(), std::string(20, 'x'));
  pipe.write_end.reset();
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(total, kBytes);
}

TEST(Fifo, OpenWaitsForTheOtherEnd) {
  TempDir dir;
  const std::string path = dir.file("fifo");
  ASSERT_THAT(mkfifo(path.c_str(), 0600), SucceedsWith(0));
  EXPECT_THAT(open(path.c_str(), O_WRONLY | O_NONBLOCK), FailsWith(ENXIO));
  UniqueFd write_end;
  Later later(20, [&] { write_end = must_open(path, O_WRONLY); });
  UniqueFd read_end = must_open(path, O_RDONLY);
  ASSERT_TRUE(eventually([&] { return write_end.valid(); }));
  write_all(write_end.get(), "fifo");
  char buffer[5] = {};
  EXPECT_THAT(read(read_end.get(), buffer, 4), SucceedsWith(4));
  EXPECT_STREQ(buffer, "fifo");
}

// Shells do this for <(command) when the command has ended already.
TEST(Pipe, OpensAgainThroughProcWithoutWaiting) {
  test::Pipe pipe = must_pipe();
  write_all(pipe.write_end.get(), "left");
  pipe.write_end.reset();
  alarm(10);
  UniqueFd again = must_open("/proc/self/fd/" + std::to_string(pipe.read_end.get()), O_RDONLY);
  EXPECT_EQ(read_all(again.get()), "left");
  pollfd poller{again.get(), POLLIN, 0};
  EXPECT_THAT(poll(&poller, 1, 0), SucceedsWith(1));
  EXPECT_EQ(poller.revents, POLLHUP);
  // Nobody reads when the last reader is gone: then this end alone is left to be found.
  UniqueFd writer =
      must_open("/proc/self/fd/" + std::to_string(again.get()), O_WRONLY | O_NONBLOCK);
  EXPECT_THAT(write(writer.get(), "x", 1), SucceedsWith(1));
  alarm(0);
}

}  // namespace
}  // namespace caisson::test
