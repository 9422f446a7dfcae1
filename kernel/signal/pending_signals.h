// PendingSignals: the queue of one task or one thread group. Linux: struct sigpending.
//
// Standard signals are pending once; real-time signals queue in order. Not thread-safe: its owner's
// ThreadGroup lock guards it.
#pragma once

#include <deque>
#include <optional>

#include "base/ref.h"
#include "kernel/signal/signal_set.h"

namespace caisson {

// Something that learns when its signal is taken from the queue (a POSIX timer, which then counts
// its overruns). Called with the ThreadGroup lock held.
class SignalSource : public RefCounted<SignalSource> {
 public:
  virtual ~SignalSource() = default;
  virtual void signal_dequeued(SigInfo& info) = 0;
};

struct QueuedSignal {
  SigInfo info;
  RefOrNull<SignalSource> source;
};

class PendingSignals {
 public:
  SignalSet set() const { return set_; }
  bool has(int signo) const { return set_.has(signo); }
  size_t queued() const { return queue_.size(); }
  void push(QueuedSignal signal);
  // Marks it as pending without information: the queue's limit was reached.
  void push_without_info(int signo) { set_.add(signo); }
  // Takes one of `signo`, the oldest. Without information it appears as SI_USER from pid 0.
  std::optional<QueuedSignal> take(int signo);
  void discard(SignalSet signals);
  void discard_source(const SignalSource& source);

 private:
  SignalSet set_;
  std::deque<QueuedSignal> queue_;
};

}  // namespace caisson
