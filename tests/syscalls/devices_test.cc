// /dev/null, zero, full, random, urandom, tty, pseudo-terminals.
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <termios.h>
#include <unistd.h>

#include <csignal>

#include "tests/util/child.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"
#include "tests/util/signals.h"

namespace caisson::test {
namespace {

TEST(Devices, AreCharacterDevicesWithTheirNumbers) {
  const struct {
    const char* path;
    unsigned major, minor;
  } devices[] = {{"/dev/null", 1, 3},   {"/dev/zero", 1, 5},    {"/dev/full", 1, 7},
                 {"/dev/random", 1, 8}, {"/dev/urandom", 1, 9}, {"/dev/tty", 5, 0}};
  for (const auto& device : devices) {
    struct stat result;
    ASSERT_THAT(stat(device.path, &result), SucceedsWith(0)) << device.path;
    EXPECT_TRUE(S_ISCHR(result.st_mode)) << device.path;
    EXPECT_EQ(major(result.st_rdev), device.major) << device.path;
    EXPECT_EQ(minor(result.st_rdev), device.minor) << device.path;
    EXPECT_EQ(result.st_mode & 0666, 0666u) << device.path;
  }
}

TEST(DevNull, SwallowsAndIsEmpty) {
  UniqueFd fd = must_open("/dev/null", O_RDWR);
  char buffer[10];
  EXPECT_THAT(read(fd.get(), buffer, 10), SucceedsWith(0));
  EXPECT_THAT(write(fd.get(), buffer, 10), SucceedsWith(10));
  EXPECT_THAT(lseek(fd.get(), 100, SEEK_SET), SucceedsWith(0));
  EXPECT_THAT(pread(fd.get(), buffer, 10, 5), SucceedsWith(0));
  pollfd entry = {fd.get(), POLLIN | POLLOUT, 0};
  EXPECT_THAT(poll(&entry, 1, 0), SucceedsWith(1));
  EXPECT_EQ(entry.revents, POLLIN | POLLOUT);
  EXPECT_THAT(ioctl(fd.get(), TCGETS, buffer), FailsWith(ENOTTY));
  must_open("/dev/null", O_WRONLY | O_TRUNC | O_CREAT);
}

TEST(DevZero, GivesZeros) {
  UniqueFd fd = must_open("/dev/zero", O_RDWR);
  std::string bytes(10'000, 'x');
  EXPECT_THAT(read(fd.get(), bytes.data(), bytes.size()), SucceedsWith(bytes.size()));
  EXPECT_EQ(bytes.find_first_not_of('\0'), std::string::npos);
  EXPECT_THAT(write(fd.get(), bytes.data(), 10), SucceedsWith(10));
  EXPECT_THAT(read(fd.get(), bad_pointer(), 10), FailsWith(EFAULT));
}

TEST(DevFull, NeverTakesAnything) {
  UniqueFd fd = must_open("/dev/full", O_RDWR);
  char buffer[4] = {1, 1, 1, 1};
  EXPECT_THAT(write(fd.get(), buffer, 4), FailsWith(ENOSPC));
  EXPECT_THAT(read(fd.get(), buffer, 4), SucceedsWith(4));
  EXPECT_EQ(buffer[0], 0);
}

TEST(Random, BytesDiffer) {
  for (const char* path : {"/dev/urandom", "/dev/random"}) {
    UniqueFd fd = must_open(path, O_RDONLY);
    uint64_t first[4] = {}, second[4] = {};
    EXPECT_THAT(read(fd.get(), first, 32), SucceedsWith(32));
    EXPECT_THAT(read(fd.get(), second, 32), SucceedsWith(32));
    EXPECT_NE(std::memcmp(first, second, 32), 0);
    EXPECT_THAT(read(fd.get(), bad_pointer(), 8), FailsWith(EFAULT));
  }
}

TEST(Getrandom, BytesAndErrors) {
  uint64_t first[4] = {}, second[4] = {};
  EXPECT_THAT(getrandom(first, 32, 0), SucceedsWith(32));
  EXPECT_THAT(getrandom(second, 32, GRND_NONBLOCK), SucceedsWith(32));
  EXPECT_NE(std::memcmp(first, second, 32), 0);
  EXPECT_THAT(getrandom(first, 0, 0), SucceedsWith(0));
  EXPECT_THAT(syscall(SYS_getrandom, first, 8, 0x100), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_getrandom, first, 8, GRND_RANDOM | GRND_INSECURE), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_getrandom, bad_pointer(), 8, 0), FailsWith(EFAULT));
  std::string big(1 << 20, 0);
  EXPECT_THAT(getrandom(big.data(), big.size(), 0), SucceedsWith(big.size()));
}

TEST(DevTty, NeedsAControllingTerminal) {
  Child child = Child::run([] {
    REQUIRE(setsid() == getpid());
    REQUIRE(open("/dev/tty", O_RDWR) == -1 && errno == ENXIO);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

// Pseudo-terminals.
struct Pty {
  UniqueFd master, slave;
};
Pty make_pty() {
  UniqueFd master = must_open("/dev/ptmx", O_RDWR | O_NOCTTY);
  int unlock = 0, number = -1;
  must(ioctl(master.get(), TIOCSPTLCK, &unlock), "TIOCSPTLCK");
  must(ioctl(master.get(), TIOCGPTN, &number), "TIOCGPTN");
  UniqueFd slave = must_open("/dev/pts/" + std::to_string(number), O_RDWR | O_NOCTTY);
  return {std::move(master), std::move(slave)};
}

TEST(Pty, CookedLineAndEcho) {
  Pty pty = make_pty();
  EXPECT_EQ(isatty(pty.slave.get()), 1);
  write_all(pty.master.get(),
            "abX\x7f"
            "c\n");
  char buffer[64] = {};
  EXPECT_THAT(read(pty.slave.get(), buffer, sizeof(buffer)), SucceedsWith(4));
  EXPECT_STREQ(buffer, "abc\n");
  const ssize_t echoed = read(pty.master.get(), buffer, sizeof(buffer));
  EXPECT_EQ(std::string(buffer, echoed), "abX\b \bc\r\n");
  write_all(pty.slave.get(), "out\n");
  EXPECT_THAT(read(pty.master.get(), buffer, sizeof(buffer)), SucceedsWith(5));
  EXPECT_EQ(std::string(buffer, 5), "out\r\n");
}

TEST(Pty, RawModeAndWindowSize) {
  Pty pty = make_pty();
  termios settings;
  ASSERT_THAT(tcgetattr(pty.slave.get(), &settings), SucceedsWith(0));
  EXPECT_NE(settings.c_lflag & ICANON, 0u);
  cfmakeraw(&settings);
  ASSERT_THAT(tcsetattr(pty.slave.get(), TCSANOW, &settings), SucceedsWith(0));
  write_all(pty.master.get(), "k");
  char byte = 0;
  EXPECT_THAT(read(pty.slave.get(), &byte, 1), SucceedsWith(1));
  EXPECT_EQ(byte, 'k');
  winsize size = {24, 80, 0, 0};
  EXPECT_THAT(ioctl(pty.master.get(), TIOCSWINSZ, &size), SucceedsWith(0));
  size = {};
  EXPECT_THAT(ioctl(pty.slave.get(), TIOCGWINSZ, &size), SucceedsWith(0));
  EXPECT_EQ(size.ws_row, 24);
  EXPECT_EQ(size.ws_col, 80);
}

TEST(Pty, ControlCSendsSigintToForeground) {
  Pty pty = make_pty();
  Pipe ready = must_pipe();
  Child child = Child::run([&] {
    REQUIRE(setsid() == getpid());
    REQUIRE(ioctl(pty.slave.get(), TIOCSCTTY, 0) == 0);
    REQUIRE(tcgetpgrp(pty.slave.get()) == getpgrp());
    REQUIRE(close(must_open("/dev/tty", O_RDWR).release()) == 0);
    write_all(ready.write_end.get(), "r");
    while (true) pause();
    return 0;
  });
  char byte;
  must(read(ready.read_end.get(), &byte, 1), "read");
  write_all(pty.master.get(), "\x03");
  EXPECT_THAT(child.wait(), KilledBy(SIGINT));
}

TEST(Pty, HangUpWhenMasterCloses) {
  Pty pty = make_pty();
  Pipe ready = must_pipe();
  Child child = Child::run([&] {
    pty.master.reset();
    REQUIRE(setsid() == getpid());
    REQUIRE(ioctl(pty.slave.get(), TIOCSCTTY, 0) == 0);
    write_all(ready.write_end.get(), "r");
    while (true) pause();
    return 0;
  });
  char byte;
  must(read(ready.read_end.get(), &byte, 1), "read");
  pty.master.reset();
  EXPECT_THAT(child.wait(), KilledBy(SIGHUP));
  EXPECT_THAT(read(pty.slave.get(), &byte, 1), SucceedsWith(0));
  EXPECT_THAT(write(pty.slave.get(), "x", 1), FailsWith(EIO));
}

TEST(Pty, BackgroundReadStops) {
  Pty pty = make_pty();
  Child leader = Child::run([&] {
    REQUIRE(setsid() == getpid());
    REQUIRE(ioctl(pty.slave.get(), TIOCSCTTY, 0) == 0);
    Child background = Child::run([&] {
      REQUIRE(setpgid(0, 0) == 0);
      char byte;
      read(pty.slave.get(), &byte, 1);
      return byte == 'z' ? 12 : 13;
    });
    const int status = background.wait_event(WUNTRACED);
    REQUIRE(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTTIN);
    REQUIRE(tcsetpgrp(pty.slave.get(), background.pid()) == 0);
    background.kill(SIGCONT);
    write_all(pty.master.get(), "z\n");
    return WEXITSTATUS(background.wait());
  });
  EXPECT_THAT(leader.wait(), ExitedWith(12));
}

}  // namespace
}  // namespace caisson::test
