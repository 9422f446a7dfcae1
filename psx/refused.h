// The calls that make no sense on all threads: they end, replace or copy what makes the call, their
// effect ends when the signal handler returns, or every thread has its own argument for them.
#pragma once

namespace caisson::psx::internal {

// Why this call is refused with EINVAL, or nullptr if it is not.
const char* why_refused(long nr, long a1, long a2);

// Whether this call may forbid the calls after it.
bool installs_filter(long nr, long a1);

}  // namespace caisson::psx::internal
