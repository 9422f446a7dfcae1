#include "kernel/posix_timer.h"

#include <algorithm>
#include <climits>

#include "kernel/signals.h"
#include "kernel/task.h"

namespace caisson {

// What a queued signal knows of its timer. Apart from the timer, since both are counted objects.
class PosixTimer::Source final : public SignalSource {
 public:
  explicit Source(PosixTimer& timer) : timer_(timer) {}
  void signal_dequeued(SigInfo& info) override { timer_->signal_taken(info); }

 private:
  const Ref<PosixTimer> timer_;
};

PosixTimer::PosixTimer(host::EventLoop& events, int32_t clock, Event event, ThreadGroup& group,
                       RefOrNull<Task> task)
    : Timer(events), clock_(clock), event_(event), group_(&group), task_(std::move(task)) {}

PosixTimer::~PosixTimer() = default;

void PosixTimer::detach() {
  stop();
  RefOrNull<ThreadGroup> group;
  RefOrNull<Task> task;
  RefOrNull<SignalSource> source;
  {
    MutexLock lock(target_mu_);
    std::swap(group, group_);
    std::swap(task, task_);
    std::swap(source, source_);
  }
  if (!group || !source) return;
  MutexLock lock(group->mu);
  group->shared_pending.discard_source(*source);
  if (task) {
    for (Task* member : group->tasks) {
      if (member != task.get()) continue;
      member->assert_group_locked();
      member->pending.discard_source(*source);
    }
  }
}

void PosixTimer::expired_times(uint64_t count) {
  if (event_.notify == TimerNotify::kNone) return;
  RefOrNull<ThreadGroup> group;
  RefOrNull<Task> task;
  RefOrNull<SignalSource> source;
  {
    MutexLock lock(target_mu_);
    if (!group_) return;
    if (!source_) source_ = adopt_ref<SignalSource>(new Source(*this)).or_null();
    group = group_;
    task = task_;
    source = source_;
  }
  SigInfo info;
  info.signo = event_.signo;
  info.code = SI_TIMER;
  info.timer.id = id_;
  info.timer.value = event_.value_is_id ? static_cast<uint64_t>(id_) : event_.value;
  Result<Sent> sent = task ? send_signal(*task, info, source) : send_signal(*group, info, source);
  // A signal that is ignored is never taken: go on by ourselves.
  if (sent.ok() && sent.value() != Sent::kQueued) rearm();
}

void PosixTimer::signal_taken(SigInfo& info) {
  uint64_t overrun = std::min<uint64_t>(rearm(), INT_MAX);
  overrun_.store(static_cast<int>(overrun), std::memory_order_relaxed);
  info.timer.overrun = static_cast<int>(overrun);
}

}  // namespace caisson
