#include "kernel/memory_watch.h"

#include <linux/futex.h>

#include <algorithm>

#include "abi/time.h"
#include "host/raw_syscall.h"
#include "kernel/kernel.h"
#include "kernel/time/clock.h"
#include "mm/memory_file.h"

namespace caisson {
namespace {

// More than guests can touch: the next look comes before the limit does.
constexpr uint64_t kBytesPerNs = 8;
constexpr uint64_t kShortestNs = 1'000'000;
constexpr uint64_t kLongestNs = 1'000'000'000;
// While nothing changes the looks near the limit get rarer.
constexpr uint64_t kQuietNs = 16'000'000;

}  // namespace

void MemoryWatch::start() {
  thread_ = std::thread([this] { run(); });
}

void MemoryWatch::stop() {
  if (!thread_.joinable()) return;
  stopping_.store(1, std::memory_order_release);
  host::raw_syscall(SYS_futex, host::raw_arg(&stopping_), FUTEX_WAKE_PRIVATE, 1).ignore();
  thread_.join();
}

void MemoryWatch::run() {
  const MemoryFile& memory = kernel_.memory();
  const uint64_t limit = memory.limit();
  uint64_t before = 0;
  uint64_t quiet_ns = kShortestNs;
  while (stopping_.load(std::memory_order_acquire) == 0) {
    const uint64_t used = memory.resident_bytes();
    // While memory is on its way back nobody else has to end.
    if (used > limit && used >= before) kernel_.memory_killer().limit_reached(nullptr);
    quiet_ns = used == before && used <= limit ? std::min(quiet_ns * 2, kQuietNs) : kShortestNs;
    before = used;
    const uint64_t room = limit - std::min(limit, used);
    const TimeSpec pause =
        to_timespec(std::clamp(std::max(room / kBytesPerNs, quiet_ns), kShortestNs, kLongestNs));
    host::raw_syscall(SYS_futex, host::raw_arg(&stopping_), FUTEX_WAIT_PRIVATE, 0,
                      host::raw_arg(&pause))
        .ignore();
  }
}

}  // namespace caisson
