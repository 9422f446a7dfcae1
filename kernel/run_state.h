// RunState: what a task does next; and SchedWord: who may run it now.
//
// A task is always in exactly one RunState. Only the worker that owns the task reads or changes it.
//   RunGuest         check signals, then continue in the guest
//   RunSyscall       enter (or enter again) the system call in the registers
//   RunOperation     a call waits: step it when woken
//   RunStopped       job-control stop, until SIGCONT or SIGKILL
//   RunFetchVector   the stub saves its vector state; then `then`
//   RunExit          end the task
//   RunDead          nothing any more
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <variant>

#include "abi/registers.h"
#include "kernel/operation.h"

namespace caisson {

struct RunGuest {};
struct RunSyscall {};
struct RunOperation {
  std::unique_ptr<Operation> operation;
  bool armed = false;
  std::optional<uint64_t> deadline_ns;  // given to the event loop
};
struct RunStopped {};
struct RunFetchVector {
  bool enter_syscall = false;  // then RunSyscall, else RunGuest
};
struct RunExit {};
struct RunDead {};
using RunState =
    std::variant<RunGuest, RunSyscall, RunOperation, RunStopped, RunFetchVector, RunExit, RunDead>;

// Whether a worker could leave `from` for `to`; checked in debug builds, drawn in kernel/README.md.
bool may_follow(const RunState& from, const RunState& to);
const char* run_state_name(const RunState& state);

// Who has the task, in one atomic word, so that no wake-up is lost:
//
//           pop              park               notify
//   kQueued -----> kOwned ----------> kParked ---------> kQueued
//                   |  ^
//     enter_guest   |  | event
//                   v  |
//                  kGuest            kDead: from kOwned, for ever
//
// notify() says "look again". It queues a parked task, interrupts one in the guest, and otherwise
// leaves a mark that makes the owner's next park() or enter_guest() fail. The owner clears the mark
// (begin_look) before it looks at the conditions that senders set before they notify.
class SchedWord {
 public:
  enum class Effect : uint8_t { kNothing, kQueue, kInterrupt };

  // What the caller of a notification must do.
  Effect notify();
  // The owner's side.
  void begin_look() { word_.fetch_and(static_cast<uint8_t>(~kMark), std::memory_order_acq_rel); }
  bool is_marked() const { return (word_.load(std::memory_order_acquire) & kMark) != 0; }
  [[nodiscard]] bool park() { return leave_to(kParked); }
  [[nodiscard]] bool enter_guest() { return leave_to(kGuest); }
  void take() { word_.exchange(kOwned, std::memory_order_acq_rel); }  // from kQueued or kGuest
  void set_queued() { word_.store(kQueued, std::memory_order_release); }
  void set_inert() { word_.store(kInert, std::memory_order_release); }  // never runs
  void set_dead() { word_.store(kDead, std::memory_order_release); }

  bool is_dead() const { return state() == kDead; }
  bool is_in_guest() const { return state() == kGuest; }
  bool is_parked() const { return state() == kParked; }

 private:
  static constexpr uint8_t kOwned = 0, kQueued = 1, kParked = 2, kGuest = 3, kDead = 4, kInert = 5;
  static constexpr uint8_t kMark = 0x80;
  uint8_t state() const {
    return word_.load(std::memory_order_acquire) & static_cast<uint8_t>(~kMark);
  }
  bool leave_to(uint8_t next) {
    uint8_t expected = kOwned;
    return word_.compare_exchange_strong(expected, next, std::memory_order_acq_rel);
  }

  std::atomic<uint8_t> word_{kOwned};
};

}  // namespace caisson
