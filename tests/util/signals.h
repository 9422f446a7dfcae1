// Signal state that is put back when the test ends, and a helper that interrupts a call that
// blocks.
#pragma once

#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <functional>
#include <initializer_list>
#include <thread>

#include "tests/util/clock.h"
#include "tests/util/must.h"

namespace caisson::test {

inline pid_t gettid_now() { return static_cast<pid_t>(syscall(SYS_gettid)); }
inline int tgkill_now(pid_t tgid, pid_t tid, int signal) {
  return static_cast<int>(syscall(SYS_tgkill, tgid, tid, signal));
}

inline sigset_t signal_set(std::initializer_list<int> signals) {
  sigset_t set;
  sigemptyset(&set);
  for (int signal : signals) sigaddset(&set, signal);
  return set;
}

class HandlerGuard {
 public:
  HandlerGuard(int signal, void (*handler)(int), int flags = 0,
               std::initializer_list<int> mask = {})
      : signal_(signal) {
    struct sigaction action = {};
    action.sa_handler = handler;
    action.sa_flags = flags;
    action.sa_mask = signal_set(mask);
    must(sigaction(signal, &action, &before_), "sigaction");
  }
  HandlerGuard(int signal, void (*handler)(int, siginfo_t*, void*), int flags = 0,
               std::initializer_list<int> mask = {})
      : signal_(signal) {
    struct sigaction action = {};
    action.sa_sigaction = handler;
    action.sa_flags = flags | SA_SIGINFO;
    action.sa_mask = signal_set(mask);
    must(sigaction(signal, &action, &before_), "sigaction");
  }
  HandlerGuard(const HandlerGuard&) = delete;
  HandlerGuard& operator=(const HandlerGuard&) = delete;
  ~HandlerGuard() { sigaction(signal_, &before_, nullptr); }

 private:
  int signal_;
  struct sigaction before_ = {};
};

class MaskGuard {
 public:
  MaskGuard(int how, std::initializer_list<int> signals) {
    const sigset_t set = signal_set(signals);
    must(pthread_sigmask(how, &set, &before_) == 0 ? 0 : -1, "pthread_sigmask");
  }
  MaskGuard(const MaskGuard&) = delete;
  MaskGuard& operator=(const MaskGuard&) = delete;
  ~MaskGuard() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

// Runs `release` on another thread after `delay_ms`; joined at the end.
class Later {
 public:
  Later(int64_t delay_ms, std::function<void()> release)
      : thread_([delay_ms, release = std::move(release)] {
          sleep_ms(delay_ms);
          release();
        }) {}
  ~Later() { thread_.join(); }

 private:
  std::thread thread_;
};

// What a blocking call did when a handler ran in its middle.
struct Interrupted {
  long result;
  int error;
  int handler_runs;
  int64_t elapsed_ms;
};
// Installs a SIGUSR1 handler with `sa_flags`, runs `call` on this thread, signals this thread after
// 20 ms and runs `release` (which lets the call succeed) after another 30 ms.
Interrupted run_interrupted(int sa_flags, const std::function<long()>& call,
                            const std::function<void()>& release);

}  // namespace caisson::test
