#include "kernel/memory_killer.h"

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "host/event_loop.h"
#include "kernel/kernel.h"
#include "kernel/signals.h"
#include "kernel/task.h"
#include "mm/memory_file.h"
#include "mm/memory_manager.h"

namespace caisson {
namespace {

// How long a victim may take to end, and its memory to come back after that.
constexpr uint64_t kEndPatienceNs = 5'000'000'000;
constexpr uint64_t kReleasePatienceNs = 2'000'000'000;
constexpr uint64_t kLookAgainNs = 1'000'000;
// With this much free, whatever met the limit fits now: no single fault or fork takes more.
constexpr uint64_t kPlenty = 4 * 1024 * 1024;
constexpr uint32_t kMostInARow = 1000;
// Spare pages help if they are this much, and not time after time: guests may touch them again.
constexpr uint64_t kWorthwhile = 256 * 1024;
constexpr uint64_t kSpareAgainNs = 20'000'000;

RefOrNull<MemoryManager> memory_of(Kernel& kernel, ThreadGroup& group) {
  std::vector<ProcessId> threads;
  {
    MutexLock lock(group.mu);
    for (Task* task : group.tasks) threads.push_back(task->tid());
  }
  // The leader may have ended before the others.
  for (ProcessId id : threads) {
    RefOrNull<Task> task = kernel.tasks().find_task(id);
    if (!task || &task->group != &group) continue;
    if (RefOrNull<MemoryManager> mm = task->mm_ref()) return mm;
  }
  return nullptr;
}

// Guests choose their names; people's terminals show them.
std::string printable_name(Kernel& kernel, ThreadGroup& group) {
  RefOrNull<Task> leader = kernel.tasks().find_task(group.id);
  std::string name = leader ? leader->name() : "?";
  for (char& c : name)
    if (c < ' ' || c > '~') c = '?';
  return name;
}

class MemoryWait final : public Operation {
 public:
  StepResult step(CurrentTask&) override { return MustWait{}; }
  void arm(CurrentTask&, Waiter&) override {}
  void disarm() override {}
  std::optional<uint64_t> deadline_ns() const override { return deadline_ns_; }
  StepResult timed_out(CurrentTask&) override { return uint64_t{0}; }
  StepResult interrupted(CurrentTask&) override { return uint64_t{0}; }
  bool killable_only() const override { return true; }  // no frame can be built meanwhile
  bool is_call() const override { return false; }
  const char* name() const override { return "memory_wait"; }

