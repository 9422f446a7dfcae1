// dup, dup2, dup3, fcntl, close, close_range, close-on-exec, descriptor limits and sharing.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <thread>

#include "tests/util/child.h"
#include "tests/util/clock.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"
#include "tests/util/program.h"
#include "tests/util/temp_dir.h"

namespace caisson::test {
namespace {

bool is_open(int fd) { return fcntl(fd, F_GETFD) != -1; }

TEST(Dup, GivesLowestFreeNumber) {
  UniqueFd a = must_open("/dev/null", O_RDONLY);
  UniqueFd b = must_open("/dev/null", O_RDONLY);
  UniqueFd c = must_open("/dev/null", O_RDONLY);
  const int freed = b.get();
  b.reset();
  UniqueFd copy(dup(c.get()));
  EXPECT_EQ(copy.get(), freed);
  EXPECT_THAT(dup(-1), FailsWith(EBADF));
  EXPECT_THAT(dup(12'345), FailsWith(EBADF));
}

TEST(Dup, ClearsCloseOnExecKeepsStatusFlags) {
  UniqueFd fd = must_open("/dev/null", O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  UniqueFd copy(dup(fd.get()));
  EXPECT_EQ(fcntl(copy.get(), F_GETFD), 0);
  EXPECT_EQ(fcntl(fd.get(), F_GETFD), FD_CLOEXEC);
  EXPECT_NE(fcntl(copy.get(), F_GETFL) & O_NONBLOCK, 0);
  // Status flags belong to the description.
  must(fcntl(copy.get(), F_SETFL, 0), "F_SETFL");
  EXPECT_EQ(fcntl(fd.get(), F_GETFL) & O_NONBLOCK, 0);
}

TEST(Dup2, ReplacesAndReports) {
  Pipe pipe = must_pipe();
  UniqueFd target = must_open("/dev/null", O_RDONLY);
  EXPECT_THAT(dup2(pipe.read_end.get(), target.get()), SucceedsWith(target.get()));
  write_all(pipe.write_end.get(), "d");
  char byte;
  EXPECT_THAT(read(target.get(), &byte, 1), SucceedsWith(1));
  EXPECT_THAT(dup2(target.get(), target.get()), SucceedsWith(target.get()));
  EXPECT_THAT(dup2(-1, target.get()), FailsWith(EBADF));
  EXPECT_TRUE(is_open(target.get()));
  EXPECT_THAT(dup2(target.get(), -1), FailsWith(EBADF));
  EXPECT_THAT(dup2(9'999, 9'999), FailsWith(EBADF));
  rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  EXPECT_THAT(dup2(target.get(), static_cast<int>(limit.rlim_cur)), FailsWith(EBADF));
}

TEST(Dup2, OntoItselfKeepsCloseOnExec) {
  UniqueFd fd = must_open("/dev/null", O_RDONLY | O_CLOEXEC);
  EXPECT_THAT(dup2(fd.get(), fd.get()), SucceedsWith(fd.get()));
  EXPECT_EQ(fcntl(fd.get(), F_GETFD), FD_CLOEXEC);
}

TEST(Dup3, FlagsAndErrors) {
  UniqueFd fd = must_open("/dev/null", O_RDONLY);
  UniqueFd other = must_open("/dev/null", O_RDONLY);
  EXPECT_THAT(dup3(fd.get(), other.get(), O_CLOEXEC), SucceedsWith(other.get()));
  EXPECT_EQ(fcntl(other.get(), F_GETFD), FD_CLOEXEC);
  EXPECT_THAT(dup3(fd.get(), fd.get(), 0), FailsWith(EINVAL));
  EXPECT_THAT(dup3(fd.get(), other.get(), O_NONBLOCK), FailsWith(EINVAL));
  EXPECT_THAT(dup3(-1, other.get(), 0), FailsWith(EBADF));
}

TEST(Fcntl, DupFromMinimum) {
  UniqueFd fd = must_open("/dev/null", O_RDONLY);
  UniqueFd copy(fcntl(fd.get(), F_DUPFD, 100));
  EXPECT_GE(copy.get(), 100);
  EXPECT_EQ(fcntl(copy.get(), F_GETFD), 0);
  UniqueFd closing(fcntl(fd.get(), F_DUPFD_CLOEXEC, 100));
  EXPECT_GT(closing.get(), copy.get());
  EXPECT_EQ(fcntl(closing.get(), F_GETFD), FD_CLOEXEC);
  EXPECT_THAT(fcntl(fd.get(), F_DUPFD, -1), FailsWith(EINVAL));
  rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  EXPECT_THAT(fcntl(fd.get(), F_DUPFD, static_cast<int>(limit.rlim_cur)), FailsWith(EINVAL));
}

TEST(Fcntl, UnknownCommandAndDescriptor) {
  EXPECT_THAT(fcntl(-1, F_GETFD), FailsWith(EBADF));
  UniqueFd fd = must_open("/dev/null", O_RDONLY);
  EXPECT_THAT(fcntl(fd.get(), 0x7777), FailsWith(EINVAL));
}

TEST(Fcntl, SetFlagsKeepsAccessMode) {
  TempDir dir;
  UniqueFd fd = must_open(dir.file("f"), O_WRONLY | O_CREAT);
  EXPECT_THAT(fcntl(fd.get(), F_SETFL, O_RDWR | O_APPEND | O_NONBLOCK | O_CREAT), SucceedsWith(0));
  const int flags = fcntl(fd.get(), F_GETFL);
  EXPECT_EQ(flags & O_ACCMODE, O_WRONLY);
  EXPECT_EQ(flags & (O_APPEND | O_NONBLOCK), O_APPEND | O_NONBLOCK);
  EXPECT_EQ(flags & O_CREAT, 0);
}

TEST(Fcntl, PathDescriptorsAllowLittle) {
  UniqueFd fd = must_open("/dev/null", O_PATH);
  EXPECT_NE(fcntl(fd.get(), F_GETFL) & O_PATH, 0);
  EXPECT_THAT(fcntl(fd.get(), F_SETFL, O_NONBLOCK), FailsWith(EBADF));
  EXPECT_THAT(fcntl(fd.get(), F_SETFD, FD_CLOEXEC), SucceedsWith(0));
}

TEST(Close, FreesTheNumber) {
  UniqueFd fd = must_open("/dev/null", O_RDONLY);
  const int number = fd.release();
  EXPECT_THAT(close(number), SucceedsWith(0));
  EXPECT_THAT(close(number), FailsWith(EBADF));
  EXPECT_THAT(close(-1), FailsWith(EBADF));
}

TEST(CloseRange, ClosesAndMarks) {
  Child child = Child::run([] {
    int fds[4];
    for (int i = 0; i < 4; ++i) {
      fds[i] = 50 + i;
      REQUIRE(dup2(2, fds[i]) == fds[i]);
    }
    REQUIRE(syscall(SYS_close_range, 50, 51, 0) == 0);
    REQUIRE(!is_open(50) && !is_open(51) && is_open(52));
    REQUIRE(syscall(SYS_close_range, 52, ~0u, CLOSE_RANGE_CLOEXEC) == 0);
    REQUIRE(fcntl(52, F_GETFD) == FD_CLOEXEC && fcntl(53, F_GETFD) == FD_CLOEXEC);
    REQUIRE(syscall(SYS_close_range, 53, 52, 0) == -1 && errno == EINVAL);
    REQUIRE(syscall(SYS_close_range, 52, 53, 1 << 20) == -1 && errno == EINVAL);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

TEST(FdLimit, EmfileAtTheLimit) {
  Child child = Child::run([] {
    rlimit limit = {20, 20};
    REQUIRE(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    int last = -1, fd;
    while ((fd = dup(0)) != -1) last = fd;
    REQUIRE(errno == EMFILE && last == 19);
    int fds[2];
    REQUIRE(pipe(fds) == -1 && errno == EMFILE);
    close(19);
    REQUIRE(pipe(fds) == -1 && errno == EMFILE);
    REQUIRE(open("/dev/null", O_RDONLY) == 19);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

TEST(FdTable, ForkCopiesTable) {
  UniqueFd fd = must_open("/dev/null", O_RDONLY);
  Child child = Child::run([&] {
    REQUIRE(close(fd.get()) == 0);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
  EXPECT_TRUE(is_open(fd.get()));
}

TEST(FdTable, ThreadsShareTable) {
  int number = -1;
  std::thread([&] { number = must_open("/dev/null", O_RDONLY).release(); }).join();
  EXPECT_TRUE(is_open(number));
  close(number);
}

// Exit status is a bit set: which of the descriptors given in argv are open.
int report_open(int argc, char** argv) {
  int bits = 0;
  for (int i = 2; i < argc; ++i) bits |= is_open(std::atoi(argv[i])) << (i - 2);
  return bits;
}
RegisterProbe report_open_probe("report_open", report_open);

TEST(CloseOnExec, ClosesMarkedOnly) {
  UniqueFd kept(fcntl(0, F_DUPFD, 60));
  UniqueFd closed(fcntl(0, F_DUPFD_CLOEXEC, 60));
  UniqueFd cleared(fcntl(0, F_DUPFD_CLOEXEC, 60));
  must(fcntl(cleared.get(), F_SETFD, 0), "F_SETFD");
  const auto command = probe_command(
      "report_open",
      {std::to_string(kept.get()), std::to_string(closed.get()), std::to_string(cleared.get())});
  Child child = Child::run([&] {
    execv(program_path().c_str(), exec_vector(command).data());
    return 90;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0b101));
  // Failed exec closes nothing.
  Child failed = Child::run([&] {
    execl("/nonexistent/program", "x", nullptr);
    return is_open(closed.get()) ? 0 : 1;
  });
  EXPECT_THAT(failed.wait(), ExitedWith(0));
}

TEST(FdTable, RacingOpenAndCloseNeverShareANumber) {
  std::vector<std::thread> threads;
  std::atomic<int> clashes = 0;
  std::atomic<int> owners[64] = {};
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 2000; ++i) {
        const int fd = dup(0);
        if (fd < 0 || fd >= 64) continue;
        if (owners[fd].exchange(1) != 0) ++clashes;
        owners[fd] = 0;
        close(fd);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(clashes, 0);
}

}  // namespace
}  // namespace caisson::test
