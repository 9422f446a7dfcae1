// StubThread: one host thread that runs guest code, its slot, and who owns it at this moment.
//
// Made by a StubProcess; never freed while the sandbox lives (a worker that looks at a slot may
// hold a stale pointer), but reused with its slot. The phase word says whether the guest or the
// kernel has the thread; a number that grows with each resume makes claims exact.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "abi/registers.h"
#include "base/ref.h"
#include "base/unique_fd.h"
#include "host/event_loop.h"
#include "platform/platform.h"
#include "platform/systrap/sysmsg/sysmsg.h"

namespace caisson::systrap {

class StubProcess;
class SystrapContext;

enum class Phase : uint64_t {
  kOwned,  // the kernel has it
  kGuest,  // the guest has it, or it waits with a request
  kGone,   // the host thread is dead or was never made
};

// A call of rseq(2); `also_fine` is the error with which the thread goes on too.
inline CallerCall rseq_call(const platform::RseqArea& area, uint32_t flags, int also_fine) {
  return {CALL_RSEQ | uint64_t{static_cast<uint32_t>(-also_fine)} << 32,
          {area.addr, area.length | uint64_t{flags} << 32, area.signature}};
}

class StubThread {
 public:
  StubThread(uint32_t id, Slot& slot, uint64_t address) : id_(id), slot_(slot), address_(address) {}

  uint32_t id() const { return id_; }
  Slot& slot() { return slot_; }
  uint64_t address() const { return address_; }  // of the slot, in the stub

  static constexpr uint64_t kPhaseMask = 3;
  static Phase phase_of(uint64_t word) { return static_cast<Phase>(word & kPhaseMask); }
  std::atomic<uint64_t>& phase() { return phase_; }
  // Moves from `word` to `to` in the same generation; false if somebody else was first.
  bool claim(uint64_t word, Phase to) {
    return phase_.compare_exchange_strong(word, (word & ~kPhaseMask) | static_cast<uint64_t>(to));
  }
  // Returns the new word.
  uint64_t start_generation(Phase to) {
    uint64_t next = (phase_.load(std::memory_order_relaxed) & ~kPhaseMask) + kPhaseMask + 1;
    next |= static_cast<uint64_t>(to);
    phase_.store(next);
    return next;
  }

  // An interrupt that came while the thread was being handed over.
  std::atomic<bool> interrupt_flag{false};
  // Whether the host thread was ever sent the interrupt signal: then it is not used again.
  std::atomic<bool> was_interrupted{false};
  // The order that lets it run, if it waited for the mapper.
  std::atomic<uint64_t> wake_seq{0};

  // The rest belongs to the StubProcess, guarded by its lock, or to the worker that has claimed the
  // thread.
  StubProcess* process = nullptr;
  SystrapContext* context = nullptr;
  UniqueFd pidfd;
  int tid = 0;
  bool is_blocked = true;  // signals may be: it is new, or in the interrupt's handler
  bool has_frame = false;  // frame_offset is the frame it waits in
  bool at_gate = false;    // it waits in the call gate
  bool in_call = false;    // it waits in a trapped call, whose frame nobody has changed
  uint32_t frame_offset = 0;
  uint32_t vector_offset = 0;  // of the XSAVE image in the slot; 0: not looked up yet
  uint64_t cpu_base_ns = 0;    // CPU time used for earlier guest tasks
  // The context's scheduling_id that the host thread has; anybody's who took it since is another.
  uint64_t scheduling_id = 0;
  uint32_t young = 0;      // requests that are soon followed by others
  bool is_placed = false;  // the next start leaves it where it is
  int nice = 0;
  // What it has registered for rseq(2), unless its guest went behind our back.
  platform::RseqArea rseq;
  // Its task is about to end; it takes that back, or dies if the memory goes before.
  bool is_leaving = false;

  // CPU time of the host thread so far, nanoseconds; 0 if there is none.
  uint64_t host_cpu_ns() const;

 private:
  const uint32_t id_;
  Slot& slot_;
  const uint64_t address_;
  std::atomic<uint64_t> phase_{static_cast<uint64_t>(Phase::kGone)};
};

}  // namespace caisson::systrap
