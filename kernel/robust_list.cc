#include "kernel/robust_list.h"

#include "kernel/futex/futex_table.h"
#include "mm/memory_manager.h"

namespace caisson {
namespace {

constexpr int kMaxEntries = 2048;  // ROBUST_LIST_LIMIT
constexpr uint32_t kTidMask = 0x3fffffff, kOwnerDied = 0x40000000, kWaiters = 0x80000000;

// False: the list can't be followed any further.
bool release_word(MemoryManager& mm, FutexTable& futexes, GuestAddr addr, uint32_t tid,
                  bool is_pending) {
  if (addr % sizeof(uint32_t) != 0) return false;
  Result<uint32_t> word = mm.load_u32(addr);
  if (!word.ok()) return false;
  for (;;) {
    uint32_t value = word.value();
    // The owner died between unlocking and waking: pass the wake-up on.
    if (is_pending && value == 0) {
      wake_futex_word(mm, futexes, addr, true, 1);
      return true;
    }
    if ((value & kTidMask) != tid) return true;
    uint32_t next = (value & kWaiters) | kOwnerDied;
    Result<uint32_t> seen = mm.compare_exchange_u32(addr, value, next);
    if (!seen.ok()) return false;
    if (seen.value() == value) {
      if ((value & kWaiters) != 0) wake_futex_word(mm, futexes, addr, true, 1);
      return true;
    }
    word = seen.value();
  }
}

}  // namespace

void wake_futex_word(MemoryManager& mm, FutexTable& futexes, GuestAddr addr, bool shared,
                     int count) {
  // A waiter may have used either form of key on private memory; both lead to the same one there.
  Result<FutexKey> key = mm.futex_key(addr, shared);
  if (key.ok()) futexes.wake(key.value(), count, FutexTable::kMatchAny);
}

void release_robust_list(MemoryManager& mm, FutexTable& futexes, GuestAddr head, uint32_t tid) {
  struct Head {
    uint64_t next;
    int64_t futex_offset;
    uint64_t pending;
  };
  static_assert(sizeof(Head) == kRobustListHeadSize);
  Result<Head> list = mm.copy_in(UserIn<Head>(head));
  if (!list.ok()) return;
  // Bit 0 marks priority-inheritance locks, which are not supported: their words are released
  // alike.
  auto word_of = [&](uint64_t entry) {
    return (entry & ~1ull) + static_cast<uint64_t>(list->futex_offset);
  };
  uint64_t pending = list->pending;
  uint64_t entry = list->next;
  for (int i = 0; i < kMaxEntries && (entry & ~1ull) != head; ++i) {
    // Read on before the word is released: its memory may be gone then.
    Result<uint64_t> next = mm.copy_in(UserIn<uint64_t>(entry & ~1ull));
    if ((entry & ~1ull) != (pending & ~1ull) &&
        !release_word(mm, futexes, word_of(entry), tid, false))
      return;
    if (!next.ok()) break;
    entry = next.value();
  }
  if ((pending & ~1ull) != 0) release_word(mm, futexes, word_of(pending), tid, true);
}

}  // namespace caisson
