#include "kernel/syscall_table.h"

#include "base/check.h"

namespace caisson {

SyscallTable::SyscallTable(std::span<const SyscallEntry> entries) : entries_(entries) {
  for (const SyscallEntry& entry : entries) {
    CHECK(entry.number < kSize);
    CHECK(dense_[entry.number] == nullptr);
    dense_[entry.number] = &entry;
  }
}

}  // namespace caisson
