// This process: identity, limits, signals to others, exec and exit. start.h starts new ones.
#pragma once

#include <sys/resource.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "caisson/sys/signal.h"

namespace caisson::sys {

struct Rlimit {
  uint64_t cur = 0;
  uint64_t max = 0;
  friend constexpr bool operator==(const Rlimit&, const Rlimit&) = default;
};

int getpid();
int getpagesize();
Result<Rlimit> getrlimit(int resource);
Result<void> setrlimit(int resource, const Rlimit& limit);
// Process (start.h) is the safe way to signal a child: a number may belong to a stranger by now.
Result<void> kill(int pid, Signal signal);

// Replaces this program; returns only with an error. EINVAL: a string holds NUL, or argv is empty.
// No search in $PATH. The first form passes a snapshot of environ().
Result<void> exec(const std::string& path, const std::vector<std::string>& argv);
Result<void> exec(const std::string& path, const std::vector<std::string>& argv,
                  const std::vector<std::string>& env);
// Ends the process at once: no atexit functions, no flushing.
[[noreturn]] void exit(int code);

}  // namespace caisson::sys
