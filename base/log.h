// Logging for people who debug Caisson: off by default, to standard error or a file, never needed
// for correct work.
//
// log_debug() and friends take printf formats. Guest-controlled strings are escaped by the caller
// (base/strings.h).
#pragma once

namespace caisson {

enum class LogLevel : unsigned char { kError, kWarning, kInfo, kDebug };

void set_log_level(LogLevel level);
void set_log_fd(int fd);
bool log_enabled(LogLevel level);
void log_write(LogLevel level, const char* format, ...) __attribute__((format(printf, 2, 3)));

}  // namespace caisson

#define LOG_ERROR(...) ::caisson::log_write(::caisson::LogLevel::kError, __VA_ARGS__)
#define LOG_WARNING(...) ::caisson::log_write(::caisson::LogLevel::kWarning, __VA_ARGS__)
#define LOG_INFO(...)                                                \
  do {                                                               \
    if (::caisson::log_enabled(::caisson::LogLevel::kInfo))          \
      ::caisson::log_write(::caisson::LogLevel::kInfo, __VA_ARGS__); \
  } while (false)
#define LOG_DEBUG(...)                                                \
  do {                                                                \
    if (::caisson::log_enabled(::caisson::LogLevel::kDebug))          \
      ::caisson::log_write(::caisson::LogLevel::kDebug, __VA_ARGS__); \
  } while (false)
