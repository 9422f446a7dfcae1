// MemoryKiller: which process ends when guest memory is used up. Linux: mm/oom_kill.c.
//
// One per Kernel. Counts as Linux does: resident memory plus oom_score_adj thousandths of all
// memory; -1000 is never chosen. One victim at a time: until its memory is back, whoever meets the
// limit waits (see make_memory_wait) and tries again. Pages that the kernel keeps for later go
// before anybody does. Lock: mu_, rank kMemoryKiller, taken with nothing held.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/mutex.h"
#include "base/ref.h"
#include "kernel/operation.h"
#include "kernel/thread_group.h"

namespace caisson {

class Kernel;

inline constexpr int kOomScoreAdjMin = -1000;
inline constexpr int kOomScoreAdjMax = 1000;

class MemoryKiller {
 public:
  explicit MemoryKiller(Kernel& kernel) : kernel_(kernel) {}

  // `group` met the memory limit (null: nobody did, but all together have passed it). Ends a
  // process, unless one is on its way out already. If none may be chosen, `group` itself ends: it
  // could not go on.
  void limit_reached(ThreadGroup* group) EXCLUDES(mu_);
  // /proc/PID/oom_score.
  int score(ThreadGroup& group);
  // Processes that were ended so far; oom_kill of /proc/vmstat.
  uint64_t kills() const { return kills_.load(std::memory_order_relaxed); }

 private:
  struct Victim {
    RefOrNull<ThreadGroup> group;
    uint64_t resident_bytes = 0;
    uint64_t released_before = 0;  // by the memory file, in all
    uint64_t deadline_ns = 0;      // no longer waited for
    bool seen_ended = false;
  };
  // Pages; none: must not be chosen, or has no memory of its own any more.
  std::optional<int64_t> badness(ThreadGroup& group, uint64_t* resident_bytes);
  bool victim_is_pending_locked() REQUIRES(mu_);
  bool give_back_spare_locked(const std::vector<Ref<ThreadGroup>>& groups) REQUIRES(mu_);
  ThreadGroup* largest(const std::vector<Ref<ThreadGroup>>& groups);
  void end_locked(ThreadGroup& group, uint64_t resident_bytes) REQUIRES(mu_);

  Kernel& kernel_;
  std::atomic<uint64_t> kills_{0};
  Mutex<LockRank::kMemoryKiller> mu_;
  Victim victim_ GUARDED_BY(mu_);
  uint64_t spare_given_back_ns_ GUARDED_BY(mu_) = 0;  // when it last helped
  // How often in a row the limit was met although there was plenty.
  uint32_t without_need_ GUARDED_BY(mu_) = 0;
};

// Waits a moment for memory that a killed process gives back; then the fault or the call that met
// the limit happens again.
std::unique_ptr<Operation> make_memory_wait();

}  // namespace caisson
