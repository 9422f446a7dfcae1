// SandboxOptions: what `caisson do` was asked for, checked. Immutable once the kernel process is
// started.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernel/call_patcher.h"
#include "runtime/posture.h"

namespace caisson::runtime {

struct SandboxOptions {
  std::vector<std::string> command;      // not empty
  std::vector<std::string> environment;  // "NAME=value"
  // Working directory inside; empty: the caller's if it exists inside, else /.
  std::string directory;
  bool directory_required = false;  // it was asked for: fail if it is not there
  std::string hostname = "caisson";
  uint64_t memory_bytes = 0;  // limit of guest memory; 0: what the host has free
  int cpus = 0;               // 0: all that the caller may use
  bool strace = false;
  bool no_stub_calls = false;  // guest threads make no host call of their own: slower, less exposed
  // System calls of a file are patched after so many trapped ones; 0: never.
  uint32_t patch_calls_after = CallPatcher::kDefaultAfter;
  Posture required_posture = Posture::kNested;
};

}  // namespace caisson::runtime
