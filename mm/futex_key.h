// FutexKey: what a futex word is known by. Linux: union futex_key.
//
// Words in private memory are (address space, address); words in shared mappings are (file,
// offset), so that every process finds the same key. A key keeps the file that it names alive; the
// address space is kept by the task that waits.
#pragma once

#include <cstdint>

#include "base/ref.h"
#include "mm/mappable.h"

namespace caisson {

struct FutexKey {
  const void* object = nullptr;
  uint64_t offset = 0;
  RefOrNull<Mappable> file;

  friend bool operator==(const FutexKey& a, const FutexKey& b) {
    return a.object == b.object && a.offset == b.offset;
  }
  uint64_t hash() const {
    uint64_t value = reinterpret_cast<uintptr_t>(object) * 0x9e3779b97f4a7c15u + (offset >> 2);
    return (value ^ (value >> 29)) * 0xbf58476d1ce4e5b9u;
  }
};

}  // namespace caisson
