// Two things at the same moment, many times: each test is named after its race and lasts about 100
// ms.
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <system_error>
#include <thread>

#include "tests/util/child.h"
#include "tests/util/clock.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"
#include "tests/util/program.h"
#include "tests/util/signals.h"

namespace caisson::test {
namespace {

constexpr int64_t kRaceMs = 100;

std::atomic<int> handled;
void count(int) { ++handled; }

int leave_with_7(int, char**) { return 7; }
RegisterProbe leave_probe("leave", leave_with_7);

// Starts a thread that ends at once; refusals (a process that is going away starts none) are fine.
void start_thread() {
  try {
    std::thread([] {}).join();
  } catch (const std::system_error&) {
  }
}

// Sends SIGUSR1 to one thread over and over while alive.
class SignalStorm {
 public:
  explicit SignalStorm(pid_t tid)
      : thread_([this, tid] {
          while (!stop_) {
            tgkill_now(getpid(), tid, SIGUSR1);
            sleep_us(100);
          }
        }) {}
  ~SignalStorm() {
    stop_ = true;
    thread_.join();
  }

 private:
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

TEST(Races, SignalsDuringFork) {
  HandlerGuard handler(SIGUSR1, count, SA_RESTART);
  SignalStorm storm(gettid_now());
  for (Stopwatch watch; watch.ms() < kRaceMs;) {
    const pid_t pid = fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) _exit(5);
    int status;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    ASSERT_THAT(status, ExitedWith(5));
  }
}

TEST(Races, SignalsDuringPipeTraffic) {
  handled = 0;
  HandlerGuard handler(SIGUSR1, count, SA_RESTART);
  Pipe pipe = must_pipe();
  std::thread writer([&] {
    for (uint32_t i = 0; i < 20'000; ++i) {
      ASSERT_THAT(write(pipe.write_end.get(), &i, sizeof(i)), SucceedsWith(4)) << i;
    }
    pipe.write_end.reset();
  });
  {
    SignalStorm storm(gettid_now());
    for (uint32_t i = 0; i < 20'000; ++i) {
      uint32_t value = ~0u;
      ASSERT_THAT(read(pipe.read_end.get(), &value, sizeof(value)), SucceedsWith(4)) << i;
      ASSERT_EQ(value, i);
    }
  }
  writer.join();
}

TEST(Races, SignalsAgainstRegisters) {
  HandlerGuard handler(SIGUSR1, count, SA_RESTART);
  SignalStorm storm(gettid_now());
  for (Stopwatch watch; watch.ms() < kRaceMs;) {
    uint64_t a = 0x1111, b = 0x2222, rounds = 5000;
    asm volatile(
        "1: mov %%rax, %%r8\n mov %%rbx, %%r9\n add %%r8, %%r9\n sub %%r9, %%r8\n neg %%r8\n"
        "cmp %%r8, %%rbx\n jne 2f\n dec %%rcx\n jnz 1b\n 2:\n"
        : "+a"(a), "+b"(b), "+c"(rounds)
        :
        : "r8", "r9", "cc");
    ASSERT_EQ(rounds, 0u);
  }
}

TEST(Races, KillAgainstFork) {
  for (int round = 0; round < 20; ++round) {
    Child child = Child::run([] {
      setpgid(0, 0);
      for (int i = 0; i < 100; ++i) {
        if (fork() == 0) {
          while (true) pause();
        }
      }
      while (true) pause();
      return 0;
    });
    ASSERT_TRUE(eventually([&] { return getpgid(child.pid()) == child.pid(); }));
    sleep_us(100 * round);
    // All members at that instant are hit; those forked meanwhile by a survivor can't exist.
    ASSERT_THAT(kill(-child.pid(), SIGKILL), SucceedsWith(0));
    EXPECT_THAT(child.wait(), KilledBy(SIGKILL));
    EXPECT_TRUE(eventually([&] {
      return kill(-child.pid(), SIGKILL) == -1 || waitpid(-child.pid(), nullptr, WNOHANG) == -1;
    }));
  }
}

TEST(Races, ExitGroupAgainstClone) {
  for (int round = 0; round < 20; ++round) {
    Child child = Child::run([round] {
      for (int i = 0; i < 3; ++i) {
        std::thread([] {
          while (true) start_thread();
        }).detach();
      }
      sleep_us(100 * round);
      syscall(SYS_exit_group, 9);
      return 1;
    });
    EXPECT_THAT(child.wait(), ExitedWith(9));
  }
}

TEST(Races, ExecAgainstClone) {
  const auto command = probe_command("leave");
  const auto arguments = exec_vector(command);
  for (int round = 0; round < 10; ++round) {
    Child child = Child::run([&] {
      for (int i = 0; i < 2; ++i) {
        std::thread([] {
          while (true) start_thread();
        }).detach();
      }
      sleep_us(100 * round);
      execv(arguments[0], arguments.data());
      return 1;
    });
    EXPECT_THAT(child.wait(), ExitedWith(7));
  }
}

TEST(Races, KillAgainstExec) {
  const auto command = probe_command("leave");
  const auto arguments = exec_vector(command);
  for (int round = 0; round < 40; ++round) {
    Child child = Child::run([&] {
      execv(arguments[0], arguments.data());
      return 1;
    });
    sleep_us(30 * round);
    kill(child.pid(), SIGTERM);
    const int status = child.wait();
    EXPECT_TRUE((WIFEXITED(status) && WEXITSTATUS(status) == 7) ||
                (WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM))
        << wait_status_name(status);
  }
}

TEST(Races, ContinueAgainstStop) {
  Child child = Child::run([]() -> int {
    while (true) sched_yield();
  });
  for (Stopwatch watch; watch.ms() < kRaceMs;) {
    child.kill(SIGSTOP);
    child.kill(SIGCONT);
  }
  child.kill(SIGTERM);
  EXPECT_THAT(child.wait(), KilledBy(SIGTERM));
}

TEST(Races, KillAgainstStop) {
  for (int round = 0; round < 30; ++round) {
    Child child = Child::run([]() -> int {
      while (true) sched_yield();
    });
    std::thread stopper([&] { kill(child.pid(), SIGSTOP); });
    kill(child.pid(), SIGKILL);
    stopper.join();
    EXPECT_THAT(child.wait(), KilledBy(SIGKILL));
  }
}

TEST(Races, CloseAgainstPoll) {
  for (int round = 0; round < 30; ++round) {
    Pipe pipe = must_pipe();
    std::thread closer([&] {
      sleep_us(round * 20);
      pipe.write_end.reset();
    });
    pollfd entry = {pipe.read_end.get(), POLLIN, 0};
    EXPECT_THAT(poll(&entry, 1, 5000), SucceedsWith(1));
    EXPECT_EQ(entry.revents, POLLHUP);
    closer.join();
  }
}

TEST(Races, FutexWakeAgainstTimeout) {
  std::atomic<uint32_t> word = 0;
  std::atomic<int> woken = 0, counted = 0;
  std::atomic<bool> stop = false;
  std::thread waker([&] {
    while (!stop) {
      counted += static_cast<int>(syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1));
    }
  });
  for (Stopwatch watch; watch.ms() < kRaceMs;) {
    const timespec limit = from_ns(50'000);
    if (syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &limit) == 0) ++woken;
  }
  stop = true;
  waker.join();
  // Whom the waker counted, and nobody else, saw success.
  EXPECT_EQ(woken, counted);
}

TEST(Races, ForkAgainstMemoryChanges) {
  std::atomic<bool> stop = false;
  std::thread mapper([&] {
    while (!stop) {
      Mapping memory = Mapping::anonymous(16 * kPageSize);
      for (int i = 0; i < 16; ++i) memory.page(i)[0] = 1;
      mprotect(memory.page(3), 5 * kPageSize, PROT_READ);
    }
  });
  Mapping stable = Mapping::anonymous(64 * kPageSize);
  for (int i = 0; i < 64; ++i) stable.page(i)[0] = static_cast<char>(i);
  for (Stopwatch watch; watch.ms() < kRaceMs;) {
    const pid_t pid = fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      for (int i = 0; i < 64; ++i) {
        if (stable.page(i)[0] != i) _exit(1);
        stable.page(i)[0] = 0;
      }
      _exit(0);
    }
    int status;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    ASSERT_THAT(status, ExitedWith(0));
  }
  for (int i = 0; i < 64; ++i) EXPECT_EQ(stable.page(i)[0], i);
  stop = true;
  mapper.join();
}

