// System V IPC: shmget(2), shmctl(2). Linux: include/uapi/linux/ipc.h, shm.h.
#pragma once

#include <cstdint>

namespace caisson {

inline constexpr int kIpcPrivate = 0;
inline constexpr int kIpcCreate = 01000;
inline constexpr int kIpcExclusive = 02000;
inline constexpr int kIpcRemove = 0;
inline constexpr int kIpcSet = 1;
inline constexpr int kIpcStat = 2;
inline constexpr int kIpcInfo = 3;

// Of shmget; in the bits of a mode.
inline constexpr int kShmHugeTlb = 04000;
inline constexpr int kShmNoReserve = 010000;
// Of shmat.
inline constexpr int kShmReadOnly = 010000;
inline constexpr int kShmRound = 020000;
inline constexpr int kShmRemap = 040000;
inline constexpr int kShmExec = 0100000;
// Of shmctl.
inline constexpr int kShmLock = 11;
inline constexpr int kShmUnlock = 12;
inline constexpr int kShmStat = 13;
inline constexpr int kShmInfo = 14;
inline constexpr int kShmStatAny = 15;
// Shown in a segment's mode.
inline constexpr uint32_t kShmDestroyed = 01000;
inline constexpr uint32_t kShmLocked = 02000;

inline constexpr uint64_t kShmMaxBytes = ~uint64_t{0} - (uint64_t{1} << 24);
inline constexpr uint64_t kShmMaxPages = kShmMaxBytes;
inline constexpr int kShmMaxSegments = 4096;

struct IpcPermissions {  // struct ipc64_perm
  int32_t key = 0;
  uint32_t uid = 0, gid = 0;
  uint32_t creator_uid = 0, creator_gid = 0;
  uint32_t mode = 0;
  uint16_t sequence = 0;
  uint16_t pad[3] = {};
  uint64_t unused[2] = {};
};
static_assert(sizeof(IpcPermissions) == 48);

struct ShmStatus {  // struct shmid64_ds
  IpcPermissions permissions;
  uint64_t size = 0;  // bytes
  int64_t attach_time = 0, detach_time = 0, change_time = 0;
  int32_t creator_pid = 0, last_pid = 0;
  uint64_t attach_count = 0;
  uint64_t unused[2] = {};
};
static_assert(sizeof(ShmStatus) == 112);

struct ShmLimits {  // struct shminfo64
  uint64_t max_bytes = 0, min_bytes = 0, max_segments = 0, max_attached = 0, max_pages = 0;
  uint64_t unused[4] = {};
};
static_assert(sizeof(ShmLimits) == 72);

struct ShmUse {  // struct shm_info
  int32_t used_ids = 0;
  int32_t pad = 0;
  uint64_t pages = 0, resident_pages = 0, swapped_pages = 0;
  uint64_t swap_attempts = 0, swap_successes = 0;
};
static_assert(sizeof(ShmUse) == 48);

}  // namespace caisson
