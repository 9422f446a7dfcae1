// CallPatcher: which files' system calls are patched, so that they come without a trap.
//
// One per sandbox. Workers report some of the trapped calls; a host file whose text has made enough
// of them gets a patched image (platform/platform.h), which is mapped instead of its text from then
// on, in all address spaces. Other memory than the text of host files is never patched: nobody in
// the sandbox can change those. Lock: mu_.
#pragma once

#include <unordered_map>

#include "base/mutex.h"
#include "mm/mappable.h"
#include "mm/memory_manager.h"
#include "platform/platform.h"

namespace caisson {

class CallPatcher {
 public:
  // Trapped calls of a file before it is patched; what docs/design.md says about the figure.
  static constexpr uint32_t kDefaultAfter = 1024;

  // `after`: so many trapped calls later a file is patched; 0: nothing is.
  CallPatcher(platform::Platform& platform, uint32_t after) : platform_(platform), after_(after) {}

  // A report: a call was trapped in `mm`; `rip` is where it returns to.
  void trapped(MemoryManager& mm, GuestAddr rip) EXCLUDES(mu_);
  // Whether reports are wanted at all.
  bool is_on() const { return after_ != 0; }
  // A worker reports one of so many trapped calls.
  uint32_t traps_per_report() const { return after_ < kTrapsPerReport ? 1 : kTrapsPerReport; }

 private:
  static constexpr uint32_t kTrapsPerReport = 17;  // odd: calls that alternate are all met

  bool is_due(const Ref<Mappable>& file) EXCLUDES(mu_);
  // Gives `file` its patched text, of the segment that holds `offset`; returns how many calls it
  // has.
  Result<size_t> patch(Mappable& file, uint64_t offset);

  platform::Platform& platform_;
  const uint32_t after_;
  Mutex<LockRank::kLeaf> mu_;
  // Counts of trapped calls. Files stay in here, so that a count is never another file's.
  std::unordered_map<Mappable*, std::pair<Ref<Mappable>, uint64_t>> files_ GUARDED_BY(mu_);
};

}  // namespace caisson
