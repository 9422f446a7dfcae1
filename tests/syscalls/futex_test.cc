// futex(2): wait, wake, bitset, requeue, wake_op, timeouts, shared and private keys, robust lists,
// clear_child_tid.
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <thread>

#include "tests/util/child.h"
#include "tests/util/clock.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"
#include "tests/util/signals.h"
#include "tests/util/temp_dir.h"

namespace caisson::test {
namespace {

using Word = std::atomic<uint32_t>;

long futex(Word* word, int operation, uint32_t value, const void* timeout_or_count = nullptr,
           Word* second = nullptr, uint32_t third = 0) {
  return syscall(SYS_futex, word, operation, value, timeout_or_count, second, third);
}
const void* as_count(long count) { return reinterpret_cast<const void*>(count); }

// N threads that wait on a word; counts who woke.
class Waiters {
 public:
  Waiters(int count, Word* word, int operation, uint32_t bits = ~0u) {
    for (int i = 0; i < count; ++i) {
      threads_.emplace_back([=, this] {
        ++started_;
        if (futex(word, operation, 0, nullptr, nullptr, bits) == 0) ++woken_;
      });
    }
    eventually([&] { return started_ == count; });
    sleep_ms(15);
  }
  ~Waiters() { join(); }
  void join() {
    for (std::thread& thread : threads_) {
      if (thread.joinable()) thread.join();
    }
  }
  bool woken_becomes(int count) {
    return eventually([&] { return woken_ >= count; }) && (sleep_ms(5), woken_ == count);
  }

