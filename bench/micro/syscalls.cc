// The cheapest calls: what a trip to the kernel costs.
#include <linux/futex.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bench/micro/bench.h"

namespace {

using bench::timed;

BENCH(clock_gettime) {
  timespec time;
  return timed(count, [&] { clock_gettime(CLOCK_MONOTONIC, &time); });
}

BENCH(getppid) {
  return timed(count, [] { getppid(); });
}

// The libc call site of syscall(2), whose number is in a variable.
BENCH(getpid_raw) {
  return timed(count, [] { syscall(SYS_getpid); });
}

// A call that is never patched: neither the number nor a comparison stands beside it.
BENCH(getpid_unpatched) {
  return timed(count, [] {
    long result = SYS_getpid;
    __asm__ volatile("nop\n syscall\n nop" : "+a"(result) : : "rcx", "r11", "memory");
  });
}

BENCH(sigprocmask) {
  sigset_t set, old;
  sigemptyset(&set);
  return timed(count, [&] { sigprocmask(SIG_BLOCK, &set, &old); });
}

BENCH(futex_wake_nobody) {
  static int word = 0;
  return timed(count, [] { syscall(SYS_futex, &word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1); });
}

BENCH(raise_handled) {
  static const bool ready = [] {
    struct sigaction action = {};
    action.sa_handler = [](int) {};
    REQUIRE(sigaction(SIGUSR1, &action, nullptr) == 0);
    return true;
  }();
  (void)ready;
  return timed(count, [] { raise(SIGUSR1); });
}

}  // namespace
