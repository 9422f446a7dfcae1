// run(task, SomeOperation{...}): the last line of a handler whose call may wait.
//
// Tries the operation once on the stack; only one that must wait is allocated, and left behind for
// the dispatcher to arm and park (kernel/task_run.cc).
#pragma once

#include <memory>
#include <type_traits>
#include <utility>

#include "kernel/operation.h"
#include "kernel/syscall_result.h"

namespace caisson {

template <typename Op>
SyscallResult run(CurrentTask& task, Op operation) {
  static_assert(std::is_base_of_v<Operation, Op>);
  StepResult result = operation.step(task);
  if (const auto* value = std::get_if<uint64_t>(&result)) return *value;
  if (const auto* error = std::get_if<Errno>(&result)) return *error;
  return std::unique_ptr<Operation>(std::make_unique<Op>(std::move(operation)));
}

}  // namespace caisson
