// Helpers that several families of calls share.
#pragma once

#include "abi/process.h"
#include "kernel/current_task.h"
#include "kernel/task.h"

namespace caisson {

inline ResourceUsage to_resource_usage(const ResourceUse& use) {
  ResourceUsage usage;
  usage.user_time = to_timeval(use.cpu_ns);
  usage.max_resident_kb = static_cast<int64_t>(use.max_resident_bytes / 1024);
  return usage;
}

// ptrace(2)'s "access mode checking", PTRACE_MODE_*_REALCREDS: EPERM unless the caller has the
// target's ids and capabilities.
Result<void> may_inspect(CurrentTask& task, Task& target);

}  // namespace caisson
