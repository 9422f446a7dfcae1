// Robust futexes: what a dying task does with the locks it holds, set_robust_list(2). Linux:
// exit_robust_list() in kernel/futex/core.c.
#pragma once

#include "abi/user_ptr.h"

namespace caisson {

class FutexTable;
class MemoryManager;

inline constexpr uint64_t kRobustListHeadSize = 24;

// Walks the guest's list with Linux's limit on its length; gives up at the first bad address.
void release_robust_list(MemoryManager& mm, FutexTable& futexes, GuestAddr head, uint32_t tid);

// FUTEX_WAKE of one waiter at `addr`, for clear_child_tid and robust locks.
void wake_futex_word(MemoryManager& mm, FutexTable& futexes, GuestAddr addr, bool shared,
                     int count);

}  // namespace caisson
