// raw_syscall<0..6>(): host system calls as the kernel makes them: -errno in the result, no errno
// variable, no cancellation, no libc. Safe in signal handlers and between clone and exec.
//
// RawResult is a kernel result (-4095..-1 is an error); it never mixes with libc's -1/errno
// (HostResult in host/host.h).
#pragma once

#include <sys/syscall.h>

#include "base/result.h"

namespace caisson::host {

class [[nodiscard]] RawResult {
 public:
  constexpr explicit RawResult(long value) : value_(value) {}
  constexpr bool ok() const {
    return static_cast<unsigned long>(value_) < static_cast<unsigned long>(-4095L);
  }
  constexpr Errno error() const { return Errno(static_cast<int>(-value_)); }
  constexpr long value() const { return value_; }  // the raw register value
  Result<long> result() const {
    if (!ok()) return error();
    return value_;
  }
  constexpr void ignore() const {}  // says that failure does not matter here

 private:
  long value_;
};

inline RawResult raw_syscall(long nr, long a1 = 0, long a2 = 0, long a3 = 0, long a4 = 0,
                             long a5 = 0, long a6 = 0) {
  long result;
  register long r10 __asm__("r10") = a4;
  register long r8 __asm__("r8") = a5;
  register long r9 __asm__("r9") = a6;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(nr), "D"(a1), "S"(a2), "d"(a3), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return RawResult(result);
}

template <typename T>
inline long raw_arg(T* pointer) {
  return reinterpret_cast<long>(pointer);
}

}  // namespace caisson::host
