// Starting and ending processes. What is executed is this program with --exit.
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/micro/bench.h"

extern char** environ;

namespace {

using bench::now_ns;
using bench::timed;

char kSelf[] = "/proc/self/exe";
char kExit[] = "--exit";
char* const kCommand[] = {kSelf, kExit, nullptr};

void wait_for(pid_t pid) {
  int status;
  REQUIRE(pid > 0 && waitpid(pid, &status, 0) == pid);
  REQUIRE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

void fork_exit_wait() {
  const pid_t pid = fork();
  if (pid == 0) _exit(0);
  wait_for(pid);
}

BENCH(fork_exit_wait) { return timed(count, fork_exit_wait); }

// Of a process that uses 64 MiB.
BENCH(fork_64m_exit_wait) {
  constexpr size_t kSize = 64 << 20;
  static char* const at = [] {
    void* made = mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(made != MAP_FAILED);
    return static_cast<char*>(made);
  }();
  for (size_t i = 0; i < kSize; i += 4096) at[i] = 1;
  return timed(count, fork_exit_wait);
}

BENCH(fork_exec_wait) {
  return timed(count, [] {
    const pid_t pid = fork();
    if (pid == 0) {
      execve(kSelf, kCommand, environ);
      _exit(1);
    }
    wait_for(pid);
  });
}

void posix_spawn_wait(char* const* command) {
  pid_t pid;
  REQUIRE(posix_spawn(&pid, command[0], nullptr, nullptr, command, environ) == 0);
  wait_for(pid);
}

BENCH(posix_spawn_wait) {
  return timed(count, [] { posix_spawn_wait(kCommand); });
}

// Of a program with an interpreter and a library.
BENCH(posix_spawn_dynamic_wait) {
  static char program[] = "/bin/true";
  static char* const command[] = {program, nullptr};
  return timed(count, [] { posix_spawn_wait(command); });
}

}  // namespace