 private:
  const uint64_t deadline_ns_ = host::monotonic_ns() + kLookAgainNs;
};

}  // namespace

std::unique_ptr<Operation> make_memory_wait() { return std::make_unique<MemoryWait>(); }

// Linux: oom_badness(). Page tables and swap are not ours to count.
std::optional<int64_t> MemoryKiller::badness(ThreadGroup& group, uint64_t* resident_bytes) {
  int adjustment = group.oom_score_adj.load(std::memory_order_relaxed);
  if (group.is_kernel_init || adjustment == kOomScoreAdjMin) return std::nullopt;
  RefOrNull<MemoryManager> mm = memory_of(kernel_, group);
  if (!mm) return std::nullopt;
  uint64_t resident = mm->usage().guest_memory + mm->parked_bytes();
  if (resident_bytes != nullptr) *resident_bytes = resident;
  auto all_pages = static_cast<int64_t>(kernel_.memory_status().total_bytes / kPageSize);
  return static_cast<int64_t>(resident / kPageSize) + adjustment * (all_pages / 1000);
}

// Linux: proc_oom_score().
int MemoryKiller::score(ThreadGroup& group) {
  std::optional<int64_t> points = badness(group, nullptr);
  if (!points) return 0;
  auto all_pages = static_cast<int64_t>(kernel_.memory_status().total_bytes / kPageSize);
  int64_t scaled = (1000 + *points * 1000 / std::max<int64_t>(all_pages, 1)) * 2 / 3;
  return static_cast<int>(std::max<int64_t>(scaled, 0));
}

bool MemoryKiller::victim_is_pending_locked() {
  if (!victim_.group) return false;
  uint64_t now = host::monotonic_ns();
  if (victim_.group->has_ended.load(std::memory_order_acquire)) {
    uint64_t released = kernel_.memory().released_bytes() - victim_.released_before;
    if (!std::exchange(victim_.seen_ended, true)) victim_.deadline_ns = now + kReleasePatienceNs;
    if (released < victim_.resident_bytes / 2 && now < victim_.deadline_ns) return true;
  } else if (now < victim_.deadline_ns) {
    return true;
  }
  victim_ = {};
  return false;
}

void MemoryKiller::end_locked(ThreadGroup& group, uint64_t resident_bytes) {
  kills_.fetch_add(1, std::memory_order_relaxed);
  LOG_WARNING(
      "out of memory: killed process %d (%s), which used %llu kB (oom_score_adj %d) of the "
      "sandbox's %llu kB",
      group.id, printable_name(kernel_, group).c_str(),
      static_cast<unsigned long long>(resident_bytes / 1024), group.oom_score_adj.load(),
      static_cast<unsigned long long>(kernel_.memory_status().total_bytes / 1024));
  victim_ = {RefOrNull<ThreadGroup>(&group), resident_bytes, kernel_.memory().released_bytes(),
             host::monotonic_ns() + kEndPatienceNs, false};
  begin_group_exit(group, SIGKILL);
}

// What is kept ready without being anybody's goes back to the host. True: that may do.
bool MemoryKiller::give_back_spare_locked(const std::vector<Ref<ThreadGroup>>& groups) {
  const uint64_t before = kernel_.memory().resident_bytes();
  kernel_.memory().trim();
  for (const Ref<ThreadGroup>& group : groups)
    if (RefOrNull<MemoryManager> mm = memory_of(kernel_, *group)) mm->drop_parked_pages();
  const uint64_t after = kernel_.memory().resident_bytes();
  const uint64_t now = host::monotonic_ns();
  if (after + kWorthwhile > before || now < spare_given_back_ns_ + kSpareAgainNs) return false;
  spare_given_back_ns_ = now;
  return true;
}

// Of all that have memory, protected or not.
ThreadGroup* MemoryKiller::largest(const std::vector<Ref<ThreadGroup>>& groups) {
  ThreadGroup* found = nullptr;
  uint64_t most = 0;
  for (const Ref<ThreadGroup>& group : groups) {
    RefOrNull<MemoryManager> mm = group->is_kernel_init ? nullptr : memory_of(kernel_, *group);
    if (!mm) continue;
    const uint64_t resident = mm->usage().guest_memory;
    if (found != nullptr && resident <= most) continue;
    found = group.get();
    most = resident;
  }
  return found;
}

void MemoryKiller::limit_reached(ThreadGroup* group) {
  // Before the lock: what they let go of may be a lot.
  std::vector<Ref<ThreadGroup>> groups = kernel_.tasks().groups();
  RefOrNull<MemoryManager> shared;
  MutexLock lock(mu_);
  // Others may have given memory back since the caller met the limit. Who comes again and again
  // lacks something else.
  if (kernel_.memory_status().free_bytes >= kPlenty && ++without_need_ < kMostInARow) return;
  without_need_ = 0;
  if (victim_is_pending_locked() || give_back_spare_locked(groups)) return;
  ThreadGroup* chosen = nullptr;
  int64_t most = 0;
  uint64_t resident = 0;
  for (const Ref<ThreadGroup>& candidate : groups) {
    uint64_t bytes = 0;
    std::optional<int64_t> points = badness(*candidate, &bytes);
    if (!points || (chosen != nullptr && *points <= most)) continue;
    chosen = &*candidate;
    most = *points;
    resident = bytes;
  }
  if (chosen == nullptr) {
    chosen = group != nullptr ? group : largest(groups);
    if (chosen == nullptr) return;
    resident = 0;
  }
  shared = memory_of(kernel_, *chosen);
  end_locked(*chosen, resident);
  // Who shares the memory keeps it from coming back, unless it may never be chosen.
  for (const Ref<ThreadGroup>& other : groups) {
    if (&*other == chosen || !shared || other->is_kernel_init) continue;
    if (other->oom_score_adj.load() == kOomScoreAdjMin) continue;
    if (memory_of(kernel_, *other) == shared) begin_group_exit(*other, SIGKILL);
  }
}

}  // namespace caisson
