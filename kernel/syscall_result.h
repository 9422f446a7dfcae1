// SyscallResult: what a system call handler leaves behind.
//
// A number for the caller; an Errno (restart codes included); a parked operation; TaskExits (exit,
// exit_group: there is no caller any more); FrameReplaced (rt_sigreturn, execve: the registers are
// already what the caller continues with, nothing is stored into rax); NeedsVectorState (the
// handler has done nothing yet and is called again when the task's vector state is at hand).
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <variant>

#include "base/result.h"
#include "kernel/operation.h"

namespace caisson {

struct TaskExits {};
struct FrameReplaced {};
struct NeedsVectorState {};

class [[nodiscard]] SyscallResult {
 public:
  using State = std::variant<uint64_t, Errno, std::unique_ptr<Operation>, TaskExits, FrameReplaced,
                             NeedsVectorState>;

  // NOLINTBEGIN(google-explicit-constructor)
  template <typename T>
    requires(std::is_integral_v<T> || std::is_enum_v<T>)
  SyscallResult(T value) : state_(static_cast<uint64_t>(static_cast<int64_t>(value))) {}
  SyscallResult(Errno error) : state_(error) {}
  SyscallResult(std::unique_ptr<Operation> operation) : state_(std::move(operation)) {}
  SyscallResult(TaskExits exits) : state_(exits) {}
  SyscallResult(FrameReplaced replaced) : state_(replaced) {}
  SyscallResult(NeedsVectorState needs) : state_(needs) {}
  SyscallResult(Result<void> result)
      : state_(result.ok() ? State(uint64_t{0}) : State(result.error())) {}
  template <typename T>
    requires(std::is_integral_v<T>)
  SyscallResult(const Result<T>& result)
      : state_(result.ok() ? State(static_cast<uint64_t>(static_cast<int64_t>(result.value())))
                           : State(result.error())) {}
  // NOLINTEND(google-explicit-constructor)

  State& state() { return state_; }

 private:
  State state_;
};

}  // namespace caisson
