// plan_files(): the order of dup3(2) calls that puts descriptors at their places.
#pragma once

#include <vector>

#include "sys/child.h"

namespace caisson::sys::internal {

// files[i] is to become descriptor i, -1: closed. No number is overwritten while it is still needed
// as a source; a cycle of n costs n + 1 copies, everything else one or none, and at most one number
// above the list is in use at a time.
std::vector<FileStep> plan_files(const std::vector<int>& files);

}  // namespace caisson::sys::internal
