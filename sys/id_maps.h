// Writing the maps of a child's user namespace, user_namespaces(7), from outside of it.
#pragma once

#include <optional>
#include <string>

#include "caisson/sys/start.h"

namespace caisson::sys::internal {

// The files' contents, made before the clone: once there is a child, the caller allocates nothing
// that could fail. Empty: not to be written.
struct IdMapTexts {
  std::string uid_map;
  std::string setgroups;
  std::string gid_map;
};

IdMapTexts make_id_map_texts(const SysProcAttr& attr);

// Writes uid_map, setgroups and gid_map of the process. Where the host has pidfds, never those of a
// stranger that was given the number meanwhile. Allocates nothing.
std::optional<StartError> write_id_maps(int pid, int pidfd, const IdMapTexts& texts);

}  // namespace caisson::sys::internal
