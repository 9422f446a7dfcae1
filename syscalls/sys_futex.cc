// futex(2), futex_waitv(2), robust lists. Linux: kernel/futex/syscalls.c, waitwake.c, requeue.c.
#include "syscalls/sys_futex.h"

#include <linux/futex.h>
#include <time.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <vector>

#include "kernel/kernel.h"
#include "kernel/robust_list.h"
#include "kernel/run_operation.h"
#include "kernel/task.h"
#include "kernel/time/clock.h"
#include "mm/memory_manager.h"
#include "syscalls/resource_usage.h"

namespace caisson {
namespace {

struct WordToWait {
  GuestAddr address;
  uint32_t expected;
  FutexKey key;
};

Result<void> check_value(MemoryManager& mm, GuestAddr address, uint32_t expected) {
  uint32_t value = TRY(mm.load_u32(address));
  if (value != expected) return Errno(EAGAIN);
  return {};
}

// Keeps wake-ups of private words coming to the kernel while one of its own waits is queued.
class PrivateWaiters {
 public:
  PrivateWaiters() = default;
  PrivateWaiters(const PrivateWaiters&) = delete;
  PrivateWaiters& operator=(const PrivateWaiters&) = delete;
  ~PrivateWaiters() { leave(); }
  void join(MemoryManager& mm) {
    mm_ = RefOrNull<MemoryManager>(&mm);
    mm.address_space().count_private_waiters(1);
  }
  void leave() {
    if (mm_) mm_->address_space().count_private_waiters(-1);
    mm_ = nullptr;
  }

 private:
  RefOrNull<MemoryManager> mm_;
};

class FutexWaitOperation final : public Operation {
 public:
  FutexWaitOperation(CurrentTask& task, WordToWait word, bool shared, uint32_t bitset,
                     std::optional<uint64_t> deadline)
      : mm_(task.mm_ref()),
        futexes_(task.kernel().futexes()),
        word_(std::move(word)),
        shared_(shared),
        bitset_(bitset),
        deadline_(deadline) {}
  FutexWaitOperation(FutexWaitOperation&& other)
      : mm_(other.mm_),
        futexes_(other.futexes_),
        word_(std::move(other.word_)),
        shared_(other.shared_),
        bitset_(other.bitset_),
        deadline_(other.deadline_) {}

  StepResult step(CurrentTask&) override {
    if (!armed_) {
      Result<void> same = check_value(*mm_, word_.address, word_.expected);
      if (!same.ok()) return same.error();
      return MustWait{};
    }
    if (!queued_.ok()) return queued_.error();
    if (waiter_.was_woken()) return uint64_t{0};
    return MustWait{};
  }
  void arm(CurrentTask&, Waiter& waiter) override {
    armed_ = true;
    if (!shared_) private_.join(*mm_);
    queued_ = futexes_.wait(waiter_, word_.key, bitset_, waiter,
                            [this] { return check_value(*mm_, word_.address, word_.expected); });
  }
  void disarm() override {
    futexes_.remove(waiter_);
    private_.leave();
  }
  std::optional<uint64_t> deadline_ns() const override { return deadline_; }
  StepResult timed_out(CurrentTask&) override {
    if (woken_at_last()) return uint64_t{0};
    return Errno(ETIMEDOUT);
  }
  StepResult interrupted(CurrentTask& current) override {
    if (woken_at_last()) return uint64_t{0};
    if (!deadline_) return Errno(kERESTARTSYS);
    // The time that was left, not the whole time, when it goes on after a stop.
    current.task().restart_block = [word = word_, shared = shared_, bitset = bitset_,
                                    deadline = deadline_](CurrentTask& task) -> SyscallResult {
      WordToWait again = word;
      again.key = TRY(task.mm().futex_key(word.address, shared));
      return run(task, FutexWaitOperation(task, std::move(again), shared, bitset, deadline));
    };
    return Errno(kERESTART_RESTARTBLOCK);
  }
  const char* name() const override { return "futex_wait"; }

 private:
  // Leaves the queue; whoever was taken from it before has used up a wake-up and must say so.
  bool woken_at_last() {
    if (armed_) futexes_.remove(waiter_);
    return waiter_.was_woken();
  }