TEST(Races, WriteFaultAgainstFork) {
  // A thread writes all the time; no write may be lost or appear in a child later on.
  Mapping page = Mapping::anonymous(kPageSize);
  auto* counter = page.as<std::atomic<uint64_t>>();
  std::atomic<bool> stop = false;
  uint64_t written = 0;
  std::thread writer([&] {
    while (!stop) {
      counter->fetch_add(1);
      ++written;
    }
  });
  for (Stopwatch watch; watch.ms() < kRaceMs;) {
    const pid_t pid = fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      const uint64_t seen = *counter;
      for (int i = 0; i < 1000; ++i) {
        if (*counter != seen) _exit(1);
      }
      _exit(0);
    }
    int status;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    ASSERT_THAT(status, ExitedWith(0));
  }
  stop = true;
  writer.join();
  EXPECT_EQ(*counter, written);
}

TEST(Races, TimerAgainstSleep) {
  HandlerGuard handler(SIGALRM, count, SA_RESTART);
  const itimerval fast = {{0, 300}, {0, 300}}, off = {};
  must(setitimer(ITIMER_REAL, &fast, nullptr), "setitimer");
  for (Stopwatch watch; watch.ms() < kRaceMs;) {
    timespec rest = from_ns(700'000);
    const int64_t end = now_ns() + 700'000;
    while (nanosleep(&rest, &rest) == -1) ASSERT_EQ(errno, EINTR);
    ASSERT_GE(now_ns(), end - 1000);
  }
  must(setitimer(ITIMER_REAL, &off, nullptr), "setitimer");
}

}  // namespace
}  // namespace caisson::test
