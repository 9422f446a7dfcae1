// Waiting for children: wait4(2) and its status word.
#pragma once

#include <sys/resource.h>
#include <sys/wait.h>

#include <cstdint>

#include "base/result.h"
#include "caisson/sys/signal.h"

namespace caisson::sys {

using Rusage = struct ::rusage;

// The status word of wait(2). A query that does not apply gives -1.
class WaitStatus {
 public:
  constexpr WaitStatus() = default;
  constexpr explicit WaitStatus(uint32_t word) : word_(word) {}

  constexpr bool exited() const { return (word_ & kMask) == kExited; }
  constexpr bool signaled() const {
    return (word_ & kMask) != kStopped && (word_ & kMask) != kExited;
  }
  constexpr bool stopped() const { return (word_ & 0xff) == kStopped; }
  constexpr bool continued() const { return word_ == 0xffff; }
  constexpr bool core_dump() const { return signaled() && (word_ & kCore) != 0; }
  constexpr int exit_status() const { return exited() ? static_cast<int>(word_ >> 8 & 0xff) : -1; }
  constexpr Signal signal() const { return signaled() ? static_cast<int>(word_ & kMask) : -1; }
  constexpr Signal stop_signal() const {
    return stopped() ? static_cast<int>(word_ >> 8 & 0xff) : -1;
  }
  // The PTRACE_EVENT_* number of a ptrace stop; -1 unless stopped by SIGTRAP.
  constexpr int trap_cause() const {
    return stop_signal() == Signal(SIGTRAP) ? static_cast<int>(word_ >> 16) : -1;
  }
  constexpr uint32_t word() const { return word_; }

  friend constexpr bool operator==(WaitStatus, WaitStatus) = default;

 private:
  static constexpr uint32_t kMask = 0x7f;
  static constexpr uint32_t kCore = 0x80;
  static constexpr uint32_t kExited = 0x00;
  static constexpr uint32_t kStopped = 0x7f;
  uint32_t word_ = 0;
};

struct WaitResult {
  int pid = 0;  // 0: WNOHANG, and nothing to report
  WaitStatus status;
  Rusage rusage{};
};

// EINTR comes back to the caller.
Result<WaitResult> wait4(int pid, int options = 0);

}  // namespace caisson::sys
