// Writing the maps of a child's user namespace, user_namespaces(7), from outside of it.
#pragma once

#include <optional>

#include "caisson/sys/start.h"

namespace caisson::sys::internal {

// Writes uid_map, setgroups and gid_map of the process as far as the attributes ask for them.
std::optional<StartError> write_id_maps(int pid, const SysProcAttr& attr);

}  // namespace caisson::sys::internal
