// Strings on their way to execve(2).
#pragma once

#include <string>
#include <vector>

namespace caisson::sys::internal {

// The kernel would see the string end there.
inline bool holds_nul(const std::string& text) { return text.find('\0') != std::string::npos; }

// argv or envp, with the null at its end; points into `strings`.
inline std::vector<char*> pointers_to(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  pointers.reserve(strings.size() + 1);
  for (const std::string& text : strings) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

}  // namespace caisson::sys::internal
