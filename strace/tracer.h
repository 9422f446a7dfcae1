// Tracer: prints every system call of the guests in strace(1)'s syntax, for `--strace`.
//
// One per sandbox, made by the runtime before the kernel. What each argument is comes from the
// system call table. A line is written with one write(2) when its call ends, so lines of several
// tasks do not mix. Calls that do not exist are shown with their number and counted by the table.
#pragma once

#include <string>
#include <unordered_map>

#include "base/mutex.h"
#include "kernel/syscall_table.h"

namespace caisson {

class Tracer final : public SyscallObserver {
 public:
  // Writes to `fd`, which is not owned.
  explicit Tracer(int fd) : fd_(fd) {}

  void entered(CurrentTask& task, const Registers& regs, const SyscallEntry* entry) override;
  void left(CurrentTask& task, const Registers& regs, const SyscallEntry* entry,
            uint64_t result) override;
  void exited(CurrentTask& task, int wait_status) override;
  void signal_delivered(CurrentTask& task, int signo, int code) override;

 private:
  std::string take(int tid) EXCLUDES(mu_);
  void print(int tid, const std::string& text);

  const int fd_;
  Mutex<LockRank::kLog> mu_;
  // What a task's call looked like when it began; the strings may be gone when it ends.
  std::unordered_map<int, std::string> begun_ GUARDED_BY(mu_);
};

// The text of a call's result: "0", "-1 ENOENT (No such file or directory)", "? ERESTARTSYS".
std::string result_text(uint64_t result);
// A guest string between quotes, C escapes, at most 32 bytes and "..." as strace(1).
std::string quoted(const std::string& text);

}  // namespace caisson
