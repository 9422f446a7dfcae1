// Controlling terminals and foreground process groups, on pseudo-terminals.
#include <gtest/gtest.h>
#include <pty.h>
#include <sys/ioctl.h>

#include "sys/test_support.h"

namespace caisson::sys {
namespace {

using test::read_all;
using test::shell;

struct Terminal {
  UniqueFd master;
  UniqueFd slave;
};

Terminal open_terminal() {
  int master = -1;
  int slave = -1;
  EXPECT_EQ(openpty(&master, &slave, nullptr, nullptr, nullptr), 0);
  return {UniqueFd(master), UniqueFd(slave)};
}

// Field 7 of stat is the terminal's device, field 8 its foreground group, 5 the process group.
const char kShowTerminal[] = "read stat < /proc/$$/stat; set -- $stat; echo $7 $(($8 == $5))";

std::string device_of(const Terminal& terminal) {
  struct ::stat file {};
  EXPECT_EQ(fstat(terminal.slave.get(), &file), 0);
  return std::to_string(file.st_rdev);
}

TEST(Terminal, SessionLeaderTakesIt) {
  const Terminal terminal = open_terminal();
  ProcAttr attr;
  attr.files = {0, 1, 2, terminal.slave.get()};
  attr.sys.setsid = true;
  attr.sys.setctty = true;
  attr.sys.ctty = 3;
  EXPECT_EQ(shell(kShowTerminal, attr).text, device_of(terminal) + " 1\n");
  attr.sys.setctty = false;
  EXPECT_EQ(shell(kShowTerminal, attr).text.substr(0, 2), "0 ");
}

TEST(Terminal, WithoutASessionOfItsOwnLinuxRefuses) {
  const Terminal terminal = open_terminal();
  ProcAttr attr;
  attr.files = {0, 1, 2, terminal.slave.get()};
  attr.sys.setctty = true;
  attr.sys.ctty = 3;
  auto process = start_process("/bin/true", {"true"}, attr);
  ASSERT_FALSE(process.ok());
  EXPECT_EQ(process.error().text(), "setctty: Operation not permitted");
}

// In a session with a terminal (a child of ours, because we must not lose our own): a foreground
// start from the background succeeds although SIGTTOU would stop it, and noctty gives it up.
int in_a_session_with_a_terminal(int terminal) {
  const auto stat_of = [&](ProcAttr attr) {
    attr.files = {terminal, 1, terminal};
    return shell(kShowTerminal, std::move(attr)).text;
  };
  ProcAttr background;
  background.sys.setpgid = true;
  const std::string plain = stat_of(background);
  ProcAttr foreground;
  foreground.sys.foreground = true;
  foreground.sys.ctty = terminal;
  // Twice: the second time we ourselves are in the background.
  const std::string first = stat_of(foreground);
  const std::string second = stat_of(foreground);
  ProcAttr without;
  without.sys.noctty = true;
  const std::string gone = stat_of(without);
  const bool right = plain.size() > 3 && plain.back() == '\n' && plain[plain.size() - 2] == '0' &&
                     first[first.size() - 2] == '1' && second == first && gone.substr(0, 2) == "0 ";
  if (!right) dprintf(2, "%s%s%s%s", plain.c_str(), first.c_str(), second.c_str(), gone.c_str());
  return right ? 0 : 1;
}

TEST(Terminal, ForegroundAndNoctty) {
  const Terminal terminal = open_terminal();
  const pid_t pid = fork();
  ASSERT_GE(pid, 0);
  if (pid == 0) {
    // If a start is stopped in the background after all, the test fails instead of waiting.
    alarm(20);
    setsid();
    if (ioctl(terminal.slave.get(), TIOCSCTTY, 0) != 0) _exit(2);
    // Writing to the terminal from the background would stop the test otherwise.
    signal(SIGHUP, SIG_IGN);
    _exit(in_a_session_with_a_terminal(terminal.slave.get()));
  }
  const auto end = wait4(pid);
  ASSERT_TRUE(end.ok());
  EXPECT_EQ(end->status.exit_status(), 0);
}

}  // namespace
}  // namespace caisson::sys
