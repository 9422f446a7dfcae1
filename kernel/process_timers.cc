#include "kernel/process_timers.h"

#include <utility>

#include "kernel/kernel.h"
#include "kernel/signals.h"
#include "kernel/thread_group.h"

namespace caisson {

RealIntervalTimer::RealIntervalTimer(host::EventLoop& events, ThreadGroup& group)
    : Timer(events), group_(&group) {}

void RealIntervalTimer::forget_group() {
  stop();
  RefOrNull<ThreadGroup> group;
  MutexLock lock(group_mu_);
  std::swap(group, group_);
}

void RealIntervalTimer::expired_times(uint64_t) {
  RefOrNull<ThreadGroup> group;
  {
    MutexLock lock(group_mu_);
    group = group_;
  }
  if (group) (void)send_signal(*group, kernel_signal_info(SIGALRM));
}

ProcessTimers::ProcessTimers(ThreadGroup& group) : group_(group) {}
ProcessTimers::~ProcessTimers() = default;

RefOrNull<RealIntervalTimer> ProcessTimers::real() {
  MutexLock lock(mu_);
  if (!real_ && !is_closed_)
    real_ = make_ref<RealIntervalTimer>(group_.kernel.events(), group_).or_null();
  return real_;
}

RefOrNull<CpuTimers> ProcessTimers::cpu() {
  MutexLock lock(mu_);
  if (!cpu_ && !is_closed_) {
    cpu_ = make_ref<CpuTimers>(group_.kernel.events(), group_).or_null();
    group_.cpu_timers.store(cpu_.get(), std::memory_order_release);
  }
  return cpu_;
}

RefOrNull<CpuTimers> ProcessTimers::cpu_if_any() const {
  MutexLock lock(mu_);
  return cpu_;
}

Result<int> ProcessTimers::add(Ref<PosixTimer> timer, size_t limit) {
  MutexLock lock(mu_);
  if (is_closed_ || posix_.size() >= limit) return Errno(EAGAIN);
  int id = next_id_;
  while (posix_.contains(id)) id = id == 0x7fffffff ? 0 : id + 1;
  next_id_ = id == 0x7fffffff ? 0 : id + 1;
  timer->set_id(id);
  posix_.emplace(id, std::move(timer));
  return id;
}

RefOrNull<PosixTimer> ProcessTimers::find(int id) const {
  MutexLock lock(mu_);
  auto it = posix_.find(id);
  return it == posix_.end() ? nullptr : it->second.or_null();
}

RefOrNull<PosixTimer> ProcessTimers::remove(int id) {
  MutexLock lock(mu_);
  auto it = posix_.find(id);
  if (it == posix_.end()) return nullptr;
  RefOrNull<PosixTimer> timer = it->second.or_null();
  posix_.erase(it);
  return timer;
}

void ProcessTimers::remove_posix_timers() {
  std::map<int, Ref<PosixTimer>> timers;
  RefOrNull<CpuTimers> cpu = cpu_if_any();
  {
    MutexLock lock(mu_);
    std::swap(timers, posix_);
    next_id_ = 0;
  }
  for (auto& [id, timer] : timers) {
    if (cpu) cpu->remove_posix(*timer);
    timer->detach();
  }
}

void ProcessTimers::clear() {
  remove_posix_timers();
  RefOrNull<RealIntervalTimer> real;
  RefOrNull<CpuTimers> cpu;
  {
    MutexLock lock(mu_);
    is_closed_ = true;
    std::swap(real, real_);
    cpu = cpu_;  // stays: a task on its way to the guest may look at it
  }
  if (real) real->forget_group();
  if (cpu) cpu->clear();
}

}  // namespace caisson
