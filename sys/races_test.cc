// Starts while other threads change what a child might inherit, and signals and numbers that come
// at the wrong moment.
#include <gtest/gtest.h>
#include <sys/syscall.h>

#include <atomic>
#include <mutex>
#include <shared_mutex>
#include <thread>

#include "sys/test_support.h"

namespace caisson::sys {
namespace {

using test::helper_path;
using test::in_user_namespace;
using test::no_children;
using test::open_descriptors;

constexpr int kThreads = 8;

// Runs `one` `times` times on eight threads while `others` run over and over on two more.
template <typename One, typename Other>
void race(int times, One one, Other other) {
  std::atomic<bool> stop{false};
  std::atomic<int> left{times};
  std::vector<std::thread> others;
  for (int i = 0; i < 2; ++i)
    others.emplace_back([&, i] {
      for (int round = 0; !stop; ++round) other(i, round);
    });
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i)
    threads.emplace_back([&] {
      while (left.fetch_sub(1) > 0) one();
    });
  for (std::thread& thread : threads) thread.join();
  stop = true;
  for (std::thread& thread : others) thread.join();
}

int exit_status_of(const std::vector<std::string>& argv, const ProcAttr& attr = {}) {
  auto process = start_process(helper_path(), argv, attr);
  if (!process.ok()) {
    ADD_FAILURE() << process.error().text();
    return -1;
  }
  return MUST(process->wait()).status.exit_status();
}

TEST(Races, NoChildSeesAStrayDescriptor) {
  SKIP_WITHOUT_USER_NAMESPACES();
  const int before = open_descriptors();
  std::atomic<int> count{0};
  race(
      1000,
      [&] {
        // Every tenth start talks to its child through a socket.
        ProcAttr attr = count.fetch_add(1) % 10 == 0 ? in_user_namespace() : ProcAttr{};
        EXPECT_EQ(exit_status_of({"helper", "stray", "3"}, attr), 0);
      },
      [](int, int) {
        // Without close-on-exec, the worst that others can do.
        const UniqueFd file(::open("/usr", O_RDONLY));
        const Pipe pipe_ends = MUST(pipe());
      });
  EXPECT_EQ(open_descriptors(), before);
  EXPECT_TRUE(no_children());
}

// The same with the caller's descriptors let through: now it is the fork lock that counts.
TEST(Races, ForkLockCoversDescriptorsThatAreMarkedLate) {
  ProcAttr attr;
  attr.keep_other_files = true;
  race(
      200,
      [&] {
        EXPECT_EQ(exit_status_of({"helper", "stray", "3"}, attr), 0);
      },
      [](int, int) {
        const std::shared_lock lock(fork_lock());
        const Pipe ends = MUST(pipe());
        ASSERT_TRUE(close_on_exec(ends.read_end.get()).ok());
        ASSERT_TRUE(close_on_exec(ends.write_end.get()).ok());
      });
}

TEST(Races, ForkLockSidesExcludeEachOther) {
  ForkLock lock;
  EXPECT_TRUE(lock.try_lock_shared());
  EXPECT_TRUE(lock.try_lock_shared());
  EXPECT_FALSE(lock.try_lock());
  lock.unlock_shared();
  lock.unlock_shared();
  EXPECT_TRUE(lock.try_lock());
  EXPECT_TRUE(lock.try_lock());
  EXPECT_FALSE(lock.try_lock_shared());
  lock.unlock();
  lock.unlock();

  // Neither side starves the other, and they never overlap.
  std::atomic<int> creators{0};
  std::atomic<int> forkers{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 6; ++i)
    threads.emplace_back([&, i] {
      for (int round = 0; round < 2000; ++round) {
        if (i % 2 == 0) {
          const std::shared_lock hold(lock);
          ++creators;
          EXPECT_EQ(forkers, 0);
          --creators;
        } else {
          const std::lock_guard hold(lock);
          ++forkers;
          EXPECT_EQ(creators, 0);
          --forkers;
        }
      }
    });
  for (std::thread& thread : threads) thread.join();
}

// One thread counts twenty variables up, one after the other; the other adds and removes its own.
TEST(Races, AChildGetsOneConsistentEnvironment) {
  const auto set = [](const std::string& name, int value) {
    ASSERT_TRUE(setenv(name, std::to_string(value)).ok());
  };
  const auto name_of = [](const char* prefix, int i) { return prefix + std::to_string(i); };
  for (int i = 0; i < 20; ++i) set(name_of("CAISSON_COUNT_", i), 0);
  race(
      400,
      [] {
        EXPECT_EQ(exit_status_of({"helper", "env", "CAISSON_COUNT_"}), 0);
      },
      [&](int thread, int round) {
        for (int i = 0; i < 20; ++i) {
          if (thread == 0) {
            set(name_of("CAISSON_COUNT_", i), round);
          } else {
            const std::string name = name_of("CAISSON_OTHER_", i + round % 10);
            set(name, i);
            EXPECT_EQ(getenv(name), std::to_string(i));
            ASSERT_TRUE(unsetenv(name).ok());
          }
        }
      });
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(unsetenv(name_of("CAISSON_COUNT_", i)).ok());
}

// Others that fork at the wrong moment and never run a program have copies of the socket by which
// a start talks to its child; no start may wait for them.
TEST(Races, StrayCopiesOfTheSocketHoldNobodyUp) {
  SKIP_WITHOUT_USER_NAMESPACES();
  std::atomic<bool> stop{false};
  std::atomic<bool> late{false};
  std::thread forker([&] {
    std::vector<pid_t> strays;
    const auto end_strays = [&] {
      for (const pid_t pid : strays) {
        ::kill(pid, SIGKILL);
        EXPECT_TRUE(wait4(pid).ok());
      }
      strays.clear();
    };
    while (!stop) {
      const pid_t pid = fork();
      if (pid == 0) {
        for (;;) pause();
      }
      strays.push_back(pid);
      if (strays.size() < 100) continue;
      for (int ms = 0; !stop && ms < 30'000; ++ms) usleep(1000);
      late = !stop;
      end_strays();
    }
    end_strays();
  });
  ProcAttr copied;
  copied.sys.credential = Credential{.uid = geteuid(), .gid = getegid(), .no_set_groups = true};
  for (int i = 0; i < 30; ++i) {
    EXPECT_EQ(exit_status_of({"helper", "stray", "3"}, in_user_namespace()), 0);
    EXPECT_EQ(exit_status_of({"helper", "stray", "3"}, copied), 0);
    auto failing = start_process("/nowhere", {"x"}, copied);
    EXPECT_EQ(failing.error().text(), "exec: No such file or directory");
    auto function = start_function([](void*) { return 7; }, nullptr);
    ASSERT_TRUE(function.ok());
    EXPECT_EQ(MUST(function->wait()).status.exit_status(), 7);
  }
  stop = true;
  forker.join();
  EXPECT_FALSE(late) << "a start waited for a stranger";
}

std::atomic<int> signals_seen{0};
std::atomic<int> signals_in_other_process{0};
int handler_pid = 0;
void on_signal(int) {
  ++signals_seen;
  if (syscall(SYS_getpid) != handler_pid) ++signals_in_other_process;
}

// A handler that ran in the child would run in our memory, on our stack.
TEST(Races, SignalsDuringStarts) {
  SKIP_WITHOUT_USER_NAMESPACES();
  handler_pid = getpid();
  struct sigaction action {};
  struct sigaction before {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  sigaction(SIGUSR1, &action, &before);
  signals_seen = 0;
  std::atomic<bool> stop{false};
  const pthread_t starter = pthread_self();
  std::thread sender([&] {
    while (!stop) {
      pthread_kill(starter, SIGUSR1);
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
  });
  ProcAttr copied;
  copied.sys.credential = Credential{.uid = geteuid(), .gid = getegid(), .no_set_groups = true};
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(exit_status_of({"helper", "stray", "3"}), 0);
    EXPECT_EQ(exit_status_of({"helper", "stray", "3"}, in_user_namespace()), 0);
    EXPECT_EQ(exit_status_of({"helper", "stray", "3"}, copied), 0);
  }
  stop = true;
  sender.join();
  sigaction(SIGUSR1, &before, nullptr);
  EXPECT_GT(signals_seen, 100);
  EXPECT_EQ(signals_in_other_process, 0);
}

// Signals to the whole group reach the child between clone and exec. They end it or not; our
// handler must not run in it, in our memory. In a session of its own, so that only its own group is
// hit.
TEST(Races, GroupSignalsRunNoHandlerInTheChild) {
  ProcAttr attr;
  attr.sys.setsid = true;
  auto process = start_process("/proc/self/exe", {"sys_test", "--signal-own-group"}, attr);
  ASSERT_TRUE(process.ok()) << process.error().text();
  EXPECT_EQ(MUST(process->wait()).status, WaitStatus(0));
}

// A process group's signal while starting ends the child, as it would a moment later.
TEST(Races, ChildKilledAroundExecIsReapedAndReported) {
  for (int i = 0; i < 50; ++i) {
    auto started = start_process("/bin/sleep", {"sleep", "100"});
    ASSERT_TRUE(started.ok());
    ASSERT_TRUE(started->kill(SIGTERM).ok());
    EXPECT_EQ(MUST(started->wait()).status.signal(), Signal(SIGTERM));
  }
  EXPECT_TRUE(no_children());
}

// The pidfd is not fooled by a stranger that was given the number of a child of ours.
TEST(Races, ReusedNumberIsNotSignalled) {
  auto first = start_process("/bin/true", {"true"});
  ASSERT_TRUE(first.ok());
  const int number = first->pid();
  const UniqueFd copy(dup(first->pidfd()));
  // Reaped by another than the Process: it does not know.
  ASSERT_TRUE(wait4(number).ok());
  // A stranger with the same number, where we may choose numbers.
  std::optional<Process> stranger;
  bool may_choose = true;
  for (int i = 0; may_choose && i < 200 && !stranger; ++i) {
    const UniqueFd last(::open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC));
    const std::string text = std::to_string(number - 1);
    may_choose = last && write(last.get(), text.data(), text.size()) > 0;
    if (!may_choose) break;
    auto started = start_process("/bin/sleep", {"sleep", "100"});
    ASSERT_TRUE(started.ok());
    if (started->pid() == number) {
      stranger.emplace(std::move(started).value());
    } else {
      ASSERT_TRUE(started->kill(SIGKILL).ok());
      ASSERT_TRUE(started->wait().ok());
    }
  }
  EXPECT_EQ(first->kill(SIGKILL).error(), Errno(ESRCH));
  EXPECT_EQ(first->wait().error(), Errno(ECHILD));
  if (stranger) {
    EXPECT_FALSE(MUST(stranger->try_wait()).has_value());
    ASSERT_TRUE(stranger->kill(SIGKILL).ok());
    EXPECT_TRUE(stranger->wait().ok());
  } else {
    EXPECT_FALSE(may_choose) << "the number was never given again";
  }
}

}  // namespace

namespace test {

int signal_own_group() {
  handler_pid = sys::getpid();
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  sigaction(SIGUSR1, &action, nullptr);
  const auto start_many = [] {
    std::atomic<bool> stop{false};
    std::thread sender([&] {
      while (!stop) sys::kill(0, SIGUSR1).ok();
    });
    for (int i = 0; i < 100; ++i) {
      auto process = start_process(helper_path(), {"helper", "stray", "3"});
      if (process.ok()) process->wait().ok();
    }
    stop = true;
    sender.join();
  };
  start_many();
  if (!with_denied({{SYS_clone3, ENOSYS}}, start_many)) return 2;
  return signals_in_other_process == 0 && signals_seen > 100 ? 0 : 1;
}

}  // namespace test
}  // namespace caisson::sys
