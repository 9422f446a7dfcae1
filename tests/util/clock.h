// Time for tests: monotonic readings and sleeps that signals don't shorten.
#pragma once

#include <cstdint>
#include <ctime>

namespace caisson::test {

inline int64_t to_ns(const timespec& time) { return time.tv_sec * 1'000'000'000LL + time.tv_nsec; }
inline timespec from_ns(int64_t ns) {
  return {.tv_sec = ns / 1'000'000'000, .tv_nsec = ns % 1'000'000'000};
}
inline timespec from_ms(int64_t ms) { return from_ns(ms * 1'000'000); }

inline int64_t now_ns(clockid_t clock = CLOCK_MONOTONIC) {
  timespec time;
  clock_gettime(clock, &time);
  return to_ns(time);
}
inline int64_t now_ms() { return now_ns() / 1'000'000; }

inline void sleep_us(int64_t us) {
  timespec rest = from_ns(us * 1000);
  while (nanosleep(&rest, &rest) == -1) {
  }
}
inline void sleep_ms(int64_t ms) { sleep_us(ms * 1000); }

// Polls `condition` until it holds; false at the timeout.
template <typename Condition>
bool eventually(Condition condition, int64_t timeout_ms = 5000) {
  const int64_t deadline_ms = now_ms() + timeout_ms;
  while (!condition()) {
    if (now_ms() > deadline_ms) return false;
    sleep_us(100);
  }
  return true;
}

class Stopwatch {
 public:
  int64_t ms() const { return (now_ns() - start_ns_) / 1'000'000; }
  int64_t us() const { return (now_ns() - start_ns_) / 1'000; }

 private:
  int64_t start_ns_ = now_ns();
};

}  // namespace caisson::test
