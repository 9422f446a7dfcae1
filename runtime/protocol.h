// The messages between the launcher and the kernel process, on one SOCK_SEQPACKET pair. Each side
// trusts the other as far as it must: the launcher never acts on more than these fields, and a
// message of another size ends the talk.
#pragma once

#include <cstdint>

namespace caisson::runtime {

struct FromKernel {
  enum Kind : uint32_t {
    kWaitStatus,  // the program ended: `value` is its wait(2) status
    kFailed,      // it could not be started: `value` is the exit status to use, `text` the sentence
  };
  uint32_t kind;
  int32_t value;
  char text[504];
};

struct FromLauncher {
  enum Kind : uint32_t {
    kSignal,  // `value` is a signal for the program
  };
  uint32_t kind;
  int32_t value;
};

// The kernel process' end: the first descriptor after the standard ones.
inline constexpr int kKernelSocket = 3;

inline constexpr int kExitInternal = 125;   // Caisson itself failed
inline constexpr int kExitCannotRun = 126;  // the program was found but can't be run
inline constexpr int kExitNotFound = 127;   // there is no such program

}  // namespace caisson::runtime
