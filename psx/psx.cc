#include "psx/psx.h"

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>

#include "psx/broadcast.h"
#include "psx/guard.h"
#include "psx/message.h"
#include "psx/refused.h"

// glibc 2.32 and later: true until its pthread_create() makes the first thread. It is cleared
// before that thread runs, and (as of 2.36) not set again, not even in a forked child. Missing
// elsewhere.
extern "C" __attribute__((weak)) char __libc_single_threaded;

namespace caisson::psx {

namespace internal {

using host::raw_arg;
using host::raw_syscall;

namespace {

constinit Directory directory;  // guarded by BroadcastState::lock
constinit Settings settings;
constinit std::atomic<bool> trusts_libc{false};

// What the last call found. A hint for which question to ask first; the kernel always decides.
enum class Seen : uint8_t { kNothingYet, kAlone, kThreads };
constinit std::atomic<Seen> seen{Seen::kNothingYet};

// The shared state, made at the first use. nullptr: no memory.
BroadcastState* shared_state() {
  BroadcastState* shared = state.load(std::memory_order_acquire);
  if (shared != nullptr) return shared;
  constexpr long kPage = 4096;
  static_assert(sizeof(BroadcastState) <= kPage);
  auto mapped =
      raw_syscall(SYS_mmap, 0, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (!mapped.ok()) return nullptr;
  auto* made = reinterpret_cast<BroadcastState*>(mapped.value());
  if (guarded(Guard::kWipe) &&
      !raw_syscall(SYS_madvise, raw_arg(made), kPage, MADV_WIPEONFORK).ok()) {
    raw_syscall(SYS_munmap, raw_arg(made), kPage).ignore();
    return nullptr;
  }
  if (state.compare_exchange_strong(shared, made, std::memory_order_acq_rel)) return made;
  raw_syscall(SYS_munmap, raw_arg(made), kPage).ignore();
  return shared;
}

// One broadcast at a time. It is not a Mutex: the word is wiped in a forked child, and it may be
// waited for in a signal handler. 0 free, 1 taken, 2 taken and waited for.
class QueueLock {
 public:
  QueueLock(BroadcastState& shared, int32_t pid, int32_t tid) : shared_(shared) {
    if (!guarded(Guard::kQueue)) return;
    uint32_t free = 0;
    if (!shared_.lock.compare_exchange_strong(free, 1, std::memory_order_acquire)) {
      while (shared_.lock.exchange(2, std::memory_order_acquire) != 0) wait(pid);
    }
    shared_.caller.store(tid);
  }
  ~QueueLock() {
    if (!guarded(Guard::kQueue)) return;
    shared_.caller.store(0);
    if (shared_.lock.exchange(0, std::memory_order_release) == 2) futex_wake(shared_.lock, 1);
  }
  QueueLock(const QueueLock&) = delete;
  QueueLock& operator=(const QueueLock&) = delete;

 private:
  void wait(int32_t pid) {
    const timespec patience = {.tv_sec = 1, .tv_nsec = 0};
    auto waited = futex_wait(shared_.lock, 2, &patience);
    if (waited.ok() || waited.error().value() != ETIMEDOUT) return;
    // Another process with the same memory has threads that we do not see.
    if (shared_.pid.load() != pid || !caller_was_killed(shared_)) return;
    write_error(kCallerWasKilled, sizeof(kCallerWasKilled) - 1);
    end_process();
  }

  BroadcastState& shared_;
};

// In a handler of kSignal, which alone is open amid a broadcast.
bool waits_for_itself(const BroadcastState& shared, int32_t pid, int32_t tid) {
  return shared.caller.load(std::memory_order_relaxed) == tid &&
         shared.pid.load(std::memory_order_relaxed) == pid;
}

// No handler runs on the caller meanwhile: it could ask for a broadcast itself and wait for its own
// thread. kSignal stays open, because another caller's broadcast may come first, and glibc's.
class MaskedSignals {
 public:
  MaskedSignals() {
    if (!guarded(Guard::kMask)) return;
    const uint64_t all_but_ours = ~(uint64_t{1} << (kSignal - 1));
    raw_syscall(SYS_rt_sigprocmask, SIG_SETMASK, raw_arg(&all_but_ours), raw_arg(&before_), 8)
        .ignore();
  }
  ~MaskedSignals() {
    if (!guarded(Guard::kMask)) return;
    raw_syscall(SYS_rt_sigprocmask, SIG_SETMASK, raw_arg(&before_), 0, 8).ignore();
  }
  MaskedSignals(const MaskedSignals&) = delete;
  MaskedSignals& operator=(const MaskedSignals&) = delete;

 private:
  uint64_t before_ = 0;
};

Outcome failed(int error) { return {UINTPTR_MAX, UINTPTR_MAX, error}; }

Outcome outcome_of(host::RawResult result) {
  if (!result.ok()) return failed(result.error().value());
  const auto value = static_cast<uintptr_t>(result.value());
  return {value, value, 0};
}

// A filter does not let us ask by unshare(2), as Docker's does not. A hint, as `seen` is.
constinit std::atomic<bool> unshare_refused{false};

// The number of threads in /proc, if an earlier call has left that open. A forked child's state is
// wiped, so it never takes its parent's number for its own.
bool counts_one() {
  const BroadcastState* shared = state.load(std::memory_order_acquire);
  if (shared == nullptr) return false;
  const auto pid = static_cast<int32_t>(raw_syscall(SYS_getpid).value());
  return shared->pid.load(std::memory_order_relaxed) == pid && directory.source.counts_one(pid);
}

// Whether this is the only thread, asked of the kernel: there may be threads that libc does not
// know. unshare(2) has nothing to undo for a lone thread and refuses (EINVAL) for others.
bool is_alone() {
  if (unshare_refused.load(std::memory_order_relaxed)) return counts_one();
  const host::RawResult answer = raw_syscall(SYS_unshare, CLONE_THREAD);
  if (answer.ok()) return true;
  if (answer.error().value() == EINVAL) return false;
  unshare_refused.store(true, std::memory_order_relaxed);
  return counts_one();
}

// Whether libc says so. It costs nothing, and it may be wrong.
bool libc_says() { return &__libc_single_threaded != nullptr; }
bool seems_alone() { return libc_says() && __libc_single_threaded != 0; }

// The state is this process's own from here on, whatever it was before a fork.
void adopt_state(BroadcastState& shared, int32_t pid) {
  if (shared.pid.load(std::memory_order_relaxed) == pid) return;
  directory.roster.clear();
  directory.leader_is_dead = false;
  if (guarded(Guard::kChild)) directory.source.forget();
  shared.pid.store(pid, std::memory_order_relaxed);
}

// `first`: the caller's result if it has made the call already.
Outcome broadcast(const Call& call, const host::RawResult* first) {
  MaskedSignals masked;
  BroadcastState* shared = shared_state();
  if (shared == nullptr) return failed(ENOMEM);
  const auto pid = static_cast<int32_t>(raw_syscall(SYS_getpid).value());
  const auto tid = static_cast<int32_t>(raw_syscall(SYS_gettid).value());
  // The state is another process's that has this memory too. A child of vfork(2) has one thread and
  // leaves everything as it was. It does not queue either: a broadcast of its parent's waits for
  // the thread that waits for this child.
  const int32_t owner = shared->pid.load(std::memory_order_relaxed);
  if (owner != 0 && owner != pid && first == nullptr && is_alone()) return outcome_of(call.make());
  if (waits_for_itself(*shared, pid, tid)) return failed(EDEADLK);
  QueueLock lock(*shared, pid, tid);
  adopt_state(*shared, pid);
  // All that can fail comes before the call.
  int error = directory.source.open(pid);
  if (error == 0) error = install_handler();
  if (error != 0 && is_alone()) return outcome_of(first != nullptr ? *first : call.make());
  if (error != 0) {
    Message().call(call.nr).text(": cannot reach the other threads: ").result(-error).print();
    return failed(error);
  }
  const host::RawResult result = first != nullptr ? *first : call.make();
  if (!result.ok()) return outcome_of(result);
  Broadcast all(*shared, directory, settings, call, pid, tid);
  all.begin(result.value());
  all.cover();
  error = all.finish();
  seen.store(all.held() > 1 ? Seen::kThreads : Seen::kAlone, std::memory_order_relaxed);
  return error != 0 ? failed(error) : outcome_of(result);
}

Outcome run(const Call& call) {
  if (const char* why = why_refused(call.nr, call.args[0], call.args[1]); why != nullptr) {
    Message().call(call.nr).text(" is refused: ").text(why).print();
    return failed(EINVAL);
  }
  const Seen last = seen.load(std::memory_order_relaxed);
  const bool seemed_alone = seems_alone();
  const bool trusted = seemed_alone && trusts_libc.load(std::memory_order_relaxed);
  // After a new filter any question may end the process.
  const bool asks_after =
      guarded(Guard::kAskAfter) && !trusted && !installs_filter(call.nr, call.args[0]);
  const bool asks_before = !trusted && (last == Seen::kNothingYet || !seemed_alone || !asks_after);
  if (last == Seen::kThreads || (asks_before && !is_alone())) return broadcast(call, nullptr);
  const host::RawResult result = call.make();
  if (!result.ok()) return outcome_of(result);
  // A signal handler may have made a thread meanwhile, also behind libc's back.
  const bool still_alone = asks_after ? is_alone() : seems_alone() == seemed_alone;
  if (!still_alone) return broadcast(call, &result);
  if (!trusted) seen.store(Seen::kAlone, std::memory_order_relaxed);
  return outcome_of(result);
}

}  // namespace

}  // namespace internal

Outcome syscall3(long nr, uintptr_t a1, uintptr_t a2, uintptr_t a3) {
  return syscall6(nr, a1, a2, a3, 0, 0, 0);
}

Outcome syscall6(long nr, uintptr_t a1, uintptr_t a2, uintptr_t a3, uintptr_t a4, uintptr_t a5,
                 uintptr_t a6) {
  auto number = [](uintptr_t argument) { return static_cast<int64_t>(argument); };
  return internal::run(
      {nr, {number(a1), number(a2), number(a3), number(a4), number(a5), number(a6)}});
}

void set_mismatch(Mismatch what) { internal::settings.mismatch.store(what); }

void set_deadline_ms(uint32_t deadline_ms) { internal::settings.deadline_ms.store(deadline_ms); }

int trust_libc(bool trust) {
  if (trust && !internal::libc_says()) return ENOSYS;
  internal::trusts_libc.store(trust);
  return 0;
}

int prepare() {
  internal::MaskedSignals masked;
  internal::BroadcastState* shared = internal::shared_state();
  if (shared == nullptr) return ENOMEM;
  const auto pid = static_cast<int32_t>(host::raw_syscall(SYS_getpid).value());
  const auto tid = static_cast<int32_t>(host::raw_syscall(SYS_gettid).value());
  if (internal::waits_for_itself(*shared, pid, tid)) return EDEADLK;
  internal::QueueLock lock(*shared, pid, tid);
  internal::adopt_state(*shared, pid);
  return internal::directory.source.open(pid);
}

}  // namespace caisson::psx
