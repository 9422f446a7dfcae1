// SignalHandlers: the dispositions of a thread group, shared by CLONE_SIGHAND. Linux: struct
// sighand_struct (whose lock also guards the queues there; here that is ThreadGroup's lock).
//
// Lock: mu_, rank kSignalHandlers, taken inside ThreadGroup's lock or alone.
#pragma once

#include <array>

#include "base/mutex.h"
#include "base/ref.h"
#include "kernel/signal/signal_set.h"

namespace caisson {

class SignalHandlers final : public RefCounted<SignalHandlers> {
 public:
  SignalHandlers() = default;

  SigAction get(int signo) const EXCLUDES(mu_);
  // Returns what was there before.
  SigAction set(int signo, const SigAction& action) EXCLUDES(mu_);
  Ref<SignalHandlers> copy() const EXCLUDES(mu_);
  // exec: handlers become default, ignored signals stay ignored.
  void reset_for_exec() EXCLUDES(mu_);
  // CLONE_CLEAR_SIGHAND.
  void clear_handlers() EXCLUDES(mu_) { reset_for_exec(); }
  // Whether nothing happens on delivery: ignored, or default where the default is to ignore.
  bool is_ignored(int signo) const EXCLUDES(mu_);

  // For /proc/PID/status.
  SignalSet ignored() const EXCLUDES(mu_);
  SignalSet caught() const EXCLUDES(mu_);

 private:
  mutable Mutex<LockRank::kSignalHandlers> mu_;
  std::array<SigAction, kSignalCount> actions_ GUARDED_BY(mu_){};
};

}  // namespace caisson
