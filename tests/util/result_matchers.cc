#include "tests/util/result_matchers.h"

#include <sys/wait.h>

#include <csignal>
#include <cstring>

namespace caisson::test {

std::string errno_name(int error) {
  if (error == 0) return "0";
  const char* name = strerrorname_np(error);
  return std::string(name != nullptr ? name : "errno") + " (" + std::to_string(error) + ")";
}

std::string signal_name(int signal) {
  const char* name = sigabbrev_np(signal);
  return (name != nullptr ? "SIG" + std::string(name) : std::string("signal")) + " (" +
         std::to_string(signal) + ")";
}

std::string wait_status_name(int status) {
  if (WIFEXITED(status)) return "exited with " + std::to_string(WEXITSTATUS(status));
  if (WIFSIGNALED(status)) {
    return "killed by " + signal_name(WTERMSIG(status)) +
           (WCOREDUMP(status) ? ", core dumped" : "");
  }
  if (WIFSTOPPED(status)) return "stopped by " + signal_name(WSTOPSIG(status));
  if (WIFCONTINUED(status)) return "continued";
  return "has wait status " + std::to_string(status);
}

}  // namespace caisson::test
