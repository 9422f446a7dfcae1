// The process's environment, safe among threads.
//
// A copy of the C library's environment, taken at the first use; from then on this one counts, and
// the C library's is neither read nor written (another thread's getenv(3) could not be told). A
// child started without an environment of its own gets one consistent snapshot of this one.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace caisson::sys {

// An immutable environment in the form that execve(2) takes.
class EnvironmentSnapshot {
 public:
  explicit EnvironmentSnapshot(std::vector<std::string> entries);
  EnvironmentSnapshot(const EnvironmentSnapshot&) = delete;
  EnvironmentSnapshot& operator=(const EnvironmentSnapshot&) = delete;

  const std::vector<std::string>& entries() const { return entries_; }
  char* const* pointers() const { return pointers_.data(); }

 private:
  std::vector<std::string> entries_;  // immutable
  std::vector<char*> pointers_;       // immutable; into entries_, null at the end
};

// nullopt: not set. An empty value is a value.
std::optional<std::string> getenv(std::string_view key);
// EINVAL: the key is empty or holds '=' or NUL, or the value holds NUL.
Result<void> setenv(std::string_view key, std::string_view value);
// Unsetting what is not set succeeds. EINVAL: the key is empty.
Result<void> unsetenv(std::string_view key);
void clearenv();
// "KEY=value" in the order of first setting; entries without '=' that the process started with are
// kept.
std::vector<std::string> environ();
std::shared_ptr<const EnvironmentSnapshot> environment_snapshot();

}  // namespace caisson::sys
