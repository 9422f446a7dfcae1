// SignalSet: a set of signals 1..64, sigset_t of the kernel's ABI.
#pragma once

#include <bit>
#include <cstdint>

#include "abi/signal.h"

namespace caisson {

class SignalSet {
 public:
  constexpr SignalSet() = default;
  constexpr explicit SignalSet(uint64_t bits) : bits_(bits) {}
  template <typename... Signals>
  static constexpr SignalSet of(Signals... signals) {
    return SignalSet((0ull | ... | bit(signals)));
  }
  constexpr bool has(int signo) const { return (bits_ & bit(signo)) != 0; }
  constexpr void add(int signo) { bits_ |= bit(signo); }
  constexpr void remove(int signo) { bits_ &= ~bit(signo); }
  constexpr bool empty() const { return bits_ == 0; }
  // The lowest signal; 0 when empty.
  constexpr int first() const { return bits_ == 0 ? 0 : std::countr_zero(bits_) + 1; }
  constexpr uint64_t bits() const { return bits_; }
  friend constexpr SignalSet operator|(SignalSet a, SignalSet b) {
    return SignalSet(a.bits_ | b.bits_);
  }
  friend constexpr SignalSet operator&(SignalSet a, SignalSet b) {
    return SignalSet(a.bits_ & b.bits_);
  }
  friend constexpr SignalSet operator~(SignalSet a) { return SignalSet(~a.bits_); }
  friend constexpr bool operator==(SignalSet, SignalSet) = default;

 private:
  static constexpr uint64_t bit(int signo) { return 1ull << (signo - 1); }
  uint64_t bits_ = 0;
};

constexpr bool is_valid_signal(int signo) { return signo >= 1 && signo <= kSignalCount; }

inline constexpr SignalSet kUnblockable = SignalSet::of(SIGKILL, SIGSTOP);
inline constexpr SignalSet kStopSignals = SignalSet::of(SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU);
// Raised by the instruction that runs; handled before others.
inline constexpr SignalSet kSynchronousSignals =
    SignalSet::of(SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE, SIGSYS);
inline constexpr SignalSet kIgnoredByDefault = SignalSet::of(SIGCONT, SIGCHLD, SIGWINCH, SIGURG);
inline constexpr SignalSet kCoreSignals = SignalSet::of(SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGFPE,
                                                        SIGSEGV, SIGBUS, SIGSYS, SIGXCPU, SIGXFSZ);

}  // namespace caisson
