// The signal handler: what every thread but the caller does in a broadcast.
//
// It runs anywhere: in malloc, in a thread without libc's TLS, on Go's signal stack. So it calls no
// libc function, allocates nothing, takes no lock, touches neither errno nor TLS, and is compiled
// without sanitizers.
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>

#include "psx/broadcast_state.h"
#include "psx/guard.h"

namespace caisson::psx::internal {

std::atomic<Record*> chunks[kChunks];
std::atomic<BroadcastState*> state;
#ifdef CAISSON_PSX_GUARD_TESTS
uint32_t removed_guards = 0;
#endif

using host::raw_arg;
using host::raw_syscall;

host::RawResult futex_wait(std::atomic<uint32_t>& word, uint32_t value, const void* timeout) {
  return raw_syscall(SYS_futex, raw_arg(&word), FUTEX_WAIT_PRIVATE, value, raw_arg(timeout));
}

void futex_wake(std::atomic<uint32_t>& word, int count) {
  raw_syscall(SYS_futex, raw_arg(&word), FUTEX_WAKE_PRIVATE, count).ignore();
}

bool thread_exists(int32_t pid, int32_t tid) {
  auto asked = raw_syscall(SYS_tgkill, pid, tid, 0);
  return asked.ok() || asked.error().value() != ESRCH;
}

namespace {

// A leader that has exited goes on to exist as a zombie, but its memory is gone.
bool has_memory(int32_t tid) {
  char from = 0;
  char to = 0;
  const iovec there = {&from, 1};
  const iovec here = {&to, 1};
  auto copied = raw_syscall(SYS_process_vm_readv, tid, raw_arg(&here), 1, raw_arg(&there), 1, 0);
  return copied.ok() || copied.error().value() != ESRCH;
}

}  // namespace

bool caller_was_killed(BroadcastState& shared) {
  int32_t caller = shared.caller.load();
  if (caller <= 0 || !guarded(Guard::kOrphan)) return false;
  const int32_t pid = shared.pid.load();
  if (thread_exists(pid, caller) && (caller != pid || has_memory(caller))) return false;
  // A caller takes its number back before it may exit.
  return shared.caller.compare_exchange_strong(caller, -1);
}

void write_error(const char* text, size_t size) {
  pollfd standard_error = {.fd = 2, .events = POLLOUT, .revents = 0};
  timespec patience = {.tv_sec = 0, .tv_nsec = 100'000'000};
  auto ready = raw_syscall(SYS_ppoll, raw_arg(&standard_error), 1, raw_arg(&patience), 0, 8);
  if (ready.ok() && ready.value() == 0) return;
  raw_syscall(SYS_write, 2, raw_arg(text), static_cast<long>(size)).ignore();
}

void end_process() {
  const uint64_t action[4] = {};  // SIG_DFL
  raw_syscall(SYS_rt_sigaction, SIGSYS, raw_arg(action), 0, 8).ignore();
  const uint64_t none = 0;
  raw_syscall(SYS_tgkill, raw_syscall(SYS_getpid).value(), raw_syscall(SYS_gettid).value(), SIGSYS)
      .ignore();
  raw_syscall(SYS_rt_sigprocmask, SIG_SETMASK, raw_arg(&none), 0, 8).ignore();
  for (;;) raw_syscall(SYS_exit_group, 128 + SIGSYS).ignore();
}

namespace {

// The kernel's struct sigaction; glibc's has another order.
struct KernelSigaction {
  uintptr_t handler;
  unsigned long flags;
  uintptr_t restorer;
  uint64_t mask;
};
constexpr unsigned long kSaRestorer = 0x04000000;  // <asm/signal.h> clashes with <signal.h>

// Debuggers and unwinders know a signal frame by these very bytes.
__asm__(
    ".pushsection .text\n"
    ".type caisson_psx_restorer, @function\n"
    ".local caisson_psx_restorer\n"
    "caisson_psx_restorer:\n"
    "  mov $15, %rax\n"  // rt_sigreturn
    "  syscall\n"
    ".size caisson_psx_restorer, . - caisson_psx_restorer\n"
    ".popsection\n");
extern "C" void caisson_psx_restorer() __attribute__((visibility("hidden")));

// The handlers that were there before ours, oldest first, each packed into one word so that a
// handler on another thread reads it whole: the address, and in bit 63 whether it takes siginfo.
// There is more than one when somebody (glibc at the first pthread_create) replaced ours.
constexpr uint64_t kTakesInfo = 1ULL << 63;
constexpr uint32_t kMaxPrevious = 8;
std::atomic<uint64_t> previous[kMaxPrevious];
std::atomic<uint32_t> previous_count;

// How often this signal came through our handler already. Two copies of this library in a process
// may each have the other as the handler before it; then each visit goes one handler further back,
// and the oldest is tried again while the other copy has further to go.
// The count is kept in the signal frame's siginfo, in bytes that the kernel leaves zero.
uint32_t count_visit(siginfo_t* info) {
  struct Mark {
    uint32_t magic;
    uint32_t visits;
  };
  auto* marks = reinterpret_cast<Mark*>(reinterpret_cast<char*>(info) + 64);
  static_assert(sizeof(siginfo_t) == 128);
  const uint32_t magic = signal_magic();
  for (int i = 0; i < 8; i++) {
    if (marks[i].magic != 0 && marks[i].magic != magic) continue;
    marks[i].magic = magic;
    return marks[i].visits++;
  }
  return 2 * kMaxPrevious;
}

void call_previous(int signal, siginfo_t* info, void* context) {
  if (!guarded(Guard::kChain)) return;
  const uint32_t count = previous_count.load(std::memory_order_acquire);
  const uint32_t visit = info == nullptr ? 0 : count_visit(info);
  if (count == 0 || visit >= 2 * kMaxPrevious) return;
  const uint32_t newest = count - 1;
  const uint64_t packed =
      previous[visit < newest ? newest - visit : 0].load(std::memory_order_relaxed);
  const uintptr_t handler = packed & ~kTakesInfo;
  if (handler == reinterpret_cast<uintptr_t>(SIG_IGN)) return;
  if (handler == reinterpret_cast<uintptr_t>(SIG_DFL)) {
    // Nobody handled it before us, so it ends the process: send it again without us.
    KernelSigaction action = {};
    raw_syscall(SYS_rt_sigaction, signal, raw_arg(&action), 0, 8).ignore();
    raw_syscall(SYS_tgkill, raw_syscall(SYS_getpid).value(), raw_syscall(SYS_gettid).value(),
                signal)
        .ignore();
    return;
  }
  if ((packed & kTakesInfo) != 0) {
    reinterpret_cast<void (*)(int, siginfo_t*, void*)>(handler)(signal, info, context);
  } else {
    reinterpret_cast<void (*)(int)>(handler)(signal);
  }
}

// Makes the call of broadcast `epoch` if `slot` is this thread's and still wants it.
void answer(BroadcastState& shared, uint32_t epoch, uint32_t slot) {
  Record* record = record_at(slot);
  if (record == nullptr) return;
  if (record->word.load(std::memory_order_acquire) != record_word(epoch, Answer::kPending)) return;
  // Read first, claim afterwards: the caller changes the call only when no record of its epoch can
  // be claimed any more.
  const int64_t nr = shared.nr.load(std::memory_order_relaxed);
  const int64_t first_result = shared.first_result.load(std::memory_order_relaxed);
  int64_t a[6];
  for (int i = 0; i < 6; i++) a[i] = shared.args[i].load(std::memory_order_relaxed);
  if (!record->move(epoch, Answer::kPending, Answer::kRunning)) return;

  const int64_t result = raw_syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]).value();

