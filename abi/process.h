// Structures of process calls in the kernel's ABI on x86-64: clone3, wait, rusage, sysinfo, uname.
#pragma once

#include <cstddef>
#include <cstdint>

#include "abi/time.h"

namespace caisson {

struct CloneArguments {  // struct clone_args
  uint64_t flags = 0;
  uint64_t pidfd = 0;
  uint64_t child_tid = 0;
  uint64_t parent_tid = 0;
  uint64_t exit_signal = 0;
  uint64_t stack = 0;
  uint64_t stack_size = 0;
  uint64_t tls = 0;
  uint64_t set_tid = 0;
  uint64_t set_tid_size = 0;
  uint64_t cgroup = 0;
};
static_assert(sizeof(CloneArguments) == 88);
inline constexpr size_t kCloneArgumentsSize0 = 64;  // CLONE_ARGS_SIZE_VER0

struct ResourceUsage {  // struct rusage
  TimeVal user_time;
  TimeVal system_time;
  int64_t max_resident_kb = 0;
  int64_t unused[3] = {};
  int64_t minor_faults = 0, major_faults = 0, swaps = 0;
  int64_t blocks_in = 0, blocks_out = 0;
  int64_t messages_sent = 0, messages_received = 0, signals = 0;
  int64_t voluntary_switches = 0, involuntary_switches = 0;
};
static_assert(sizeof(ResourceUsage) == 144);

struct SystemInfo {  // struct sysinfo
  int64_t uptime = 0;
  uint64_t loads[3] = {};
  uint64_t total_ram = 0, free_ram = 0, shared_ram = 0, buffer_ram = 0;
  uint64_t total_swap = 0, free_swap = 0;
  uint16_t processes = 0;
  uint16_t pad = 0;
  uint32_t pad2 = 0;
  uint64_t total_high = 0, free_high = 0;
  uint32_t memory_unit = 0;
  uint32_t pad3 = 0;
};
static_assert(sizeof(SystemInfo) == 112);

struct UtsName {  // struct new_utsname
  char system[65], node[65], release[65], version[65], machine[65], domain[65];
};
static_assert(sizeof(UtsName) == 390);

// waitid(2)'s idtype.
inline constexpr int kWaitAll = 0, kWaitPid = 1, kWaitGroup = 2, kWaitPidFd = 3;
// wait4(2) and waitid(2) options.
inline constexpr uint32_t kWNoHang = 1, kWUntraced = 2, kWStopped = 2, kWExited = 4,
                          kWContinued = 8, kWNoWait = 0x01000000, kWNoThread = 0x20000000,
                          kWAll = 0x40000000, kWClone = 0x80000000;

}  // namespace caisson
