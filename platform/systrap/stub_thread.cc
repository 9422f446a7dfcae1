#include "platform/systrap/stub_thread.h"

#include <time.h>

namespace caisson::systrap {

uint64_t StubThread::host_cpu_ns() const {
  if (tid == 0) return 0;
  // Linux: MAKE_PROCESS_CPUCLOCK(tid, CPUCLOCK_SCHED); each stub thread is its own host process.
  auto clock = static_cast<clockid_t>((~static_cast<unsigned>(tid) << 3) | 2u);
  timespec used{};
  if (clock_gettime(clock, &used) < 0) return 0;
  return static_cast<uint64_t>(used.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(used.tv_nsec);
}

}  // namespace caisson::systrap
