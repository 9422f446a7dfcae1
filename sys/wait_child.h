// Waiting for one child, by pidfd where that works.
#pragma once

#include <sys/resource.h>
#include <sys/wait.h>

#include "host/raw_syscall.h"

namespace caisson::sys::internal {

// waitid(2) for the end, by pidfd, so that a stranger with a number that others have set free is
// never meant. By number where the host has no pidfds, or makes some but cannot wait by them (Linux
// 5.2 and 5.3). A child that the caller traces reports its stops too.
inline host::RawResult wait_for_child(int pid, int pidfd, siginfo_t& info, int options,
                                      rusage* usage = nullptr) {
  const long how = WEXITED | __WALL | options;
  if (pidfd >= 0) {
    const host::RawResult waited = host::raw_syscall(
        SYS_waitid, P_PIDFD, pidfd, host::raw_arg(&info), how, host::raw_arg(usage));
    if (waited.value() != -EINVAL) return waited;
  }
  return host::raw_syscall(SYS_waitid, P_PID, pid, host::raw_arg(&info), how, host::raw_arg(usage));
}

// Whether it tells of the end, and not of a stop or of nothing.
inline bool has_ended(const siginfo_t& info) {
  return info.si_code == CLD_EXITED || info.si_code == CLD_KILLED || info.si_code == CLD_DUMPED;
}

}  // namespace caisson::sys::internal
