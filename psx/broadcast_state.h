// The memory that the caller of a broadcast and the signal handlers of all other threads share.
//
// One per process: BroadcastState, a page that the kernel zeroes in a forked child
// (MADV_WIPEONFORK), so a child never sees a lock or a call of a thread that it does not have.
// Records live in chunks that are mapped when needed and never unmapped: a handler that comes late
// may look at one at any time. Everything here is an atomic, because a handler may interrupt
// anything.
//
// The life of a record within one broadcast (its epoch is part of the word, so a signal of an
// earlier broadcast can never claim it):
//
//   idle -> pending -> running -> done              same result as the caller
//              |          |   `-> writing -> differs
//              |          `-> abandoned (deadline; also from writing)
//              `-> gone (exited), dead (zombie), kernel worker, abandoned (deadline)
//
// pending->running and running->... belong to the thread, the other moves to the caller; each is a
// compare-and-swap, so exactly one side wins. A kernel worker stays one in the next broadcast.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "host/raw_syscall.h"

namespace caisson::psx::internal {

enum class Answer : uint8_t {
  kIdle,
  kCaller,
  kPending,
  kRunning,
  kWriting,
  kDone,
  kDiffers,
  kGone,
  kDead,
  kKernelWorker,
  kAbandoned,
};

constexpr uint64_t record_word(uint32_t epoch, Answer answer) {
  return static_cast<uint64_t>(epoch) << 8 | static_cast<uint64_t>(answer);
}

constexpr uint32_t epoch_of(uint64_t word) { return static_cast<uint32_t>(word >> 8); }
constexpr Answer answer_of(uint64_t word) { return static_cast<Answer>(word & 0xff); }

struct alignas(64) Record {
  std::atomic<uint64_t> word;   // epoch and Answer
  std::atomic<int32_t> tid;     // written by the caller of a broadcast
  std::atomic<int64_t> result;  // valid in kDiffers

  // Always inlined: in the handler they must not be a sanitizer's copies.
  __attribute__((always_inline)) Answer answer() const {
    return answer_of(word.load(std::memory_order_acquire));
  }
  __attribute__((always_inline)) bool move(uint32_t epoch, Answer from, Answer to) {
    uint64_t expected = record_word(epoch, from);
    return word.compare_exchange_strong(expected, record_word(epoch, to),
                                        std::memory_order_acq_rel);
  }
};

inline constexpr uint32_t kRecordsPerChunk = 1024;
inline constexpr uint32_t kChunks = 4096;  // 4 Mi records: Linux's PID_MAX_LIMIT
extern std::atomic<Record*> chunks[kChunks];

__attribute__((always_inline)) inline Record* record_at(uint32_t slot) {
  if (slot >= kRecordsPerChunk * kChunks) return nullptr;
  Record* chunk = chunks[slot / kRecordsPerChunk].load(std::memory_order_acquire);
  return chunk == nullptr ? nullptr : chunk + slot % kRecordsPerChunk;
}

struct BroadcastState {
  std::atomic<int32_t> pid;        // whose state this is; 0: fresh, or wiped by fork
  std::atomic<uint32_t> lock;      // QueueLock's word
  std::atomic<int32_t> caller;     // who has the lock; 0: nobody
  std::atomic<uint32_t> epoch;     // number of the broadcast, never 0 while one runs
  std::atomic<uint32_t> released;  // the last epoch whose threads may leave the handler; futex
  std::atomic<uint32_t> pending;   // kCallerSleeps, pending_tag(), unanswered records; futex
  std::atomic<uint32_t> sleepers;  // threads that wait for `released` in the kernel
  std::atomic<int64_t> first_result;
  std::atomic<int64_t> nr;
  std::atomic<int64_t> args[6];
};
inline constexpr uint32_t kCallerSleeps = 1U << 31;
inline constexpr uint32_t kPendingCount = (1U << 23) - 1;
static_assert(kRecordsPerChunk * kChunks <= kPendingCount);
// Bits of the epoch: a thread that a tracer stops between its answer and its subtraction must not
// subtract from the next broadcast's count.
constexpr uint32_t pending_tag(uint32_t epoch) { return epoch << 23 & ~kCallerSleeps; }

// How often to let others run by sched_yield(2) before sleeping: the caller, and a held thread.
// What is waited for is usually just that the others get the processor, and a sleep with its
// wake-up costs more than a few yields (a quarter of a broadcast to 64 threads). Held threads wait
// for all others, so theirs is the longer patience: with 16 they sleep too early among 512.
inline constexpr int kCallerYields = 16;
inline constexpr int kHeldYields = 64;

extern std::atomic<BroadcastState*> state;

// The signal. 33 is the one that glibc keeps for its own setxid broadcast (SIGSETXID): libc never
// lets a program block it, not even in an exiting thread, and Go neither blocks it nor handles it
// but gives its handler the alternate stack. 32 (SIGCANCEL) is blocked in exiting threads. It is a
// real-time signal: it queues, so ours and glibc's to one thread are both delivered.
inline constexpr int kSignal = 33;
// Ours are told from glibc's (SI_TKILL) by si_code, and from those of another copy of this library
// by si_uid, which carries part of the state's address. That part is random (ASLR), so another
// process of our user, which may send any siginfo, would have to know our memory to forge one.
inline constexpr int kSignalCode = -80;
__attribute__((always_inline)) inline uint32_t signal_magic() {
  return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(state.load()) >> 12);
}
constexpr uint64_t signal_cookie(uint32_t epoch, uint32_t slot) {
  return static_cast<uint64_t>(epoch) << 32 | slot;
}

// Makes sure that our handler is the one for kSignal; remembers the one before. 0 or errno.
int install_handler();

// A filter may refuse the question; that is no sign of an end.
bool thread_exists(int32_t pid, int32_t tid);

// Whether the thread that has the lock is no more: a seccomp filter may kill one thread alone. What
// it was at cannot be finished, and who is held would be held for ever. True for one who asks, who
// is to end the process.
bool caller_was_killed(BroadcastState& shared);
inline constexpr char kCallerWasKilled[] =
    "psx: a thread was killed amid its broadcast; ending the process, its threads may not have the "
    "same rights\n";

// Writes to standard error if that takes it within 0.1 s: who would empty its pipe may be held.
void write_error(const char* text, size_t size);
// By SIGSYS.
[[noreturn]] void end_process();

host::RawResult futex_wait(std::atomic<uint32_t>& word, uint32_t value, const void* timeout);
void futex_wake(std::atomic<uint32_t>& word, int count);

}  // namespace caisson::psx::internal
