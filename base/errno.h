// Errno: a Linux error number as a strong type, errno(3).
//
// Enumerators cannot carry Linux's names beside <errno.h>, so a value is written Errno(EINVAL). It
// also holds the kernel-internal restart codes (Linux: include/linux/errno.h), which never reach a
// guest program.
#pragma once

#include <cerrno>
#include <cstdint>
#include <string_view>

namespace caisson {

// Kernel-internal results of an interrupted system call; the signal code turns them into EINTR or a
// restart.
inline constexpr int kERESTARTSYS = 512;     // restart if the handler has SA_RESTART
inline constexpr int kERESTARTNOINTR = 513;  // restart always
inline constexpr int kERESTARTNOHAND = 514;  // restart if no handler runs
inline constexpr int kERESTART_RESTARTBLOCK =
    516;  // restart by restart_syscall(2) if no handler runs

// Kernel-internal: guest memory is used up. The call happens again once a process has been ended
// for it; see MemoryKiller.
inline constexpr int kEMEMORYLIMIT = 520;

class [[nodiscard]] Errno {
 public:
  constexpr explicit Errno(int value) : value_(value) {}

  constexpr int value() const { return value_; }
  // What a system call returns to its caller: -errno.
  constexpr int64_t as_return() const { return -static_cast<int64_t>(value_); }
  constexpr bool is_restart() const {
    return value_ >= kERESTARTSYS && value_ <= kERESTART_RESTARTBLOCK;
  }

  // "ENOENT"; "errno 4095" style names do not exist: unknown values give "E?".
  std::string_view name() const;
  // "No such file or directory".
  std::string_view message() const;

  friend constexpr bool operator==(Errno, Errno) = default;

 private:
  int value_;
};

}  // namespace caisson
