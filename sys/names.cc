// Names of signals, clone flags and classes of errors.
#include <cstring>

#include "caisson/sys/clone_flags.h"
#include "caisson/sys/errors.h"
#include "caisson/sys/signal.h"

namespace caisson::sys {

std::string Signal::name() const {
  // The kernel's numbers, not the C library's SIGRTMIN, which hides those that it uses itself.
  if (const char* name = sigabbrev_np(number_)) return std::string("SIG") + name;
  constexpr int kFirstRealtime = 34;
  constexpr int kLast = 64;
  if (number_ == kFirstRealtime) return "SIGRTMIN";
  if (number_ > kFirstRealtime && number_ <= kLast)
    return "SIGRTMIN+" + std::to_string(number_ - kFirstRealtime);
  return "signal " + std::to_string(number_);
}

std::string Signal::text() const {
  static constexpr const char* kTexts[] = {
      nullptr,
      "hangup",
      "interrupt",
      "quit",
      "illegal instruction",
      "trace/breakpoint trap",
      "aborted",
      "bus error",
      "floating point exception",
      "killed",
      "user defined signal 1",
      "segmentation fault",
      "user defined signal 2",
      "broken pipe",
      "alarm clock",
      "terminated",
      "stack fault",
      "child exited",
      "continued",
      "stopped (signal)",
      "stopped",
      "stopped (tty input)",
      "stopped (tty output)",
      "urgent I/O condition",
      "CPU time limit exceeded",
      "file size limit exceeded",
      "virtual timer expired",
      "profiling timer expired",
      "window changed",
      "I/O possible",
      "power failure",
      "bad system call",
  };
  if (number_ > 0 && number_ < static_cast<int>(std::size(kTexts))) return kTexts[number_];
  return "signal " + std::to_string(number_);
}

std::string clone_flags_text(uint64_t flags) {
  std::string text;
  const auto add = [&text](std::string_view part) {
    if (!text.empty()) text += '|';
    text += part;
  };
  for (const CloneFlag& flag : kCloneFlags) {
    if ((flags & flag.value) == 0) continue;
    add(flag.name);
    flags &= ~flag.value;
  }
  if (flags != 0 || text.empty()) {
    char number[24];
    snprintf(number, sizeof(number), flags == 0 ? "0" : "0x%llx",
             static_cast<unsigned long long>(flags));
    add(number);
  }
  return text;
}

bool is(Errno error, ErrorClass kind) {
  const int value = error.value();
  switch (kind) {
    case ErrorClass::kPermission:
      return value == EACCES || value == EPERM;
    case ErrorClass::kExist:
      return value == EEXIST || value == ENOTEMPTY;
    case ErrorClass::kNotExist:
      return value == ENOENT;
    case ErrorClass::kUnsupported:
      return value == ENOSYS || value == EOPNOTSUPP;
  }
  return false;
}

bool is_timeout(Errno error) { return error.value() == EAGAIN || error.value() == ETIMEDOUT; }

bool is_temporary(Errno error) {
  const int value = error.value();
  return value == EINTR || value == EMFILE || value == ENFILE || is_timeout(error);
}

}  // namespace caisson::sys
