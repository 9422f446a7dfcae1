// The kernel process: everything from the start by the launcher to the last message back.
#pragma once

#include "base/unique_fd.h"
#include "runtime/sandbox_options.h"

namespace caisson::runtime {

// Runs in the child, which leads a session of its own and has namespaces of its own or not.
// `launcher` is the socket to the launcher (protocol.h). Returns the process' exit status; what the
// user is told goes through the socket.
int run_kernel_process(const SandboxOptions& options, bool namespaces, UniqueFd launcher);

}  // namespace caisson::runtime
