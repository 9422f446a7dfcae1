#include "runtime/memory_limit.h"

#include <algorithm>
#include <cstdio>
#include <sstream>

namespace caisson::runtime {
namespace {

constexpr uint64_t kNone = ~uint64_t{0};
constexpr uint64_t kLeast = uint64_t{64} << 20;
constexpr uint64_t kUnknown = uint64_t{1} << 30;

std::string read_text(const char* path) {
  std::string text;
  FILE* file = fopen(path, "re");
  if (file == nullptr) return text;
  char buffer[4096];
  for (size_t got; (got = fread(buffer, 1, sizeof buffer, file)) > 0;) text.append(buffer, got);
  fclose(file);
  return text;
}

// "max", or no number at all, is no limit.
uint64_t read_limit(const std::string& path) {
  unsigned long long value = 0;
  return sscanf(read_text(path.c_str()).c_str(), "%llu", &value) == 1 ? value : kNone;
}

// `path` and all directories above it, as seen below `root`. A container often sees its own cgroup
// as the root under a path that names another place: the root counts always.
uint64_t smallest(const std::string& root, std::string path, const char* file) {
  uint64_t limit = read_limit(root + "/" + file);
  while (path.size() > 1) {
    limit = std::min(limit, read_limit(root + path + "/" + file));
    path.resize(path.rfind('/'));
  }
  return limit;
}

uint64_t available_memory() {
  std::istringstream lines(read_text("/proc/meminfo"));
  unsigned long long kib = 0;
  for (std::string line; std::getline(lines, line);)
    if (sscanf(line.c_str(), "MemAvailable: %llu kB", &kib) == 1) return kib * 1024;
  return kNone;
}

}  // namespace

uint64_t cgroup_memory_limit(const std::string& proc_cgroup, const std::string& root) {
  uint64_t limit = kNone;
  std::istringstream lines(proc_cgroup);
  for (std::string line; std::getline(lines, line);) {
    // id:controllers:path
    size_t first = line.find(':');
    size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos || second + 1 >= line.size() || line[second + 1] != '/')
      continue;
    std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    std::string path = line.substr(second + 1);
    if (line.starts_with("0::"))
      limit = std::min(limit, smallest(root, path, "memory.max"));
    else if (controllers.find(",memory,") != std::string::npos)
      limit = std::min(limit, smallest(root + "/memory", path, "memory.limit_in_bytes"));
  }
  return limit;
}

uint64_t default_memory_limit() {
  uint64_t limit = std::min(available_memory(),
                            cgroup_memory_limit(read_text("/proc/self/cgroup"), "/sys/fs/cgroup"));
  if (limit == kNone) limit = kUnknown;
  return std::max(limit & ~uint64_t{0xfff}, kLeast);
}

}  // namespace caisson::runtime
