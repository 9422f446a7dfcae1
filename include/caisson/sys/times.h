// Timespec and Timeval: the kernel's two time structures, with conversions.
//
// nano() wraps like the 64-bit arithmetic that it is: about 292 years around 1970 fit.
#pragma once

#include <sys/time.h>

#include <cstdint>
#include <ctime>

namespace caisson::sys {

struct UnixTime {
  int64_t sec;
  int64_t nsec;
  friend constexpr bool operator==(const UnixTime&, const UnixTime&) = default;
};

struct Timespec : ::timespec {
  constexpr Timespec() : ::timespec{} {}
  constexpr Timespec(int64_t sec, int64_t nsec) : ::timespec{} {
    tv_sec = sec;
    tv_nsec = nsec;
  }
  // NOLINTNEXTLINE(google-explicit-constructor): the same value, e.g. stat's st_mtim.
  constexpr Timespec(const ::timespec& value) : ::timespec(value) {}

  constexpr int64_t nano() const {
    return static_cast<int64_t>(static_cast<uint64_t>(tv_sec) * 1'000'000'000u +
                                static_cast<uint64_t>(tv_nsec));
  }
  constexpr UnixTime unix_time() const { return {tv_sec, tv_nsec}; }
};

struct Timeval : ::timeval {
  constexpr Timeval() : ::timeval{} {}
  constexpr Timeval(int64_t sec, int64_t usec) : ::timeval{} {
    tv_sec = sec;
    tv_usec = usec;
  }
  // NOLINTNEXTLINE(google-explicit-constructor): the same value, e.g. rusage's ru_utime.
  constexpr Timeval(const ::timeval& value) : ::timeval(value) {}

  constexpr int64_t nano() const {
    return static_cast<int64_t>(static_cast<uint64_t>(tv_sec) * 1'000'000'000u +
                                static_cast<uint64_t>(tv_usec) * 1'000u);
  }
  constexpr UnixTime unix_time() const { return {tv_sec, tv_usec * 1000}; }
};

}  // namespace caisson::sys
