// ResourceLimits: the limits of a process, getrlimit(2). Linux: signal_struct::rlim.
#pragma once

#include <array>
#include <cstdint>

#include "abi/limits.h"
#include "base/mutex.h"

namespace caisson {

struct ResourceLimit {
  uint64_t soft = ~0ull;  // RLIM_INFINITY
  uint64_t hard = ~0ull;
};
static_assert(sizeof(ResourceLimit) == 16);  // struct rlimit64
inline constexpr int kResourceLimitCount = 16;

class ResourceLimits {
 public:
  using Array = std::array<ResourceLimit, kResourceLimitCount>;
  // What Linux gives to its first process, with the stack at 8 MiB.
  static Array defaults();

  // Precondition: 0 <= resource < kResourceLimitCount.
  ResourceLimit get(int resource) const {
    MutexLock lock(mu_);
    return limits_[static_cast<size_t>(resource)];
  }
  uint64_t soft(int resource) const { return get(resource).soft; }
  void set(int resource, ResourceLimit limit) {
    MutexLock lock(mu_);
    limits_[static_cast<size_t>(resource)] = limit;
  }
  Array all() const {
    MutexLock lock(mu_);
    return limits_;
  }
  void set_all(const Array& limits) {
    MutexLock lock(mu_);
    limits_ = limits;
  }

 private:
  mutable Mutex<LockRank::kLeaf> mu_;
  Array limits_ GUARDED_BY(mu_) = defaults();
};

}  // namespace caisson
