#include "kernel/signal/signal_handlers.h"

namespace caisson {

SigAction SignalHandlers::get(int signo) const {
  MutexLock lock(mu_);
  return actions_[static_cast<size_t>(signo - 1)];
}

SigAction SignalHandlers::set(int signo, const SigAction& action) {
  MutexLock lock(mu_);
  SigAction& slot = actions_[static_cast<size_t>(signo - 1)];
  SigAction before = slot;
  slot = action;
  return before;
}

Ref<SignalHandlers> SignalHandlers::copy() const {
  auto result = make_ref<SignalHandlers>();
  std::array<SigAction, kSignalCount> actions;
  {
    MutexLock lock(mu_);
    actions = actions_;
  }
  MutexLock lock(result->mu_);
  result->actions_ = actions;
  return result;
}

void SignalHandlers::reset_for_exec() {
  MutexLock lock(mu_);
  for (SigAction& action : actions_) {
    uint64_t handler = action.handler == kSigIgnore ? kSigIgnore : kSigDefault;
    action = SigAction{};
    action.handler = handler;
  }
}

bool SignalHandlers::is_ignored(int signo) const {
  MutexLock lock(mu_);
  uint64_t handler = actions_[static_cast<size_t>(signo - 1)].handler;
  if (handler == kSigIgnore) return true;
  return handler == kSigDefault && kIgnoredByDefault.has(signo);
}

SignalSet SignalHandlers::ignored() const {
  MutexLock lock(mu_);
  SignalSet set;
  for (int signo = 1; signo <= kSignalCount; ++signo)
    if (actions_[static_cast<size_t>(signo - 1)].handler == kSigIgnore) set.add(signo);
  return set;
}

SignalSet SignalHandlers::caught() const {
  MutexLock lock(mu_);
  SignalSet set;
  for (int signo = 1; signo <= kSignalCount; ++signo)
    if (actions_[static_cast<size_t>(signo - 1)].handler > kSigIgnore) set.add(signo);
  return set;
}

}  // namespace caisson