  if (result == first_result) {
    if (!record->move(epoch, Answer::kRunning, Answer::kDone)) return;
  } else {
    if (!record->move(epoch, Answer::kRunning, Answer::kWriting)) return;
    record->result.store(result, std::memory_order_relaxed);
    if (!record->move(epoch, Answer::kWriting, Answer::kDiffers)) return;
  }
  uint32_t pending = shared.pending.load(std::memory_order_relaxed);
  do {
    if ((pending & ~(kCallerSleeps | kPendingCount)) != pending_tag(epoch)) return;
  } while (!shared.pending.compare_exchange_weak(pending, pending - 1, std::memory_order_acq_rel));
  if ((pending & kCallerSleeps) != 0 && (pending & kPendingCount) == 1) {
    futex_wake(shared.pending, 1);
  }
  if (!guarded(Guard::kHold)) return;
  // A thread that ran on now could make a new one, which has the call's effect by inheritance and
  // would be told to make it again. Every signal is masked here.
  constexpr uint32_t kWatchers = 8;  // some are enough, and the timer has its price
  const timespec patience = {.tv_sec = 1, .tv_nsec = 0};
  int yields = kHeldYields;
  for (;;) {
    uint32_t released = shared.released.load(std::memory_order_acquire);
    if (static_cast<int32_t>(released - epoch) >= 0) return;
    if (yields > 0) {
      yields--;
      raw_syscall(SYS_sched_yield).ignore();
      continue;
    }
    shared.sleepers.fetch_add(1, std::memory_order_seq_cst);
    released = shared.released.load(std::memory_order_seq_cst);
    if (static_cast<int32_t>(released - epoch) < 0) {
      auto waited = futex_wait(shared.released, released, slot < kWatchers ? &patience : nullptr);
      if (!waited.ok() && waited.error().value() == ETIMEDOUT && caller_was_killed(shared)) {
        write_error(kCallerWasKilled, sizeof(kCallerWasKilled) - 1);
        end_process();
      }
    }
    shared.sleepers.fetch_sub(1, std::memory_order_relaxed);
  }
}

