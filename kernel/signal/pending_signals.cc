#include "kernel/signal/pending_signals.h"

#include <algorithm>
#include <utility>

namespace caisson {

void PendingSignals::push(QueuedSignal signal) {
  set_.add(signal.info.signo);
  queue_.push_back(std::move(signal));
}

std::optional<QueuedSignal> PendingSignals::take(int signo) {
  if (!set_.has(signo)) return std::nullopt;
  auto same = [signo](const QueuedSignal& queued) { return queued.info.signo == signo; };
  auto it = std::find_if(queue_.begin(), queue_.end(), same);
  if (it == queue_.end()) {
    set_.remove(signo);
    QueuedSignal bare;
    bare.info.signo = signo;
    bare.info.code = SI_USER;
    return bare;
  }
  QueuedSignal taken = std::move(*it);
  it = queue_.erase(it);
  if (std::none_of(it, queue_.end(), same)) set_.remove(signo);
  return taken;
}

void PendingSignals::discard(SignalSet signals) {
  if ((set_ & signals).empty()) return;
  std::erase_if(queue_, [signals](const QueuedSignal& q) { return signals.has(q.info.signo); });
  set_ = set_ & ~signals;
}

void PendingSignals::discard_source(const SignalSource& source) {
  int signo = 0;
  std::erase_if(queue_, [&](const QueuedSignal& q) {
    if (q.source.get() != &source) return false;
    signo = q.info.signo;
    return true;
  });
  if (signo == 0) return;
  if (std::none_of(queue_.begin(), queue_.end(),
                   [signo](const QueuedSignal& q) { return q.info.signo == signo; }))
    set_.remove(signo);
}

}  // namespace caisson
