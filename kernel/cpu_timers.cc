#include "kernel/cpu_timers.h"

#include <algorithm>

#include "kernel/posix_timer.h"
#include "kernel/signals.h"
#include "kernel/task.h"

namespace caisson {
namespace {

struct CpuUse {
  uint64_t process_ns = 0;
  int running = 0;  // tasks in the guest
  std::vector<std::pair<int, uint64_t>> tasks;
};

CpuUse use_of(ThreadGroup& group) {
  CpuUse use;
  MutexLock lock(group.mu);
  use.process_ns = group.dead_cpu_ns;
  for (Task* task : group.tasks) {
    uint64_t used = task->cpu_time_ns();
    use.process_ns += used;
    use.tasks.emplace_back(task->tid(), used);
    if (task->is_in_guest()) ++use.running;
  }
  return use;
}

// Moves a setting past `now`; true if it has expired.
bool advance(CpuTimers::Setting& setting, uint64_t now) {
  if (setting.at_ns == 0 || setting.at_ns > now) return false;
  if (setting.interval_ns == 0)
    setting.at_ns = 0;
  else
    setting.at_ns += ((now - setting.at_ns) / setting.interval_ns + 1) * setting.interval_ns;
  return true;
}

}  // namespace

CpuTimers::CpuTimers(host::EventLoop& events, ThreadGroup& group)
    : events_(events), group_(&group) {}

CpuTimers::Setting CpuTimers::set(Slot slot, Setting setting) {
  Setting former;
  {
    MutexLock lock(mu_);
    former = slots_[slot];
    slots_[slot] = setting;
  }
  is_put_off_.store(true, std::memory_order_relaxed);
  return former;
}

CpuTimers::Setting CpuTimers::get(Slot slot) const {
  MutexLock lock(mu_);
  return slots_[slot];
}

void CpuTimers::set_posix(Ref<PosixTimer> timer, int task_id, Setting setting) {
  remove_posix(*timer);
  if (setting.at_ns == 0) return;
  {
    MutexLock lock(mu_);
    posix_.push_back({std::move(timer), task_id, setting});
  }
  is_put_off_.store(true, std::memory_order_relaxed);
}

CpuTimers::Setting CpuTimers::get_posix(const PosixTimer& timer) const {
  MutexLock lock(mu_);
  for (const Posix& posix : posix_)
    if (posix.timer.get() == &timer) return posix.setting;
  return {};
}

void CpuTimers::remove_posix(const PosixTimer& timer) {
  std::vector<Posix> removed;
  MutexLock lock(mu_);
  for (auto it = posix_.begin(); it != posix_.end();) {
    if (it->timer.get() == &timer) {
      removed.push_back(std::move(*it));
      it = posix_.erase(it);
    } else {
      ++it;
    }
  }
}

void CpuTimers::clear() {
  RefOrNull<ThreadGroup> group;
  std::vector<Posix> posix;
  MutexLock lock(mu_);
  std::swap(group, group_);
  std::swap(posix, posix_);
  slots_ = {};
}

void CpuTimers::expired(uint64_t) { check(0); }

void CpuTimers::check(int entering) {
  is_put_off_.store(false, std::memory_order_relaxed);
  RefOrNull<ThreadGroup> group;
  {
    MutexLock lock(mu_);
    group = group_;
  }
  if (!group) return;
  CpuUse use = use_of(*group);
  use.running += entering;
  std::array<bool, kSlots> fired{};
  std::vector<Ref<PosixTimer>> fired_posix;
  uint64_t wait_ns = ~0ull;
  {
    MutexLock lock(mu_);
    auto look = [&](Setting& setting, uint64_t now) {
      bool result = advance(setting, now);
      if (setting.at_ns != 0) wait_ns = std::min(wait_ns, setting.at_ns - now);
      return result;
    };
    for (size_t slot = 0; slot < kSlots; ++slot) fired[slot] = look(slots_[slot], use.process_ns);
    for (Posix& posix : posix_) {
      uint64_t now = use.process_ns;
      if (posix.task_id != 0) {
        now = 0;
        for (auto [id, used] : use.tasks)
          if (id == posix.task_id) now = used;
      }
      if (look(posix.setting, now)) fired_posix.push_back(posix.timer);
    }
  }
  constexpr int kSignals[kSlots] = {SIGVTALRM, SIGPROF, SIGXCPU};
  for (size_t slot = 0; slot < kSlots; ++slot) {
    if (!fired[slot]) continue;
    ResourceLimit limit = group->limits.get(RLIMIT_CPU);
    if (slot == kLimit && limit.hard != ~0ull && use.process_ns / 1'000'000'000 >= limit.hard)
      begin_group_exit(*group, SIGKILL);
    else
      (void)send_signal(*group, kernel_signal_info(kSignals[slot]));
  }
  for (const Ref<PosixTimer>& timer : fired_posix) timer->fire();
  if (wait_ns == ~0ull) return;
  if (use.running == 0) {
    is_put_off_.store(true, std::memory_order_relaxed);
    return;
  }
  constexpr uint64_t kShortest = 1'000'000;
  wait_ns = std::max(wait_ns / static_cast<uint64_t>(use.running), kShortest);
  events_.add_deadline(host::monotonic_ns() + wait_ns, Ref<host::DeadlineTarget>(*this));
}

}  // namespace caisson
