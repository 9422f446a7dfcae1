#include "kernel/run_state.h"

namespace caisson {

SchedWord::Effect SchedWord::notify() {
  uint8_t word = word_.load(std::memory_order_acquire);
  for (;;) {
    uint8_t next = word;
    Effect effect = Effect::kNothing;
    switch (word & ~kMark) {
      case kDead:
      case kInert:
        return Effect::kNothing;
      case kParked:
        next = kQueued;
        effect = Effect::kQueue;
        break;
      case kGuest:
        // The first mark interrupts; the task is on its way back already for later ones.
        effect = (word & kMark) != 0 ? Effect::kNothing : Effect::kInterrupt;
        next = word | kMark;
        break;
      default:
        next = word | kMark;
        break;
    }
    // A marked word is written again, so that what the sender set before is seen by the owner.
    if (word_.compare_exchange_weak(word, next, std::memory_order_acq_rel)) return effect;
  }
}

bool may_follow(const RunState& from, const RunState& to) {
  if (std::holds_alternative<RunDead>(from)) return false;
  if (std::holds_alternative<RunExit>(from)) return std::holds_alternative<RunDead>(to);
  if (std::holds_alternative<RunDead>(to)) return false;
  if (std::holds_alternative<RunExit>(to)) return true;
  if (std::holds_alternative<RunStopped>(to)) return std::holds_alternative<RunGuest>(from);
  if (std::holds_alternative<RunFetchVector>(to) || std::holds_alternative<RunOperation>(to))
    return std::holds_alternative<RunGuest>(from) || std::holds_alternative<RunSyscall>(from);
  if (std::holds_alternative<RunSyscall>(to))
    return std::holds_alternative<RunGuest>(from) || std::holds_alternative<RunFetchVector>(from);
  return true;  // RunGuest may follow every state that is not an end
}

const char* run_state_name(const RunState& state) {
  static constexpr const char* kNames[] = {"guest",        "syscall", "operation", "stopped",
                                           "fetch vector", "exit",    "dead"};
  return kNames[state.index()];
}

}  // namespace caisson