void on_signal(int signal, siginfo_t* info, void* context) {
  BroadcastState* shared = state.load(std::memory_order_acquire);
  const bool ours = info != nullptr && info->si_code == kSignalCode && shared != nullptr &&
                    info->si_uid == signal_magic();
  if (!ours) return call_previous(signal, info, context);
  const auto cookie = reinterpret_cast<uint64_t>(info->si_value.sival_ptr);
  answer(*shared, static_cast<uint32_t>(cookie >> 32), static_cast<uint32_t>(cookie));
}

bool remember(const KernelSigaction& action) {
  const uint64_t packed = action.handler | ((action.flags & SA_SIGINFO) != 0 ? kTakesInfo : 0);
  const uint32_t count = previous_count.load(std::memory_order_relaxed);
  for (uint32_t i = 0; i < count; i++) {
    if (previous[i].load(std::memory_order_relaxed) == packed) return true;
  }
  if (count == kMaxPrevious) return false;
  previous[count].store(packed, std::memory_order_relaxed);
  previous_count.store(count + 1, std::memory_order_release);
  return true;
}

}  // namespace

int install_handler() {
  KernelSigaction action = {};
  auto result = raw_syscall(SYS_rt_sigaction, kSignal, 0, raw_arg(&action), 8);
  if (!result.ok()) return result.error().value();
  const auto ours = reinterpret_cast<uintptr_t>(&on_signal);
  if (action.handler == ours) return 0;
  if (!remember(action)) return EBUSY;
  // SA_ONSTACK: Go's threads have small stacks. SA_RESTART: as few calls as possible see EINTR.
  action = {.handler = ours,
            .flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART | kSaRestorer,
            .restorer = reinterpret_cast<uintptr_t>(&caisson_psx_restorer),
            .mask = ~uint64_t{0}};
  KernelSigaction replaced = {};
  result = raw_syscall(SYS_rt_sigaction, kSignal, raw_arg(&action), raw_arg(&replaced), 8);
  if (!result.ok()) return result.error().value();
  // Another thread may have set one since we looked.
  return replaced.handler == ours || remember(replaced) ? 0 : EBUSY;
}

}  // namespace caisson::psx::internal
