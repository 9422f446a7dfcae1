// Catches SIGSEGV and SIGBUS of this process for code that expects faults.
#pragma once

#include <cstdint>

namespace caisson::host {

// Where a fault at instruction address `rip` continues; 0 if it is not an expected one. Runs in the
// signal handler.
using FaultFixup = uint64_t (*)(uint64_t rip);

// Unexpected faults go to the handlers that were installed before, or end the process. Once only.
void install_fault_handler(FaultFixup fixup);

}  // namespace caisson::host
