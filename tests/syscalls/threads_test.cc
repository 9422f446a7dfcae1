// Threads as pthread makes them: create and join, TLS, exit_group, exec and exit from odd threads.
#include <pthread.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <condition_variable>
#include <csignal>
#include <mutex>
#include <thread>

#include "tests/util/child.h"
#include "tests/util/clock.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"
#include "tests/util/program.h"
#include "tests/util/signals.h"

namespace caisson::test {
namespace {

int wait_forever() {
  while (true) pause();
}

TEST(Threads, CreateAndJoinManyTimes) {
  int sum = 0;
  for (int i = 0; i < 10'000; ++i) {
    pthread_t thread;
    ASSERT_EQ(pthread_create(
                  &thread, nullptr,
                  [](void* count) -> void* {
                    ++*static_cast<int*>(count);
                    return count;
                  },
                  &sum),
              0);
    void* result;
    ASSERT_EQ(pthread_join(thread, &result), 0);
    ASSERT_EQ(result, &sum);
  }
  EXPECT_EQ(sum, 10'000);
}

TEST(Threads, ManyAtOnce) {
  constexpr int kThreads = 100;
  std::mutex mutex;
  std::condition_variable all_there;
  int there = 0;
  std::vector<pid_t> tids(kThreads);
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      tids[i] = gettid_now();
      std::unique_lock lock(mutex);
      if (++there == kThreads) all_there.notify_all();
      all_there.wait(lock, [&] { return there == kThreads; });
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::sort(tids.begin(), tids.end());
  EXPECT_EQ(std::unique(tids.begin(), tids.end()), tids.end());
  EXPECT_EQ(std::count(tids.begin(), tids.end(), getpid()), 0);
}

TEST(Threads, IdsAreShared) {
  const pid_t pid = getpid(), ppid = getppid();
  std::thread([&] {
    EXPECT_EQ(syscall(SYS_getpid), pid);
    EXPECT_EQ(syscall(SYS_getppid), ppid);
    EXPECT_NE(gettid_now(), pid);
    EXPECT_EQ(getpgid(0), getpgid(pid));
  }).join();
  EXPECT_EQ(gettid_now(), pid);
}

thread_local uint64_t tls_value = 5;
thread_local char tls_block[4096] = {1};

TEST(Threads, ThreadLocalStorageIsPrivate) {
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      EXPECT_EQ(tls_value, 5u);
      EXPECT_EQ(tls_block[0], 1);
      for (int i = 0; i < 2000; ++i) {
        tls_value = t * 1'000'000 + i;
        tls_block[i] = static_cast<char>(t);
        if (i % 100 == 0) sched_yield();
        ASSERT_EQ(tls_value, t * 1'000'000 + i);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(tls_value, 5u);
}

TEST(Threads, MutexAndConditionPingPong) {
  std::mutex mutex;
  std::condition_variable turn_changed;
  int turn = 0, rounds = 0;
  auto player = [&](int me) {
    for (int i = 0; i < 2000; ++i) {
      std::unique_lock lock(mutex);
      turn_changed.wait(lock, [&] { return turn == me; });
      turn = 1 - me;
      ++rounds;
      turn_changed.notify_one();
    }
  };
  std::thread one(player, 0), two(player, 1);
  one.join();
  two.join();
  EXPECT_EQ(rounds, 4000);
}

TEST(Threads, ContendedMutexLosesNoUpdate) {
  std::mutex mutex;
  int64_t count = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 20'000; ++i) {
        std::lock_guard lock(mutex);
        ++count;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(count, 80'000);
}

TEST(Threads, ExitGroupFromThreadEndsAll) {
  Child child = Child::run([] {
    std::thread([] { syscall(SYS_exit_group, 13); }).detach();
    return wait_forever();
  });
  EXPECT_THAT(child.wait(), ExitedWith(13));
}

TEST(Threads, ExitGroupEndsSpinnersAndSleepers) {
  Child child = Child::run([] {
    for (int i = 0; i < 3; ++i) {
      std::thread([] {
        volatile uint64_t spin = 0;
        while (true) spin = spin + 1;
      }).detach();
      std::thread(wait_forever).detach();
    }
    sleep_ms(5);
    return 14;
  });
  EXPECT_THAT(child.wait(), ExitedWith(14));
}

TEST(Threads, LeaderMayExitFirst) {
  Child child = Child::run([] {
    std::thread([] {
      sleep_ms(20);
      REQUIRE(kill(getpid(), 0) == 0);
      _exit(15);
    }).detach();
    syscall(SYS_exit, 3);
    return 99;
  });
  // A leader without its group is not reported while other threads live.
  sleep_ms(8);
  EXPECT_THAT(waitpid(child.pid(), nullptr, WNOHANG), SucceedsWith(0));
  EXPECT_THAT(child.wait(), ExitedWith(15));
}

// Without exit_group the last thread's status becomes the process's (Linux 5.17 and later).
TEST(Threads, LastThreadLeavesTheStatus) {
  Child child = Child::run([] {
    std::thread([] {
      sleep_ms(10);
      syscall(SYS_exit, 8);
    }).detach();
    syscall(SYS_exit, 3);
    return 99;
  });
  EXPECT_THAT(child.wait(), ExitedWith(8));
}

TEST(Threads, SignalKillsWholeProcess) {
  Child child = Child::run([] {
    std::thread([] { raise(SIGTERM); }).detach();
    return wait_forever();
  });
  EXPECT_THAT(child.wait(), KilledBy(SIGTERM));
}

TEST(Threads, FaultInThreadKillsWholeProcess) {
  Child child = Child::run([] {
    std::thread([] { *static_cast<volatile int*>(bad_pointer()) = 1; }).detach();
    return wait_forever();
  });
  EXPECT_THAT(child.wait(), KilledBy(SIGSEGV));
}

int print_ids(int, char**) { return getpid() == gettid_now() ? 17 : 18; }
RegisterProbe print_ids_probe("thread_ids", print_ids);

TEST(Threads, ExecFromNonLeaderTakesTheLeadersId) {
  const auto command = probe_command("thread_ids");
  Child child = Child::run([&] {
    std::thread([&] {
      execv(program_path().c_str(), exec_vector(command).data());
      _exit(90);
    }).detach();
    return wait_forever();
  });
  EXPECT_THAT(child.wait(), ExitedWith(17));
}

TEST(Threads, ExecEndsOtherThreads) {
  const auto command = probe_command("thread_ids");
  Child child = Child::run([&] {
    for (int i = 0; i < 4; ++i) {
      std::thread([] {
        volatile uint64_t spin = 0;
        while (true) spin = spin + 1;
      }).detach();
      std::thread(wait_forever).detach();
    }
    sleep_ms(2);
    execv(program_path().c_str(), exec_vector(command).data());
    return 90;
  });
  EXPECT_THAT(child.wait(), ExitedWith(17));
}

TEST(Threads, FailedExecKeepsThreads) {
  Child child = Child::run([] {
    std::atomic<int> ticks = 0;
    std::thread ticker([&] {
      while (ticks < 1'000'000'000) ++ticks;
    });
    REQUIRE(execl("/nonexistent", "x", nullptr) == -1 && errno == ENOENT);
    const int before = ticks;
    REQUIRE(eventually([&] { return ticks > before; }));
    _exit(0);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

TEST(Threads, TwoExecsRaceOneWins) {
  const auto command = probe_command("thread_ids");
  for (int round = 0; round < 10; ++round) {
    Child child = Child::run([&] {
      for (int i = 0; i < 2; ++i) {
        std::thread([&] { execv(program_path().c_str(), exec_vector(command).data()); }).detach();
      }
      return wait_forever();
    });
    EXPECT_THAT(child.wait(), ExitedWith(17));
  }
}

TEST(Threads, ExitRacesWithExec) {
  const auto command = probe_command("thread_ids");
  for (int round = 0; round < 10; ++round) {
    Child child = Child::run([&] {
      std::thread([&] { execv(program_path().c_str(), exec_vector(command).data()); }).detach();
      sleep_us(50 * round);
      return 19;
    });
    const int status = child.wait();
    EXPECT_TRUE(WIFEXITED(status) && (WEXITSTATUS(status) == 17 || WEXITSTATUS(status) == 19))
        << wait_status_name(status);
  }
}

TEST(Threads, ForkFromThreadMakesItTheLeader) {
  std::thread([] {
    Child child = Child::run([] { return getpid() == gettid_now() ? 0 : 1; });
    EXPECT_THAT(child.wait(), ExitedWith(0));
  }).join();
}

TEST(Threads, JoinSeesThreadsWithBigStacks) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  ASSERT_EQ(pthread_attr_setstacksize(&attributes, 64 << 20), 0);
  pthread_t thread;
  ASSERT_EQ(pthread_create(
                &thread, &attributes,
                [](void*) -> void* {
                  volatile char big[32 << 20];
                  for (size_t i = 0; i < sizeof(big); i += 4096)
                    big[i] = static_cast<char>(i >> 12);
                  for (size_t i = 0; i < sizeof(big); i += 4096) {
                    if (big[i] != static_cast<char>(i >> 12)) return nullptr;
                  }
                  return reinterpret_cast<void*>(1);
                },
                nullptr),
            0);
  void* result = nullptr;
  EXPECT_EQ(pthread_join(thread, &result), 0);
  EXPECT_NE(result, nullptr);
  pthread_attr_destroy(&attributes);
}

TEST(Threads, CancellationOfABlockedThread) {
  pthread_t thread;
  ASSERT_EQ(pthread_create(
                &thread, nullptr,
                [](void*) -> void* {
                  while (true) pause();
                },
                nullptr),
            0);
  sleep_ms(5);
  EXPECT_EQ(pthread_cancel(thread), 0);
  void* result = nullptr;
  EXPECT_EQ(pthread_join(thread, &result), 0);
  EXPECT_EQ(result, PTHREAD_CANCELED);
}

}  // namespace
}  // namespace caisson::test
