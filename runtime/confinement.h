// Confinement: the kernel process gives up what it does not need. docs/design.md, "Defence".
//
// Called in order, while the process has one thread: prepare_memory(), open_host_root(), then the
// platform is made, then enter_empty_root(), drop_privileges(), and last install_filter(). Each
// says what failed in one sentence.
#pragma once

#include <cstdint>

#include "base/error.h"
#include "base/unique_fd.h"

namespace caisson::runtime {

struct GuestMemory {
  UniqueFd read_write;
  UniqueFd read_only;
};

// The file of all guest memory: unnamed, on a private tmpfs whose size is the limit, which needs
// CAP_SYS_ADMIN over the mount namespace, ours or the host's; else a memfd.
Result<GuestMemory, Error> prepare_memory(uint64_t limit_bytes);

// A descriptor of the host's root directory: a private read-only copy of its mount tree where that
// is allowed.
Result<UniqueFd, Error> open_host_root(bool namespaces);

// An empty, read-only root; the host's mounts are out of reach except through open_host_root()'s
// descriptor.
Result<void, Error> enter_empty_root();

// No capabilities in any set, no new privileges, not dumpable, no core files.
Result<void, Error> drop_privileges();

}  // namespace caisson::runtime
