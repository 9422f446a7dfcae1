// SyscallTable: what the kernel knows about the list of system calls; syscalls/ fills it in.
//
// SyscallObserver: sees every call before and after it runs (strace, coverage). Neither exists for
// the kernel's own logic: an entry that is missing is ENOSYS, an observer that is missing costs one
// branch.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <span>

#include "abi/registers.h"
#include "kernel/syscall_result.h"

namespace caisson {

class CurrentTask;

// How one argument is printed; deduced from the handler's parameter type.
enum class ArgKind : uint8_t {
  kNone,
  kSigned32,
  kUnsigned32,
  kSigned64,
  kUnsigned64,
  kPointer,  // an address and nothing else is known
  kString,   // UserCString
  kIn,       // UserIn<T>
  kOut,      // UserOut<T>
  kInOut,    // UserInOut<T>
};

enum class Support : uint8_t {
  kFull,
  kPartial,  // works but for what the note says
  kRefused,  // answered with an errno by decision; the note says why
};

struct SyscallEntry {
  uint16_t number = 0;
  const char* name = nullptr;
  Support support = Support::kFull;
  // Decodes the argument registers and calls the handler.
  SyscallResult (*call)(CurrentTask& task, const Registers& regs) = nullptr;
  const char* note = "";
  uint8_t arg_count = 0;
  std::array<ArgKind, 6> args{};
};

class SyscallTable {
 public:
  static constexpr uint64_t kSize = 512;
  // `entries` lives for ever; numbers must be below kSize, sorted and unique.
  explicit SyscallTable(std::span<const SyscallEntry> entries);
  // nullptr: no such call.
  const SyscallEntry* find(uint64_t number) const {
    return number < kSize ? dense_[number] : nullptr;
  }
  std::span<const SyscallEntry> entries() const { return entries_; }

  // Calls with numbers that are not in the table; numbers from kSize up share the last counter.
  void count_missing(uint64_t number) {
    missing_[number < kSize ? number : kSize].fetch_add(1, std::memory_order_relaxed);
  }
  uint64_t missing_count(uint64_t number) const {
    return missing_[number < kSize ? number : kSize].load(std::memory_order_relaxed);
  }

 private:
  std::span<const SyscallEntry> entries_;
  std::array<const SyscallEntry*, kSize> dense_{};
  std::array<std::atomic<uint32_t>, kSize + 1> missing_{};
};

class SyscallObserver {
 public:
  virtual ~SyscallObserver() = default;
  // `entry` is nullptr for an unknown number. On the worker that runs the task, no lock held.
  virtual void entered(CurrentTask& task, const Registers& regs, const SyscallEntry* entry) = 0;
  // `result` as the guest will see it, except that restart codes appear as such. `regs` are those
  // at entry.
  virtual void left(CurrentTask& task, const Registers& regs, const SyscallEntry* entry,
                    uint64_t result) = 0;
  // exit, exit_group, or death by a signal: no result comes.
  virtual void exited(CurrentTask& task, int wait_status) = 0;
  // A signal is about to be delivered.
  virtual void signal_delivered(CurrentTask& task, int signo, int code) = 0;
};

}  // namespace caisson
