#include "kernel/time/clock.h"

#include <time.h>

#include "abi/time.h"

namespace caisson {

uint64_t host_clock_ns(int32_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<uint64_t>(now.tv_sec) * kNsPerSecond + static_cast<uint64_t>(now.tv_nsec);
}

uint64_t boot_clock_ns() { return host_clock_ns(CLOCK_BOOTTIME); }
uint64_t real_clock_ns() { return host_clock_ns(CLOCK_REALTIME); }

uint64_t monotonic_deadline(int32_t clock, uint64_t at_ns) {
  if (clock == CLOCK_MONOTONIC) return at_ns == 0 ? 1 : at_ns;
  uint64_t now = host_clock_ns(clock);
  uint64_t monotonic = host_clock_ns(CLOCK_MONOTONIC);
  if (at_ns <= now) return monotonic;
  return add_ns(monotonic, at_ns - now);
}

}  // namespace caisson
