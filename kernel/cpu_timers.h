// CpuTimers: timers of one process that run on CPU time: ITIMER_VIRTUAL, ITIMER_PROF, RLIMIT_CPU
// and POSIX timers of CPU clocks. Linux: kernel/time/posix-cpu-timers.c.
//
// The host accounts CPU time; nobody tells us when a thread has used some. So the next check is set
// for the earliest moment at which a timer could expire (what is missing, divided by the threads),
// and only while a task of the process is in the guest: a process that waits causes no wake-ups.
// System time is not told apart: both interval timers run on all of it.
//
// Lock: mu_, rank kTimers.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <vector>

#include "base/mutex.h"
#include "base/ref.h"
#include "host/event_loop.h"

namespace caisson {

class PosixTimer;
class ThreadGroup;

class CpuTimers final : public host::DeadlineTarget {
 public:
  enum Slot : uint8_t { kVirtual, kProf, kLimit, kSlots };
  struct Setting {
    uint64_t at_ns = 0;  // process CPU time; 0: off
    uint64_t interval_ns = 0;
  };

  CpuTimers(host::EventLoop& events, ThreadGroup& group);

  Setting set(Slot slot, Setting setting) EXCLUDES(mu_);
  Setting get(Slot slot) const EXCLUDES(mu_);
  // POSIX timers on a CPU clock; `task_id` 0: of the process.
  void set_posix(Ref<PosixTimer> timer, int task_id, Setting setting) EXCLUDES(mu_);
  Setting get_posix(const PosixTimer& timer) const EXCLUDES(mu_);
  void remove_posix(const PosixTimer& timer) EXCLUDES(mu_);
  void clear() EXCLUDES(mu_);

  // A task goes to the guest: a check that was put off is set again.
  void entering_guest() {
    if (is_put_off_.load(std::memory_order_relaxed)) [[unlikely]]
      check(1);
  }
  void expired(uint64_t armed_at) override;

 private:
  struct Posix {
    Ref<PosixTimer> timer;
    int task_id;
    Setting setting;
  };
  // `entering` tasks are about to run.
  void check(int entering);

  host::EventLoop& events_;
  mutable Mutex<LockRank::kTimers> mu_;
  RefOrNull<ThreadGroup> group_ GUARDED_BY(mu_);
  std::array<Setting, kSlots> slots_ GUARDED_BY(mu_){};
  std::vector<Posix> posix_ GUARDED_BY(mu_);
  std::atomic<bool> is_put_off_{false};
};

}  // namespace caisson
