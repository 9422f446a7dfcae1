// CHECK ends the sandbox when one of our own invariants is broken; it is on in every build. DCHECK
// is for debug builds. Neither may depend on anything that a guest controls: bad guest input is an
// Errno.
#pragma once

namespace caisson {

// Prints "file:line: CHECK failed: expression" and what the check hooks add, then aborts.
[[noreturn]] void check_failed(const char* file, int line, const char* expression);

// A hook prints context (the current task, the last events) before the process ends. Set once
// before start.
void set_check_hook(void (*hook)());

}  // namespace caisson

#define CHECK(expression)                                       \
  do {                                                          \
    if (!(expression)) [[unlikely]]                             \
      ::caisson::check_failed(__FILE__, __LINE__, #expression); \
  } while (false)

#ifndef NDEBUG
#define DCHECK(expression) CHECK(expression)
#else
#define DCHECK(expression)      \
  do {                          \
    (void)sizeof((expression)); \
  } while (false)
#endif
