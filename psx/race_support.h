// What the tests of psx share: running a scenario in a process of its own with a watchdog, and
// threads that can be asked for their personality(2).
//
// personality(2) is the probe of most scenarios: it is per thread, inherited by clone, needs no
// privilege, and returns the value before. So a broadcast of it gives a different result on a
// thread that missed the last one, and on a thread that makes the call twice.
#pragma once

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "psx/guard.h"
#include "psx/psx.h"

namespace caisson::psx::testing {

#ifdef CAISSON_SANITIZED
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif
#if defined(__SANITIZE_THREAD__)
inline constexpr bool kThreadSanitizer = true;
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
inline constexpr bool kThreadSanitizer = true;
#else
inline constexpr bool kThreadSanitizer = false;
#endif
#else
inline constexpr bool kThreadSanitizer = false;
#endif

inline constexpr int kScale = kSanitized ? 20 : 1;  // sanitizers make threads dear

// A scenario without its guard is to fail by the race, not by what a sanitizer makes of it.
#define SKIP_IF_SANITIZED() \
  if (kSanitized) GTEST_SKIP() << "the plain build shows what the guard is for"

enum class Ending { kPass, kFail, kSkip, kKilled, kHang };

struct Report {
  Ending ending;
  std::string errors;  // standard error of the scenario
  int signal = 0;
};

inline double now_s() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

// In a scenario: says why and ends it.
#define REQUIRE(condition)                                                         \
  do {                                                                             \
    if (!(condition)) {                                                            \
      dprintf(2, "%s:%d: %s (errno %d)\n", __FILE__, __LINE__, #condition, errno); \
      _exit(1);                                                                    \
    }                                                                              \
  } while (false)

[[noreturn]] inline void skip(const char* why) {
  dprintf(2, "%s\n", why);
  _exit(77);
}

// How long a scenario waits for threads: a loaded machine stalls for seconds, and one that lacks a
// guard is to fail soon.
inline uint32_t patience_ms() { return internal::removed_guards == 0 ? 20'000 : 1000; }

// Runs `scenario` in a forked child, which is killed after `seconds`, or later where nothing is to
// go wrong. `without`: guards taken out.
template <typename Scenario>
Report run(Scenario scenario, double seconds, std::initializer_list<internal::Guard> without = {}) {
  int errors[2];
  if (pipe2(errors, O_CLOEXEC) != 0) abort();
  fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    dup2(errors[1], 2);
    for (const internal::Guard guard : without) {
      internal::removed_guards |= 1U << static_cast<uint32_t>(guard);
    }
    scenario();
    _exit(0);
  }
  close(errors[1]);
  Report report{Ending::kHang, "", 0};
  const double end = now_s() + (without.size() == 0 ? 3 * seconds : seconds);
  int status = 0;
  for (bool killed = false;;) {
    pollfd ready = {errors[0], POLLIN, 0};
    if (poll(&ready, 1, 20) == 1) {
      char buffer[4096];
      const ssize_t got = read(errors[0], buffer, sizeof(buffer));
      if (got > 0) report.errors.append(buffer, static_cast<size_t>(got));
      if (got == 0) usleep(2000);
    }
    if (waitpid(child, &status, WNOHANG) == child) {
      if (killed) break;
      if (WIFSIGNALED(status)) {
        report.ending = Ending::kKilled;
        report.signal = WTERMSIG(status);
      } else {
        const int code = WEXITSTATUS(status);
        report.ending = code == 0 ? Ending::kPass : code == 77 ? Ending::kSkip : Ending::kFail;
      }
      break;
    }
    if (!killed && now_s() > end) {
      kill(child, SIGKILL);
      killed = true;
    }
  }
  fcntl(errors[0], F_SETFL, O_NONBLOCK);
  char buffer[4096];
  for (ssize_t got; (got = read(errors[0], buffer, sizeof(buffer))) > 0;) {
    report.errors.append(buffer, static_cast<size_t>(got));
  }
  close(errors[0]);
  return report;
}

#define EXPECT_PASSES(report_expression)                              \
  do {                                                                \
    const auto report_ = (report_expression);                         \
    if (report_.ending == ::caisson::psx::testing::Ending::kSkip) {   \
      GTEST_SKIP() << report_.errors;                                 \
    }                                                                 \
    EXPECT_EQ(report_.ending, ::caisson::psx::testing::Ending::kPass) \
        << "signal " << report_.signal << "\n"                        \
        << report_.errors;                                            \
  } while (false)

// A personality for the n-th broadcast: bits that change nothing for a 64-bit program.
inline unsigned long mark(unsigned n) {
  return (n & 1 ? SHORT_INODE : 0) | (n & 2 ? WHOLE_SECONDS : 0) | (n & 4 ? STICKY_TIMEOUTS : 0);
}
inline unsigned long own_mark() {
  return static_cast<unsigned long>(syscall(SYS_personality, 0xffffffffUL));
}
inline Outcome broadcast_mark(unsigned n) { return syscall3(SYS_personality, mark(n), 0, 0); }

// Threads that wait until they are asked, and then say what their personality is.
class Crew {
 public:
  enum class Kind { kIdle, kBusy };

  explicit Crew(int count, Kind kind = Kind::kIdle) : kind_(kind), threads_(count) {
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 128 * 1024);
    for (auto& thread : threads_) {
      REQUIRE(pthread_create(&thread, &small, &Crew::body, this) == 0);
    }
    while (started_ != count) usleep(100);
  }
  ~Crew() {
    stop_ = true;
    ask();
    for (auto& thread : threads_) pthread_join(thread, nullptr);
  }
  // How many threads have another personality than this one.
  int count_unlike(unsigned long expected) {
    expected_ = expected;
    unlike_ = 0;
    answered_ = 0;
    ask();
    while (answered_ != static_cast<int>(threads_.size())) usleep(50);
    return unlike_;
  }

 private:
  static void* body(void* crew) {
    static_cast<Crew*>(crew)->work();
    return nullptr;
  }
  void ask() {
    asked_++;
    syscall(SYS_futex, &asked_, FUTEX_WAKE_PRIVATE, 1 << 30);
  }
  void work() {
    int seen = asked_;
    started_++;
    while (!stop_) {
      if (seen == asked_) {
        if (kind_ == Kind::kIdle) {
          syscall(SYS_futex, &asked_, FUTEX_WAIT_PRIVATE, seen, nullptr);
        }
        continue;
      }
      seen = asked_;
      if (own_mark() != expected_) unlike_++;
      answered_++;
    }
  }

  const Kind kind_;
  std::vector<pthread_t> threads_;
  std::atomic<bool> stop_{false};
  std::atomic<int> started_{0}, asked_{0}, answered_{0}, unlike_{0};
  std::atomic<unsigned long> expected_{0};
};

// What SYS_rt_sigaction takes; glibc's own function refuses signal 33.
struct KernelSigaction {
  void (*handler)(int, siginfo_t*, void*);
  unsigned long flags;
  void (*restorer)();
  uint64_t mask;
};

// Gives signal 33 a handler of the program's own.
inline void handle_signal_33(void (*handler)(int, siginfo_t*, void*)) {
  KernelSigaction action = {};  // the present one, for its restorer
  syscall(SYS_rt_sigaction, 33, nullptr, &action, 8);
  action.handler = handler;
  syscall(SYS_rt_sigaction, 33, &action, nullptr, 8);
}

inline pthread_t start(void* (*body)(void*), void* argument = nullptr) {
  pthread_t thread;
  REQUIRE(pthread_create(&thread, nullptr, body, argument) == 0);
  return thread;
}

// From here on the calling thread's filter does `action` when it sees the call; `second`: only if
// this is the call's second argument.
inline void filter_on(int nr, uint32_t action, int second = -1) {
  std::vector<sock_filter> program = {
      BPF_STMT(BPF_RET | BPF_K, action),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const auto only_if = [&](size_t field, int value) {
    const auto rest = static_cast<uint8_t>(program.size() - 1);
    const sock_filter test[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(field)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(value), 0, rest),
    };
    program.insert(program.begin(), test, test + 2);
  };
  if (second >= 0) only_if(offsetof(seccomp_data, args[1]), second);
  only_if(offsetof(seccomp_data, nr), nr);
  const sock_fprog filter = {static_cast<uint16_t>(program.size()), program.data()};
  REQUIRE(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  REQUIRE(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter) == 0);
}
inline void refuse(int nr, int error, int second = -1) {
  filter_on(nr, SECCOMP_RET_ERRNO | static_cast<uint32_t>(error), second);
}
inline void kill_on(int nr) { filter_on(nr, SECCOMP_RET_KILL_PROCESS); }

// A field of /proc/self/task/<tid>/status.
inline std::string status_field(const std::string& tid, const std::string& field) {
  std::ifstream file("/proc/self/task/" + tid + "/status");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind(field + ":", 0) == 0) {
      const size_t at = line.find_first_not_of(" \t", field.size() + 1);
      return at == std::string::npos ? "" : line.substr(at);
    }
  }
  return "?";
}

}  // namespace caisson::psx::testing
