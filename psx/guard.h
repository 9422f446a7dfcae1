// Guards: the measures against races, by name, so that a test can show what each one is for.
//
// In the library every guard stands and guarded() is the constant true. The test build
// (CAISSON_PSX_GUARD_TESTS) lets the race tests take one out at run time and see its scenario fail.
#pragma once

#include <cstdint>

namespace caisson::psx::internal {

enum class Guard : uint32_t {
  kRecount,   // look for new threads until the kernel's count says that all are held
  kHold,      // a thread that made the call stays in the handler until all have
  kGone,      // a thread that exits without answering is noticed
  kZombie,    // a leader that has exited but is still listed is not waited for
  kDeadline,  // no wait is forever
  kQueue,     // one broadcast at a time
  kMask,      // no signal handler runs on the caller during a broadcast
  kWipe,      // a fork's child does not inherit a broadcast in progress
  kChild,     // a fork's child does not look at its parent's threads
  kAskAfter,  // a lone caller asks after the call whether it still is
  kOrphan,    // a caller that is killed leaves neither held threads nor a taken lock behind
  kChain,     // signals that are not ours go to the handler that was there before
};

extern uint32_t removed_guards;  // test build only: bit per Guard, set once before start
#ifdef CAISSON_PSX_GUARD_TESTS
inline bool guarded(Guard guard) {
  return (removed_guards >> static_cast<uint32_t>(guard) & 1) == 0;
}
#else
constexpr bool guarded(Guard) { return true; }
#endif

}  // namespace caisson::psx::internal
