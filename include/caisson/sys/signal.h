// Signal: the number of a signal, with its names. signal(7).
#pragma once

#include <csignal>
#include <string>

namespace caisson::sys {

class Signal {
 public:
  constexpr Signal() = default;
  // NOLINTNEXTLINE(google-explicit-constructor): SIGTERM is a Signal.
  constexpr Signal(int number) : number_(number) {}

  constexpr int number() const { return number_; }
  // "SIGTERM", "SIGRTMIN+2"; "signal 99" where there is no such signal.
  std::string name() const;
  // "terminated", "signal 40".
  std::string text() const;

  friend constexpr bool operator==(Signal, Signal) = default;

 private:
  int number_ = 0;
};

}  // namespace caisson::sys
