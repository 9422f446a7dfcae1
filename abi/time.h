// Time structures of the kernel's ABI on x86-64.
#pragma once

#include <cstdint>

namespace caisson {

struct TimeSpec {
  int64_t seconds = 0;
  int64_t nanoseconds = 0;
};
struct TimeVal {
  int64_t seconds = 0;
  int64_t microseconds = 0;
};
struct IntervalTimerValue {  // struct itimerval
  TimeVal interval;
  TimeVal value;
};
struct IntervalTimerSpec {  // struct itimerspec
  TimeSpec interval;
  TimeSpec value;
};
struct TimeZone {
  int32_t minutes_west = 0;
  int32_t dst_time = 0;
};
struct ProcessTimes {  // struct tms, clock ticks
  int64_t user, system, children_user, children_system;
};
static_assert(sizeof(IntervalTimerSpec) == 32 && sizeof(IntervalTimerValue) == 32);

// Of a valid value; saturates at the end of time.
constexpr bool is_valid(const TimeSpec& time) {
  return time.seconds >= 0 && time.nanoseconds >= 0 && time.nanoseconds < 1'000'000'000;
}
constexpr bool is_valid(const TimeVal& time) {
  return time.seconds >= 0 && time.microseconds >= 0 && time.microseconds < 1'000'000;
}
inline constexpr uint64_t kForeverNs = 0x7fff'ffff'ffff'ffff;
constexpr uint64_t to_ns(const TimeSpec& time) {
  if (time.seconds >= static_cast<int64_t>(kForeverNs / 1'000'000'000)) return kForeverNs;
  return static_cast<uint64_t>(time.seconds) * 1'000'000'000 +
         static_cast<uint64_t>(time.nanoseconds);
}
constexpr uint64_t to_ns(const TimeVal& time) {
  return to_ns(TimeSpec{time.seconds, time.microseconds * 1000});
}
constexpr TimeSpec to_timespec(uint64_t ns) {
  return {static_cast<int64_t>(ns / 1'000'000'000), static_cast<int64_t>(ns % 1'000'000'000)};
}
constexpr TimeVal to_timeval(uint64_t ns) {
  return {static_cast<int64_t>(ns / 1'000'000'000),
          static_cast<int64_t>(ns % 1'000'000'000 / 1000)};
}
constexpr uint64_t add_ns(uint64_t a, uint64_t b) {
  return b > kForeverNs - a || a > kForeverNs ? kForeverNs : a + b;
}

}  // namespace caisson
