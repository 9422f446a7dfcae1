#include "kernel/time/clock.h"

#include <time.h>

namespace caisson {

uint64_t host_clock_ns(int32_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<uint64_t>(now.tv_sec) * kNsPerSecond + static_cast<uint64_t>(now.tv_nsec);
}

uint64_t boot_clock_ns() { return host_clock_ns(CLOCK_BOOTTIME); }
uint64_t real_clock_ns() { return host_clock_ns(CLOCK_REALTIME); }

}  // namespace caisson