  const Ref<MemoryManager> mm_;
  FutexTable& futexes_;
  WordToWait word_;
  const bool shared_;
  const uint32_t bitset_;
  const std::optional<uint64_t> deadline_;
  bool armed_ = false;
  Result<void> queued_;
  FutexWaiter waiter_;
  PrivateWaiters private_;
};

class FutexWaitVOperation final : public Operation {
 public:
  FutexWaitVOperation(CurrentTask& task, std::vector<WordToWait> words,
                      std::optional<uint64_t> deadline)
      : mm_(task.mm_ref()),
        futexes_(task.kernel().futexes()),
        words_(std::move(words)),
        deadline_(deadline) {}
  FutexWaitVOperation(FutexWaitVOperation&& other)
      : mm_(other.mm_),
        futexes_(other.futexes_),
        words_(std::move(other.words_)),
        deadline_(other.deadline_) {}

  StepResult step(CurrentTask&) override {
    if (!waiters_) {
      for (const WordToWait& word : words_)
        if (Result<void> same = check_value(*mm_, word.address, word.expected); !same.ok())
          return same.error();
      return MustWait{};
    }
    for (size_t i = 0; i < words_.size(); ++i)
      if (waiters_[i].was_woken()) return static_cast<uint64_t>(i);
    if (!queued_.ok()) return queued_.error();
    return MustWait{};
  }
  void arm(CurrentTask&, Waiter& waiter) override {
    waiters_ = std::make_unique<FutexWaiter[]>(words_.size());
    private_.join(*mm_);
    for (size_t i = 0; i < words_.size() && queued_.ok(); ++i) {
      const WordToWait& word = words_[i];
      queued_ = futexes_.wait(waiters_[i], word.key, FutexTable::kMatchAny, waiter,
                              [&] { return check_value(*mm_, word.address, word.expected); });
    }
  }
  void disarm() override {
    for (size_t i = 0; i < words_.size(); ++i) futexes_.remove(waiters_[i]);
    private_.leave();
  }
  std::optional<uint64_t> deadline_ns() const override { return deadline_; }
  const char* name() const override { return "futex_waitv"; }

 private:
  const Ref<MemoryManager> mm_;
  FutexTable& futexes_;
  std::vector<WordToWait> words_;
  const std::optional<uint64_t> deadline_;
  Result<void> queued_;
  std::unique_ptr<FutexWaiter[]> waiters_;
  PrivateWaiters private_;
};

// A call that moves or counts waiters of private words needs them all here: it waits until those
// that wait without the kernel have come.
class RecallOperation final : public Operation {
 public:
  using Then = std::function<Result<uint64_t>(CurrentTask&)>;
  RecallOperation(CurrentTask& task, Then then) : mm_(task.mm_ref()), then_(std::move(then)) {}

  StepResult step(CurrentTask& task) override {
    constexpr uint64_t kPatience = 1'000'000'000;
    uint64_t now = host::monotonic_ns();
    if (give_up_ == 0) give_up_ = now + kPatience;
    next_ = now + kLook;
    bool all_here = mm_->address_space().recall_private_waiters() == 0;
    // Once some have come, one look more: they may not be queued yet.
    bool is_settled = all_here && (looks_ == 0 || were_all_here_);
    ++looks_;
    were_all_here_ = all_here;
    if (!is_settled && now < give_up_) return MustWait{};
    Result<uint64_t> done = then_(task);
    if (!done.ok()) return done.error();
    return done.value();
  }
  void arm(CurrentTask&, Waiter&) override {}
  void disarm() override {}
  std::optional<uint64_t> deadline_ns() const override { return next_; }
  StepResult timed_out(CurrentTask& task) override { return step(task); }
  StepResult interrupted(CurrentTask&) override { return Errno(kERESTARTNOINTR); }
  const char* name() const override { return "futex_recall"; }

