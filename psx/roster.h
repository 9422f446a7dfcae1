// Roster: the threads that a broadcast knows, one slot (a Record) each.
//
// One per process, used by the caller of a broadcast under its lock; only the records are shared
// with handlers. Slots stay put during a broadcast, because signals carry their numbers. The list
// outlives the broadcast: the next one signals the same threads at once and lets the kernel's count
// say whether anybody is missing.
#pragma once

#include <cstdint>

#include "psx/broadcast_state.h"

namespace caisson::psx::internal {

class Roster {
 public:
  static constexpr uint32_t kNone = ~0U;

  uint32_t size() const { return size_; }
  Record& operator[](uint32_t slot) { return *record_at(slot); }
  // The slot of this thread, or kNone.
  uint32_t find(int32_t tid) const;
  // Adds a slot for a thread that has none. kNone: no memory.
  uint32_t add(int32_t tid);
  // Between broadcasts: removes the slots of threads that are no more.
  void drop_missing();
  // Forgets everything without reading it: after fork it may be half written.
  void clear();

 private:
  struct Index {  // open addressing, power of two, tid 0 is free
    uint32_t capacity;
    struct {
      int32_t tid;
      uint32_t slot;
    } cell[];
  };

  bool reserve(uint32_t count);
  void enter(int32_t tid, uint32_t slot);
  void rebuild_index();

  Index* index_ = nullptr;
  uint32_t size_ = 0;
};

}  // namespace caisson::psx::internal
