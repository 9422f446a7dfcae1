#include "base/log.h"

#include <unistd.h>

#include <atomic>
#include <cstdarg>
#include <cstdio>

namespace caisson {
namespace {
std::atomic<LogLevel> max_level{LogLevel::kWarning};
std::atomic<int> log_fd{STDERR_FILENO};
}  // namespace

void set_log_level(LogLevel level) { max_level = level; }
void set_log_fd(int fd) { log_fd = fd; }
bool log_enabled(LogLevel level) { return level <= max_level.load(std::memory_order_relaxed); }

// One write(2) per line, so that lines of several threads do not mix.
void log_write(LogLevel level, const char* format, ...) {
  if (!log_enabled(level)) return;
  static constexpr const char* kNames[] = {"error", "warning", "info", "debug"};
  char line[1024];
  int used = snprintf(line, sizeof line, "caisson: %s: ", kNames[static_cast<int>(level)]);
  va_list arguments;
  va_start(arguments, format);
  int more = vsnprintf(line + used, sizeof line - static_cast<size_t>(used) - 1, format, arguments);
  va_end(arguments);
  if (more > 0) used += more;
  if (used > static_cast<int>(sizeof line) - 2) used = static_cast<int>(sizeof line) - 2;
  line[used++] = '\n';
  if (write(log_fd.load(std::memory_order_relaxed), line, static_cast<size_t>(used)) < 0) {
    // Nowhere to report it.
  }
}

}  // namespace caisson