 private:
  static constexpr uint64_t kLook = 200'000;
  Ref<MemoryManager> mm_;
  Then then_;
  uint64_t give_up_ = 0;
  int looks_ = 0;
  bool were_all_here_ = false;
  uint64_t next_ = 0;
};

Result<FutexKey> key_of(CurrentTask& task, GuestAddr address, bool shared) {
  if (address % sizeof(uint32_t) != 0) return Errno(EINVAL);
  return task.mm().futex_key(address, shared);
}

// The operation of FUTEX_WAKE_OP on the second word; says whether its waiters are to be woken.
Result<bool> operate(MemoryManager& mm, GuestAddr address, uint32_t encoded) {
  uint32_t op = encoded >> 28 & 7, compare = encoded >> 24 & 15;
  // Both are signed 12-bit numbers.
  int32_t argument = static_cast<int32_t>(encoded << 8) >> 20;
  int32_t compare_with = static_cast<int32_t>(encoded << 20) >> 20;
  if ((encoded >> 28 & 8) != 0) {
    if (argument < 0 || argument > 31) argument &= 31;
    argument = static_cast<int32_t>(1u << argument);
  }
  uint32_t value = TRY(mm.load_u32(address));
  for (;;) {
    uint32_t operand = static_cast<uint32_t>(argument);
    uint32_t next;
    switch (op) {
      case FUTEX_OP_SET:
        next = operand;
        break;
      case FUTEX_OP_ADD:
        next = value + operand;
        break;
      case FUTEX_OP_OR:
        next = value | operand;
        break;
      case FUTEX_OP_ANDN:
        next = value & ~operand;
        break;
      case FUTEX_OP_XOR:
        next = value ^ operand;
        break;
      default:
        return Errno(ENOSYS);
    }
    uint32_t seen = TRY(mm.compare_exchange_u32(address, value, next));
    if (seen == value) break;
    value = seen;
  }
  int32_t old = static_cast<int32_t>(value);
  switch (compare) {
    case FUTEX_OP_CMP_EQ:
      return old == compare_with;
    case FUTEX_OP_CMP_NE:
      return old != compare_with;
    case FUTEX_OP_CMP_LT:
      return old < compare_with;
    case FUTEX_OP_CMP_GE:
      return old >= compare_with;
    case FUTEX_OP_CMP_LE:
      return old <= compare_with;
    case FUTEX_OP_CMP_GT:
      return old > compare_with;
    default:
      return Errno(ENOSYS);
  }
}

Result<std::optional<uint64_t>> deadline_of(CurrentTask& task, uint64_t timeout, bool is_absolute,
                                            bool is_real_time) {
  if (timeout == 0) return std::optional<uint64_t>();
  TimeSpec time = TRY(task.copy_in(UserIn<TimeSpec>(timeout)));
  if (!is_valid(time)) return Errno(EINVAL);
  if (!is_absolute) return std::optional<uint64_t>(add_ns(host::monotonic_ns(), to_ns(time)));
  return std::optional<uint64_t>(
      monotonic_deadline(is_real_time ? CLOCK_REALTIME : CLOCK_MONOTONIC, to_ns(time)));
}

}  // namespace

SyscallResult sys_futex(CurrentTask& task, uint64_t address, int op, uint32_t value,
                        uint64_t timeout_or_count, uint64_t address2, uint32_t value3) {
  int command = op & FUTEX_CMD_MASK;
  bool shared = (op & FUTEX_PRIVATE_FLAG) == 0;
  bool is_real_time = (op & FUTEX_CLOCK_REALTIME) != 0;
  bool waits = command == FUTEX_WAIT || command == FUTEX_WAIT_BITSET;
  if (is_real_time && command != FUTEX_WAIT_BITSET && command != FUTEX_WAIT_REQUEUE_PI &&
      command != FUTEX_LOCK_PI2)
    return Errno(ENOSYS);
  std::optional<uint64_t> deadline;
  if (waits)
    deadline = TRY(deadline_of(task, timeout_or_count, command == FUTEX_WAIT_BITSET, is_real_time));
  FutexTable& futexes = task.kernel().futexes();
  int count = static_cast<int>(value);
  int count2 = static_cast<int>(timeout_or_count);
  switch (command) {
    case FUTEX_WAIT:
      value3 = FUTEX_BITSET_MATCH_ANY;
      [[fallthrough]];
    case FUTEX_WAIT_BITSET: {
      if (value3 == 0) return Errno(EINVAL);
      FutexKey key = TRY(key_of(task, address, shared));
      return run(task, FutexWaitOperation(task, {address, value, std::move(key)}, shared, value3,
                                          deadline));
    }
    case FUTEX_WAKE:
      value3 = FUTEX_BITSET_MATCH_ANY;
      [[fallthrough]];
    case FUTEX_WAKE_BITSET: {
      if (value3 == 0) return Errno(EINVAL);
      FutexKey key = TRY(key_of(task, address, shared));
      // Linux wakes one for a count of 0 or below.
      count = std::max(count, 1);
      int woken = futexes.wake(key, count, value3);
      if (!shared && woken < count)
        task.task().context->wake_private(address, count - woken, value3);
      return woken;
    }
    case FUTEX_REQUEUE:
    case FUTEX_CMP_REQUEUE: {
      if (count < 0 || count2 < 0) return Errno(EINVAL);
      FutexKey from = TRY(key_of(task, address, shared));
      FutexKey to = TRY(key_of(task, address2, shared));
      auto requeue = [=](CurrentTask& current) -> Result<uint64_t> {
        return TRY(
            current.kernel().futexes().requeue(from, count, to, count2, [&]() -> Result<void> {
              if (command == FUTEX_REQUEUE) return {};
              return check_value(current.mm(), address, value3);
            }));
      };
      if (shared) return requeue(task);
      return run(task, RecallOperation(task, requeue));
    }
    case FUTEX_WAKE_OP: {
      FutexKey first = TRY(key_of(task, address, shared));
      FutexKey second = TRY(key_of(task, address2, shared));
      auto wake = [=](CurrentTask& current) -> Result<uint64_t> {
        return TRY(current.kernel().futexes().wake_op(
            first, std::max(count, 1), second, std::max(count2, 1),
            [&] { return operate(current.mm(), address2, value3); }));
      };
      if (shared) return wake(task);
      return run(task, RecallOperation(task, wake));
    }
    default:
      // Priority-inheritance operations and the removed FUTEX_FD.
      return Errno(ENOSYS);
  }
}

SyscallResult sys_futex_waitv(CurrentTask& task, UserIn<FutexWaitV> waiters, uint32_t count,
                              uint32_t flags, UserIn<TimeSpec> timeout, int clock) {
  constexpr uint32_t kMaxWaiters = 128, kSize32 = 2, kPrivate = 128;
  if (flags != 0) return Errno(EINVAL);
  if (count == 0 || count > kMaxWaiters || waiters.is_null()) return Errno(EINVAL);
  std::optional<uint64_t> deadline;
  if (!timeout.is_null()) {
    if (clock != CLOCK_MONOTONIC && clock != CLOCK_REALTIME) return Errno(EINVAL);
    deadline = TRY(deadline_of(task, timeout.addr(), true, clock == CLOCK_REALTIME));
  }
  std::vector<FutexWaitV> given = TRY(task.copy_in_array(waiters, count));
  std::vector<WordToWait> words;
  for (const FutexWaitV& wait : given) {
    if ((wait.flags & ~(kSize32 | kPrivate)) != 0 || wait.reserved != 0) return Errno(EINVAL);
    if ((wait.flags & 3) != kSize32 || wait.value > UINT32_MAX) return Errno(EINVAL);
    FutexKey key = TRY(key_of(task, wait.address, (wait.flags & kPrivate) == 0));
    words.push_back({wait.address, static_cast<uint32_t>(wait.value), std::move(key)});
  }
  return run(task, FutexWaitVOperation(task, std::move(words), deadline));
}

SyscallResult sys_set_robust_list(CurrentTask& task, uint64_t head, size_t size) {
  if (size != kRobustListHeadSize) return Errno(EINVAL);
  task.task().robust_list = head;
  return 0;
}

SyscallResult sys_get_robust_list(CurrentTask& task, int pid, UserOut<uint64_t> head,
                                  UserOut<size_t> size) {
  RefOrNull<Task> target(&task.task());
  if (pid != 0) target = task.kernel().tasks().find_task(pid);
  if (!target) return Errno(ESRCH);
  TRY(may_inspect(task, *target));
  uint64_t value = target->robust_list;
  TRY(task.copy_out(size, size_t{kRobustListHeadSize}));
  return task.copy_out(head, value);
}

SyscallResult sys_set_tid_address(CurrentTask& task, uint64_t address) {
  task.task().clear_child_tid = address;
  return task.thread_id();
}

}  // namespace caisson
