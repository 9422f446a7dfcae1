#include "strace/tracer.h"

#include <unistd.h>

#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <utility>

#include "abi/signal.h"
#include "base/errno.h"
#include "kernel/current_task.h"
#include "kernel/task.h"

namespace caisson {
namespace {

constexpr size_t kShown = 32;

std::string format(const char* pattern, uint64_t value) {
  char text[32];
  snprintf(text, sizeof text, pattern, value);
  return text;
}

std::string argument_text(CurrentTask& task, ArgKind kind, uint64_t value) {
  switch (kind) {
    case ArgKind::kNone:
      return "";
    case ArgKind::kSigned32:
      return std::to_string(static_cast<int32_t>(value));
    case ArgKind::kUnsigned32:
      return format("%#" PRIx64, static_cast<uint32_t>(value));
    case ArgKind::kSigned64:
      return std::to_string(static_cast<int64_t>(value));
    case ArgKind::kUnsigned64:
      return value < 4096 ? std::to_string(value) : format("%#" PRIx64, value);
    case ArgKind::kString: {
      if (value == 0) return "NULL";
      auto text = task.copy_in_string(UserCString(value), 4096);
      return text.ok() ? quoted(text.value()) : format("%#" PRIx64, value);
    }
    case ArgKind::kPointer:
    case ArgKind::kIn:
    case ArgKind::kOut:
    case ArgKind::kInOut:
      return value == 0 ? "NULL" : format("%#" PRIx64, value);
  }
  return "?";
}

std::string signal_text(int signo) {
  const char* name = sigabbrev_np(signo);
  return name != nullptr ? std::string("SIG") + name : "SIG_" + std::to_string(signo);
}

}  // namespace

std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (size_t i = 0; i < text.size() && i < kShown; ++i) {
    auto byte = static_cast<unsigned char>(text[i]);
    if (byte == '"' || byte == '\\') {
      result += '\\';
      result += text[i];
    } else if (byte == '\n') {
      result += "\\n";
    } else if (byte == '\t') {
      result += "\\t";
    } else if (byte < 0x20 || byte >= 0x7f) {
      char octal[8];
      snprintf(octal, sizeof octal, "\\%o", byte);
      result += octal;
    } else {
      result += text[i];
    }
  }
  return result + (text.size() > kShown ? "\"..." : "\"");
}

std::string result_text(uint64_t result) {
  auto value = static_cast<int64_t>(result);
  if (value < 0 && value >= -4095) {
    Errno error(static_cast<int>(-value));
    if (error.is_restart()) return "? " + std::string(error.name());
    return "-1 " + std::string(error.name()) + " (" + std::string(error.message()) + ")";
  }
  return value >= 0 && value < 65536 ? std::to_string(value) : format("%#" PRIx64, result);
}

void Tracer::entered(CurrentTask& task, const Registers& regs, const SyscallEntry* entry) {
  std::string text;
  if (entry == nullptr) {
    text = "syscall_" + format("%#" PRIx64, regs.orig_rax) + "(";
    for (int i = 0; i < 6; ++i)
      text += (i > 0 ? ", " : "") + format("%#" PRIx64, regs.syscall_arg(i));
  } else {
    text = std::string(entry->name) + "(";
    for (uint8_t i = 0; i < entry->arg_count; ++i)
      text += (i > 0 ? ", " : "") + argument_text(task, entry->args[i], regs.syscall_arg(i));
  }
  text += ")";
  MutexLock lock(mu_);
  begun_.insert_or_assign(task.task().tid(), std::move(text));
}

std::string Tracer::take(int tid) {
  MutexLock lock(mu_);
  auto it = begun_.find(tid);
  if (it == begun_.end()) return "";
  std::string text = std::move(it->second);
  begun_.erase(it);
  return text;
}

void Tracer::left(CurrentTask& task, const Registers&, const SyscallEntry*, uint64_t result) {
  int tid = task.task().tid();
  print(tid, take(tid) + " = " + result_text(result));
}

void Tracer::exited(CurrentTask& task, int wait_status) {
  int tid = task.task().tid();
  std::string call = take(tid);
  if (!call.empty()) print(tid, call + " = ?");
  int signo = wait_status & 0x7f;
  if (signo != 0)
    print(tid, "+++ killed by " + signal_text(signo) + " +++");
  else
    print(tid, "+++ exited with " + std::to_string(wait_status >> 8 & 0xff) + " +++");
}

void Tracer::signal_delivered(CurrentTask& task, int signo, int code) {
  std::string name = signal_text(signo);
  print(task.task().tid(),
        "--- " + name + " {si_signo=" + name + ", si_code=" + std::to_string(code) + "} ---");
}

void Tracer::print(int tid, const std::string& text) {
  std::string line = "[pid " + std::to_string(tid) + "] " + text + "\n";
  // Nobody to tell when it fails; tracing never stops the guest.
  if (write(fd_, line.data(), line.size()) < 0) return;
}

}  // namespace caisson
