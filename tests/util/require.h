// REQUIRE: a check for places where GoogleTest can't be used: forked children, raw clone threads,
// signal handlers. It writes one line with write(2) and ends the process with status 99.
#pragma once

#include <cerrno>

namespace caisson::test {

inline constexpr int kRequireFailed = 99;

[[noreturn]] void require_failed(const char* file, int line, const char* what, int error);

}  // namespace caisson::test

#define REQUIRE(condition)                                                                    \
  do {                                                                                        \
    if (!(condition)) ::caisson::test::require_failed(__FILE__, __LINE__, #condition, errno); \
  } while (false)
