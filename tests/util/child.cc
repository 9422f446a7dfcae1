#include "tests/util/child.h"

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <utility>

#include "tests/util/clock.h"
#include "tests/util/must.h"

namespace caisson::test {

void die_with_parent() { prctl(PR_SET_PDEATHSIG, SIGKILL); }

pid_t fork_running(const std::function<int()>& body) {
  std::fflush(nullptr);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid != 0) return pid;
  die_with_parent();
  if (getppid() != parent) _exit(kRequireFailed);
  try {
    _exit(body());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "child: %s\n", error.what());
    _exit(kRequireFailed);
  }
}

Child Child::run(const std::function<int()>& body) {
  return Child(static_cast<pid_t>(must(fork_running(body), "fork")));
}

Child::Child(Child&& other) noexcept
    : pid_(other.pid_), owned_(std::exchange(other.owned_, false)) {}

Child::~Child() {
  if (!owned_ || pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  int status;
  while (waitpid(pid_, &status, __WALL) == -1 && errno == EINTR) {
  }
}

int Child::wait_event(int options, int timeout_ms) {
  const int64_t deadline_ms = now_ms() + timeout_ms;
  int64_t pause_us = 20;
  while (true) {
    int status = 0;
    const pid_t got = waitpid(pid_, &status, options | WNOHANG | __WALL);
    if (got == pid_) {
      if (WIFEXITED(status) || WIFSIGNALED(status)) owned_ = false;
      return status;
    }
    if (got == -1 && errno != EINTR) must(-1, "waitpid");
    if (now_ms() >= deadline_ms) throw std::runtime_error("child did not change state in time");
    sleep_us(pause_us);
    if (pause_us < 2000) pause_us += pause_us / 2;
  }
}

int Child::wait(int timeout_ms) {
  try {
    return wait_event(0, timeout_ms);
  } catch (const std::runtime_error&) {
    if (!owned_) throw;
    std::fprintf(stderr, "child %d did not end within %d ms: killed\n", pid_, timeout_ms);
    ::kill(pid_, SIGKILL);
    return wait_event(0, timeout_ms);
  }
}

void Child::kill(int signal) const {
  if (!owned_) throw std::runtime_error("kill of a child that is gone");
  must(::kill(pid_, signal), "kill");
}

}  // namespace caisson::test
