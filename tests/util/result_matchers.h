// Matchers for what a libc call or a child process returned. They print errno values and signals by
// name.
#pragma once

#include <gmock/gmock-matchers.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <ostream>
#include <string>

namespace caisson::test {

// "EINVAL (22)"; "0" for none.
std::string errno_name(int error);
// "SIGSEGV (11)".
std::string signal_name(int signal);
// "exited with 3", "killed by SIGTERM (15)", "stopped by ..", "continued".
std::string wait_status_name(int status);

// The call returned -1 and errno is as expected.
MATCHER_P(FailsWith, expected, "fails with " + errno_name(expected)) {
  const int error = errno;
  if (static_cast<long>(arg) != -1) {
    *result_listener << "which succeeded";
    return false;
  }
  *result_listener << "which failed with " << errno_name(error);
  return error == expected;
}

// The call returned -1, for whatever reason.
MATCHER(Fails, "fails") { return static_cast<long>(arg) == -1; }

// The call did not return -1.
MATCHER(Succeeds, "succeeds") {
  const int error = errno;
  if (static_cast<long>(arg) == -1) {
    *result_listener << "which failed with " << errno_name(error);
    return false;
  }
  return true;
}

// The call returned exactly this value.
MATCHER_P(SucceedsWith, value, "succeeds with " + ::testing::PrintToString(value)) {
  const int error = errno;
  if (static_cast<long>(arg) == -1) {
    *result_listener << "which failed with " << errno_name(error);
    return false;
  }
  return static_cast<long>(arg) == static_cast<long>(value);
}

// For wait statuses.
MATCHER_P(ExitedWith, code, "exited with " + ::testing::PrintToString(code)) {
  *result_listener << "which " << wait_status_name(arg);
  return WIFEXITED(arg) && WEXITSTATUS(arg) == code;
}
MATCHER_P(KilledBy, signal, "killed by " + signal_name(signal)) {
  *result_listener << "which " << wait_status_name(arg);
  return WIFSIGNALED(arg) && WTERMSIG(arg) == signal;
}
MATCHER_P(StoppedBy, signal, "stopped by " + signal_name(signal)) {
  *result_listener << "which " << wait_status_name(arg);
  return WIFSTOPPED(arg) && WSTOPSIG(arg) == signal;
}

}  // namespace caisson::test
