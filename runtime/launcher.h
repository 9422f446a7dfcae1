// The launcher: the process that the user started. It starts the kernel process, passes signals on,
// and leaves with the program's status. It holds no guest data and takes part in nothing else.
#pragma once

#include "runtime/sandbox_options.h"

namespace caisson::runtime {

// Runs a sandbox to its end; returns this process' exit status.
int launch(const SandboxOptions& options);

// The posture that the next sandbox would have.
Posture probe_posture();

}  // namespace caisson::runtime
