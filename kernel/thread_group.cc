#include "kernel/thread_group.h"

#include <utility>

#include "kernel/process_timers.h"

namespace caisson {

ThreadGroup::ThreadGroup(Kernel& kernel, Ref<SignalHandlers> handlers, int exit_signal)
    : kernel(kernel),
      exit_signal(exit_signal),
      handlers(std::move(handlers)),
      timers(std::make_unique<ProcessTimers>(*this)) {}

ThreadGroup::~ThreadGroup() = default;

ResourceLimits::Array ResourceLimits::defaults() {
  constexpr uint64_t kInfinity = ~0ull;
  Array limits;
  limits.fill({kInfinity, kInfinity});
  limits[RLIMIT_STACK] = {8 << 20, kInfinity};
  limits[RLIMIT_CORE] = {0, kInfinity};
  limits[RLIMIT_NPROC] = {31'000, 31'000};
  limits[RLIMIT_NOFILE] = {1024, 1 << 20};
  limits[RLIMIT_MEMLOCK] = {8 << 20, 8 << 20};
  limits[RLIMIT_SIGPENDING] = {31'000, 31'000};
  limits[RLIMIT_MSGQUEUE] = {819'200, 819'200};
  limits[RLIMIT_NICE] = {0, 0};
  limits[RLIMIT_RTPRIO] = {0, 0};
  return limits;
}

}  // namespace caisson
