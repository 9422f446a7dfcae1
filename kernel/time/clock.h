// The host's clocks, which are the guest's too: no offset, no calibration.
#pragma once

#include <cstdint>

#include "base/result.h"

namespace caisson {

inline constexpr uint64_t kNsPerSecond = 1'000'000'000;

// Nanoseconds of a host clock (CLOCK_*).
uint64_t host_clock_ns(int32_t clock);
uint64_t boot_clock_ns();
uint64_t real_clock_ns();
// The CLOCK_MONOTONIC time at which `clock` will show `at_ns`, as far as is known now.
uint64_t monotonic_deadline(int32_t clock, uint64_t at_ns);

}  // namespace caisson
