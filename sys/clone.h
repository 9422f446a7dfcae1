// clone_child(): the new process itself: clone3(2), or clone(2) where the host lacks clone3 or a
// flag of ours.
#pragma once

#include <cstddef>
#include <cstdint>

#include "host/raw_syscall.h"
#include "sys/child.h"

namespace caisson::sys::internal {

struct CloneRequest {
  uint64_t flags = 0;  // without CLONE_PIDFD, CLONE_CLEAR_SIGHAND and CLONE_INTO_CGROUP
  int cgroup_fd = -1;
  std::byte* stack = nullptr;  // the child's; null: a copy of the caller's, never with CLONE_VM
  size_t stack_size = 0;
};

struct CloneResult {
  host::RawResult pid;
  int pidfd = -1;
};

// Starts run_child(plan) in a new process. Sets the plan's reset_signals and join_cgroup_fd to what
// the host left to the child.
CloneResult clone_child(const CloneRequest& request, ChildPlan& plan);

}  // namespace caisson::sys::internal
