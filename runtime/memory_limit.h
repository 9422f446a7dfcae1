// The memory that a sandbox may use when nobody says: what the host has available, but no more than
// the cgroups around it allow. cgroups(7), Linux: Documentation/admin-guide/cgroup-v2.rst.
#pragma once

#include <cstdint>
#include <string>

namespace caisson::runtime {

// Bytes; read once, before the host's /proc and /sys are given up.
uint64_t default_memory_limit();

// The smallest limit of the cgroup that `proc_cgroup` (the text of /proc/self/cgroup) names and of
// those around it, in a hierarchy mounted at `root`; ~0: none. Version 2, and 1 at root/memory.
uint64_t cgroup_memory_limit(const std::string& proc_cgroup, const std::string& root);

}  // namespace caisson::runtime