 private:
  std::vector<std::thread> threads_;
  std::atomic<int> started_ = 0, woken_ = 0;
};

class FutexBoth : public ::testing::TestWithParam<int> {
 protected:
  int wait_ = FUTEX_WAIT | GetParam(), wake_ = FUTEX_WAKE | GetParam();
  int flag_ = GetParam();
  Mapping page_ = Mapping::shared(kPageSize);
  Word* word_ = page_.as<Word>();
  Word* other_ = page_.as<Word>(64);
};

TEST_P(FutexBoth, WaitComparesValue) {
  *word_ = 5;
  EXPECT_THAT(futex(word_, wait_, 4), FailsWith(EAGAIN));
}

TEST_P(FutexBoth, WakeCounts) {
  EXPECT_THAT(futex(word_, wake_, 1), SucceedsWith(0));
  Waiters waiters(5, word_, wait_);
  EXPECT_THAT(futex(word_, wake_, 2), SucceedsWith(2));
  EXPECT_TRUE(waiters.woken_becomes(2));
  EXPECT_THAT(futex(word_, wake_, INT_MAX), SucceedsWith(3));
  EXPECT_TRUE(waiters.woken_becomes(5));
}

TEST_P(FutexBoth, RelativeTimeout) {
  timespec limit = from_ms(30);
  Stopwatch watch;
  EXPECT_THAT(futex(word_, wait_, 0, &limit), FailsWith(ETIMEDOUT));
  EXPECT_GE(watch.ms(), 29);
  EXPECT_LT(watch.ms(), 2000);
  limit = {};
  EXPECT_THAT(futex(word_, wait_, 0, &limit), FailsWith(ETIMEDOUT));
  limit = {0, 1'000'000'000};
  EXPECT_THAT(futex(word_, wait_, 0, &limit), FailsWith(EINVAL));
  limit = {-1, 0};
  EXPECT_THAT(futex(word_, wait_, 0, &limit), FailsWith(EINVAL));
  EXPECT_THAT(futex(word_, wait_, 0, bad_pointer()), FailsWith(EFAULT));
}

TEST_P(FutexBoth, AbsoluteTimeouts) {
  for (int clock : {0, FUTEX_CLOCK_REALTIME}) {
    timespec limit = from_ns(now_ns(clock == 0 ? CLOCK_MONOTONIC : CLOCK_REALTIME) + 30'000'000);
    Stopwatch watch;
    EXPECT_THAT(futex(word_, FUTEX_WAIT_BITSET | flag_ | clock, 0, &limit, nullptr, ~0u),
                FailsWith(ETIMEDOUT));
    EXPECT_GE(watch.ms(), 28);
    EXPECT_LT(watch.ms(), 2000);
    limit = from_ns(1'000'000'000);
    EXPECT_THAT(futex(word_, FUTEX_WAIT_BITSET | flag_ | clock, 0, &limit, nullptr, ~0u),
                FailsWith(ETIMEDOUT));
  }
}

TEST_P(FutexBoth, Bitsets) {
  EXPECT_THAT(futex(word_, FUTEX_WAIT_BITSET | flag_, 0, nullptr, nullptr, 0), FailsWith(EINVAL));
  EXPECT_THAT(futex(word_, FUTEX_WAKE_BITSET | flag_, 1, nullptr, nullptr, 0), FailsWith(EINVAL));
  Waiters low(2, word_, FUTEX_WAIT_BITSET | flag_, 0x0f);
  Waiters high(2, word_, FUTEX_WAIT_BITSET | flag_, 0xf0);
  EXPECT_THAT(futex(word_, FUTEX_WAKE_BITSET | flag_, 10, nullptr, nullptr, 0xf00),
              SucceedsWith(0));
  EXPECT_THAT(futex(word_, FUTEX_WAKE_BITSET | flag_, 10, nullptr, nullptr, 0x80), SucceedsWith(2));
  EXPECT_TRUE(high.woken_becomes(2));
  // A plain wake matches all.
  EXPECT_THAT(futex(word_, wake_, 10), SucceedsWith(2));
  EXPECT_TRUE(low.woken_becomes(2));
}

TEST_P(FutexBoth, Requeue) {
  Waiters waiters(5, word_, wait_);
  EXPECT_THAT(futex(word_, FUTEX_REQUEUE | flag_, 1, as_count(2), other_), SucceedsWith(3));
  EXPECT_TRUE(waiters.woken_becomes(1));
  EXPECT_THAT(futex(word_, wake_, 10), SucceedsWith(2));
  EXPECT_TRUE(waiters.woken_becomes(3));
  EXPECT_THAT(futex(other_, wake_, 10), SucceedsWith(2));
  EXPECT_TRUE(waiters.woken_becomes(5));
}

TEST_P(FutexBoth, CmpRequeue) {
  *word_ = 0;
  Waiters waiters(3, word_, wait_);
  EXPECT_THAT(futex(word_, FUTEX_CMP_REQUEUE | flag_, 1, as_count(10), other_, 1),
              FailsWith(EAGAIN));
  EXPECT_THAT(futex(word_, FUTEX_CMP_REQUEUE | flag_, 1, as_count(10), other_, 0), SucceedsWith(3));
  EXPECT_TRUE(waiters.woken_becomes(1));
  EXPECT_THAT(futex(word_, wake_, 10), SucceedsWith(0));
  EXPECT_THAT(futex(other_, wake_, 10), SucceedsWith(2));
  EXPECT_TRUE(waiters.woken_becomes(3));
  EXPECT_THAT(futex(word_, FUTEX_CMP_REQUEUE | flag_, -1, as_count(1), other_, 0),
              FailsWith(EINVAL));
}

TEST_P(FutexBoth, WakeOp) {
  Waiters first(1, word_, wait_), second(2, other_, wait_);
  // *other = 3 (was 0); wakes waiters of `other` because the old value equals 0.
  EXPECT_THAT(futex(word_, FUTEX_WAKE_OP | flag_, 1, as_count(1), other_,
                    FUTEX_OP(FUTEX_OP_SET, 3, FUTEX_OP_CMP_EQ, 0)),
              SucceedsWith(2));
  EXPECT_EQ(*other_, 3u);
  EXPECT_TRUE(first.woken_becomes(1));
  EXPECT_TRUE(second.woken_becomes(1));
  // Comparison false: only the first word's waiters.
  EXPECT_THAT(futex(word_, FUTEX_WAKE_OP | flag_, 1, as_count(1), other_,
                    FUTEX_OP(FUTEX_OP_ADD, 2, FUTEX_OP_CMP_LT, 3)),
              SucceedsWith(0));
  EXPECT_EQ(*other_, 5u);
  futex(word_, FUTEX_WAKE_OP | flag_, 0, as_count(0), other_,
        FUTEX_OP(FUTEX_OP_OR, 8, FUTEX_OP_CMP_LT, 0));
  EXPECT_EQ(*other_, 13u);
  futex(word_, FUTEX_WAKE_OP | flag_, 0, as_count(0), other_,
        FUTEX_OP(FUTEX_OP_ANDN, 4, FUTEX_OP_CMP_LT, 0));
  EXPECT_EQ(*other_, 9u);
  futex(word_, FUTEX_WAKE_OP | flag_, 0, as_count(0), other_,
        FUTEX_OP(FUTEX_OP_XOR | FUTEX_OP_OPARG_SHIFT, 1, FUTEX_OP_CMP_LT, 0));
  EXPECT_EQ(*other_, 11u);
  EXPECT_THAT(futex(other_, wake_, 10), SucceedsWith(1));
}

TEST_P(FutexBoth, AddressErrors) {
  auto* misaligned = reinterpret_cast<Word*>(page_.address() + 2);
  EXPECT_THAT(futex(misaligned, wait_, 0), FailsWith(EINVAL));
  EXPECT_THAT(futex(misaligned, wake_, 1), FailsWith(EINVAL));
  auto* bad = static_cast<Word*>(bad_pointer());
  EXPECT_THAT(futex(bad, wait_, 0), FailsWith(EFAULT));
  EXPECT_THAT(futex(bad, FUTEX_REQUEUE | flag_, 1, as_count(1), word_), FailsWith(EFAULT));
  GuardedPages hole;
  EXPECT_THAT(futex(reinterpret_cast<Word*>(hole.end()), wait_, 0), FailsWith(EFAULT));
  EXPECT_THAT(futex(nullptr, wait_, 0), FailsWith(EFAULT));
}

INSTANTIATE_TEST_SUITE_P(Keys, FutexBoth, ::testing::Values(0, FUTEX_PRIVATE_FLAG),
                         [](const auto& info) { return info.param == 0 ? "Shared" : "Private"; });

TEST(Futex, UnknownOperations) {
  Word word = 0;
  EXPECT_THAT(futex(&word, 99, 0), FailsWith(ENOSYS));
  EXPECT_THAT(futex(&word, FUTEX_FD, 0), FailsWith(ENOSYS));
  EXPECT_THAT(futex(&word, FUTEX_WAKE | FUTEX_CLOCK_REALTIME, 0), FailsWith(ENOSYS));
}

TEST(Futex, AcrossProcessesByPageNotAddress) {
  TempDir dir;
  UniqueFd fd = must_open(dir.file("shared"), O_RDWR | O_CREAT);
  must(ftruncate(fd.get(), kPageSize), "ftruncate");
  Mapping mine = Mapping::map(kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  Child child = Child::run([&] {
    Mapping own = Mapping::map(kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    timespec limit = from_ms(10'000);
    own.as<Word>(4)->store(1);
    REQUIRE(futex(own.as<Word>(), FUTEX_WAIT, 0, &limit) == 0);
    return 0;
  });
  EXPECT_TRUE(eventually([&] { return *mine.as<Word>(4) == 1; }));
  EXPECT_TRUE(eventually([&] { return futex(mine.as<Word>(), FUTEX_WAKE, 1) == 1; }));
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

TEST(Futex, PrivateKeysOfProcessesDiffer) {
  Mapping page = Mapping::shared(kPageSize);
  Word* word = page.as<Word>();
  Child child = Child::run([&] {
    timespec limit = from_ms(100);
    REQUIRE(futex(word, FUTEX_WAIT_PRIVATE, 0, &limit) == -1 && errno == ETIMEDOUT);
    return 0;
  });
  for (int i = 0; i < 5; ++i) {
    sleep_ms(10);
    EXPECT_THAT(futex(word, FUTEX_WAKE_PRIVATE, 1), SucceedsWith(0));
  }
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

TEST(Futex, MutexUnderContention) {
  Word state = 0;
  int64_t count = 0;
  auto loop = [&] {
    for (int i = 0; i < 5000; ++i) {
      // 0 free, 1 taken, 2 taken and somebody may wait.
      uint32_t seen = 0;
      if (!state.compare_exchange_strong(seen, 1)) {
        if (seen != 2) seen = state.exchange(2);
        while (seen != 0) {
          futex(&state, FUTEX_WAIT_PRIVATE, 2);
          seen = state.exchange(2);
        }
      }
      ++count;
      if (state.exchange(0) == 2) futex(&state, FUTEX_WAKE_PRIVATE, 1);
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) threads.emplace_back(loop);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(count, 15'000);
}

TEST(Futex, KilledWaiterLeavesTheQueue) {
  Mapping page = Mapping::shared(kPageSize);
  Word* word = page.as<Word>();
  Child child = Child::run([&] {
    word[1] = 1;
    futex(word, FUTEX_WAIT, 0);
    return 0;
  });
  ASSERT_TRUE(eventually([&] { return word[1] == 1; }));
  sleep_ms(10);
  child.kill(SIGKILL);
  EXPECT_THAT(child.wait(), KilledBy(SIGKILL));
  EXPECT_THAT(futex(word, FUTEX_WAKE, 10), SucceedsWith(0));
}

TEST(Robust, ListMarksDeadOwnersAndWakes) {
  struct Lock {
    robust_list link;
    Word word;
  };
  Mapping page = Mapping::shared(kPageSize);
  auto* lock = page.as<Lock>();
  Child child = Child::run([&] {
    robust_list_head head = {};
    head.list.next = &lock->link;
    lock->link.next = &head.list;
    head.futex_offset = offsetof(Lock, word);
    REQUIRE(syscall(SYS_set_robust_list, &head, sizeof(head)) == 0);
    lock->word = static_cast<uint32_t>(syscall(SYS_gettid)) | FUTEX_WAITERS;
    sleep_ms(30);
    syscall(SYS_exit, 0);
    return 1;
  });
  ASSERT_TRUE(eventually([&] { return lock->word != 0; }));
  timespec limit = from_ms(5000);
  EXPECT_THAT(futex(&lock->word, FUTEX_WAIT, lock->word, &limit), SucceedsWith(0));
  EXPECT_EQ(lock->word, FUTEX_OWNER_DIED | FUTEX_WAITERS);
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

TEST(Robust, PendingEntryAndBrokenLists) {
  Child child = Child::run([] {
    static robust_list_head head = {};
    head.list.next = reinterpret_cast<robust_list*>(0x10);
    head.futex_offset = 0;
    REQUIRE(syscall(SYS_set_robust_list, &head, sizeof(head)) == 0);
    robust_list_head* got = nullptr;
    size_t size = 0;
    REQUIRE(syscall(SYS_get_robust_list, 0, &got, &size) == 0);
    REQUIRE(got == &head && size == sizeof(head));
    REQUIRE(syscall(SYS_set_robust_list, &head, 5) == -1 && errno == EINVAL);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
  // A list that runs in a circle ends too.
  Child circle = Child::run([] {
    static robust_list_head head = {};
    static robust_list one = {&one};
    head.list.next = &one;
    head.futex_offset = 64;
    REQUIRE(syscall(SYS_set_robust_list, &head, sizeof(head)) == 0);
    return 0;
  });
  EXPECT_THAT(circle.wait(), ExitedWith(0));
}

TEST(ClearChildTid, ClearsAndWakesAtExit) {
  Mapping page = Mapping::shared(kPageSize);
  Word* word = page.as<Word>();
  *word = 77;
  Child child = Child::run([&] {
    REQUIRE(syscall(SYS_set_tid_address, word) == syscall(SYS_gettid));
    sleep_ms(30);
    // Only cleared when somebody else still maps the memory; vfork's way keeps it mapped here.
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
  // The child's memory has one user: nothing is written (mm_release).
  EXPECT_EQ(*word, 77u);
}

TEST(ClearChildTid, ThreadExitWakesJoiner) {
  static char stack[65536];
  Word word = 1;
  const int tid = clone(
      [](void*) -> int {
        timespec pause = {0, 10'000'000};
        syscall(SYS_nanosleep, &pause, nullptr);
        syscall(SYS_exit, 0);
        return 0;
      },
      stack + sizeof(stack) - 64,
      CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_CHILD_CLEARTID,
      nullptr, nullptr, nullptr, &word);
  ASSERT_THAT(tid, Succeeds());
  timespec limit = from_ms(5000);
  const long result = futex(&word, FUTEX_WAIT, 1, &limit);
  EXPECT_TRUE(result == 0 || errno == EAGAIN) << errno_name(errno);
  EXPECT_EQ(word, 0u);
}

// A wake between the waiter's check and its sleep is never lost.
TEST(Futex, HandOverRace) {
  Word turn = 0;
  auto player = [&](uint32_t me) {
    for (int i = 0; i < 3000; ++i) {
      uint32_t now;
      while ((now = turn.load()) % 2 != me) futex(&turn, FUTEX_WAIT_PRIVATE, now);
      ++turn;
      futex(&turn, FUTEX_WAKE_PRIVATE, 1);
    }
  };
  std::thread one(player, 0), two(player, 1);
  one.join();
  two.join();
  EXPECT_EQ(turn, 6000u);
}

}  // namespace
}  // namespace caisson::test
