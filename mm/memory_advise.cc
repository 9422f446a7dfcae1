// madvise(2), msync(2), mincore(2) and the mlock(2) family. Linux: mm/madvise.c, msync.c,
// mincore.c, mlock.c.
#include <linux/mman.h>

#include <algorithm>

#include "host/memory.h"
#include "mm/memory_manager.h"

namespace caisson {

namespace {

constexpr int kAdvicePopulateRead = 22;
constexpr int kAdvicePopulateWrite = 23;
constexpr int kAdviceDontNeedLocked = 24;
constexpr int kAdviceCollapse = 25;
constexpr int kAdviceCold = 20;
constexpr int kAdvicePageOut = 21;

bool is_known(int advice) {
  switch (advice) {
    case MADV_NORMAL:
    case MADV_RANDOM:
    case MADV_SEQUENTIAL:
    case MADV_WILLNEED:
    case MADV_DONTNEED:
    case MADV_FREE:
    case MADV_REMOVE:
    case MADV_DONTFORK:
    case MADV_DOFORK:
    case MADV_MERGEABLE:
    case MADV_UNMERGEABLE:
    case MADV_HUGEPAGE:
    case MADV_NOHUGEPAGE:
    case MADV_DONTDUMP:
    case MADV_DODUMP:
    case MADV_WIPEONFORK:
    case MADV_KEEPONFORK:
    case kAdviceCold:
    case kAdvicePageOut:
    case kAdvicePopulateRead:
    case kAdvicePopulateWrite:
    case kAdviceDontNeedLocked:
    case kAdviceCollapse:
      return true;
    default:
      return false;
  }
}

struct FlagChange {
  uint32_t set = 0;
  uint32_t clear = 0;
};

// The advice that only marks the vma.
bool flag_change(int advice, FlagChange* change) {
  switch (advice) {
    case MADV_NORMAL:
      *change = {0, kVmaRandom | kVmaSequential};
      return true;
    case MADV_RANDOM:
      *change = {kVmaRandom, kVmaSequential};
      return true;
    case MADV_SEQUENTIAL:
      *change = {kVmaSequential, kVmaRandom};
      return true;
    case MADV_DONTFORK:
      *change = {kVmaDontFork, 0};
      return true;
    case MADV_DOFORK:
      *change = {0, kVmaDontFork};
      return true;
    case MADV_WIPEONFORK:
      *change = {kVmaWipeOnFork, 0};
      return true;
    case MADV_KEEPONFORK:
      *change = {0, kVmaWipeOnFork};
      return true;
    case MADV_DONTDUMP:
      *change = {kVmaDontDump, 0};
      return true;
    case MADV_DODUMP:
      *change = {0, kVmaDontDump};
      return true;
    case MADV_MERGEABLE:
      *change = {kVmaMergeable, 0};
      return true;
    case MADV_UNMERGEABLE:
      *change = {0, kVmaMergeable};
      return true;
    case MADV_HUGEPAGE:
      *change = {kVmaHugePage, kVmaNoHugePage};
      return true;
    case MADV_NOHUGEPAGE:
      *change = {kVmaNoHugePage, kVmaHugePage};
      return true;
    default:
      return false;
  }
}

}  // namespace

Result<void> MemoryManager::madvise(GuestAddr addr, uint64_t length, int advice) {
  if (!is_known(advice)) return Errno(EINVAL);
  if (!is_page_aligned(addr)) return Errno(EINVAL);
  uint64_t rounded = page_up(length);
  if (length != 0 && rounded == 0) return Errno(EINVAL);
  GuestAddr end = addr + rounded;
  if (end < addr) return Errno(EINVAL);
  if (end == addr) return {};
  if (advice == kAdviceCollapse) return collapse_advice(addr, end);
  if (advice == kAdvicePopulateRead || advice == kAdvicePopulateWrite)
    return populate_advice(addr, end, advice == kAdvicePopulateWrite);

  Garbage garbage(*this);
  WriteLock lock(mappings_);
  // Holes are passed over and reported at the end.
  bool hole = false;
  Result<void> result;
  for (GuestAddr at = addr; at < end;) {
    auto it = vmas_.first_ending_after(at);
    if (it == vmas_.end() || it->second.start >= end) {
      hole = true;
      break;
    }
    if (it->second.start > at) hole = true;
    at = std::max(at, it->second.start);
    GuestAddr stop = std::min(end, it->second.end);
    result = advise_vma_locked(it, at, stop, advice, garbage);
    if (!result.ok()) break;
    at = stop;
  }
  merge_vmas_locked(addr, end);
  if (!result.ok()) return result;
  if (hole) return Errno(ENOMEM);
  return {};
}

Result<void> MemoryManager::advise_vma_locked(VmaSet::iterator it, GuestAddr start, GuestAddr end,
                                              int advice, Garbage& garbage) {
  const Vma& vma = it->second;
  FlagChange change;
  if (flag_change(advice, &change)) {
    if (advice == MADV_WIPEONFORK && (vma.file || vma.is_shared())) return Errno(EINVAL);
    if (advice == MADV_MERGEABLE && vma.is_shared()) return {};  // never are
    if ((vma.flags & change.clear) == 0 && (vma.flags & change.set) == change.set) return {};
    if ((vma.start < start || vma.end > end) && near_mapping_limit()) return Errno(ENOMEM);
    vmas_.split(start);
    vmas_.split(end);
    pmas_.split(start);
    pmas_.split(end);
    Vma& changed = vmas_.find(start)->second;
    changed.flags = (changed.flags & ~change.clear) | change.set;
    ++generation_;
    if (advice == MADV_HUGEPAGE || advice == MADV_NOHUGEPAGE) {
      for (auto pma = pmas_.first_ending_after(start);
           pma != pmas_.end() && pma->second.start < end; ++pma)
        if (pma->second.kind == Pma::Kind::kPrivate && pma->second.length() >= kHugePageSize)
          post_map_locked(changed, pma->second);
    }
    return {};
  }
  switch (advice) {
    case MADV_DONTNEED:
    case kAdviceDontNeedLocked:
      if (advice == MADV_DONTNEED && vma.has(kVmaLocked)) return Errno(EINVAL);
      discard_locked(vma, start, end, garbage);
      return {};
    case MADV_FREE:
      if (vma.file || vma.is_shared()) return Errno(EINVAL);
      // At once, as Linux may: nothing is ever lazily free.
      discard_locked(vma, start, end, garbage);
      return {};
    case MADV_REMOVE:
      if (vma.has(kVmaLocked)) return Errno(EINVAL);
      if (!vma.file || vma.file->kind() != Mappable::Kind::kMemory) return Errno(EINVAL);
      if (!vma.is_shared() || (vma.max_prot & PROT_WRITE) == 0) return Errno(EACCES);
      return vma.file->punch_hole(vma.file_offset(start), end - start);
    case kAdviceCold:
    case kAdvicePageOut:
      if (vma.has(kVmaLocked)) return Errno(EINVAL);
      return {};
    default:
      return {};  // MADV_WILLNEED: the host reads ahead by itself
  }
}

// The pages of private memory go; the next touch finds zeros or the file's content.
void MemoryManager::discard_locked(const Vma& vma, GuestAddr start, GuestAddr end,
                                   Garbage& garbage) {
  if (vma.is_shared()) return;  // only page table entries would go
  note_peak_before_locked(end - start);
  bool has_content = vma.file && vma.file->kind() != Mappable::Kind::kZero;
  if (has_content) {
    // Copies are dropped; what was mapped before them comes back.
    pmas_.split(start);
    pmas_.split(end);
    for (auto it = pmas_.first_ending_after(start); it != pmas_.end() && it->second.start < end;) {
      if (it->second.kind != Pma::Kind::kPrivate) {
        ++it;
        continue;
      }
      GuestAddr low = it->second.start;
      GuestAddr high = it->second.end;
      drop_pmas_locked(low, high, garbage, Unmap::kOrder);
      ++generation_;
      if (vma.prot != PROT_NONE)
        (void)back_locked(vma, low, high, Wait::kNow).ok();  // else by faults
      it = pmas_.first_ending_after(high);
    }
    return;
  }
  for (auto it = pmas_.first_ending_after(start); it != pmas_.end() && it->second.start < end;) {
    GuestAddr low = std::max(start, it->second.start);
    GuestAddr high = std::min(end, it->second.end);
    if (it->second.is_cow()) {  // not ours alone
      pmas_.split(low);
      pmas_.split(high);
      drop_pmas_locked(low, high, garbage, Unmap::kOrder);
      ++generation_;
      if (vma.prot != PROT_NONE)
        (void)back_locked(vma, low, high, Wait::kNow).ok();  // else by faults
      it = pmas_.first_ending_after(high);
      continue;
    }
    // The host takes the pages out of every mapping at once: no order is needed.
    memory_.discard({it->second.offset + (low - it->second.start), high - low});
    ++it;
  }
}

Result<void> MemoryManager::populate_advice(GuestAddr start, GuestAddr end, bool for_write) {
  for (GuestAddr at = start; at < end;) {
    GuestAddr stop;
    bool backed;
    {
      WriteLock lock(mappings_);
      auto it = vmas_.find(at);
      if (it == vmas_.end()) return Errno(ENOMEM);
      int needed = for_write ? PROT_WRITE : PROT_READ;
      if ((it->second.prot & needed) == 0) return Errno(EINVAL);
      auto pma = pmas_.find(at);
      backed = pma != pmas_.end() && (!for_write || (pma->second.prot & PROT_WRITE) != 0 ||
                                      is_unsettled_locked(pma->second));
      stop = std::min({end, it->second.end, backed ? pma->second.end : at + kPageSize});
      if (backed && pma->second.in_memory_file() &&
          !memory_.populate({pma->second.offset + (at - pma->second.start), stop - at}).ok())
        return Errno(kEMEMORYLIMIT);
    }
    if (backed) {
      at = stop;
      continue;
    }
    FaultOutcome outcome =
        make_accessible(at, for_write ? Access::kWrite : Access::kRead, false, false);
    if (outcome.kind == FaultOutcome::Kind::kOutOfMemory) return Errno(kEMEMORYLIMIT);
    if (outcome.kind == FaultOutcome::Kind::kSignal) return Errno(EFAULT);
  }
  return {};
}

// Fills the huge pages that hold something; the host joins their pages if it can. Linux:
// madvise_collapse().
Result<void> MemoryManager::collapse_advice(GuestAddr start, GuestAddr end) {
  WriteLock lock(mappings_);
  for (GuestAddr at = start; at < end;) {
    auto it = vmas_.find(at);
    if (it == vmas_.end()) return Errno(ENOMEM);
    const Vma& vma = it->second;
    GuestAddr stop = std::min(end, vma.end);
    GuestAddr first = (vma.start + kHugePageSize - 1) & ~(kHugePageSize - 1);
    if (vma.file || vma.is_shared() || first + kHugePageSize > vma.end) return Errno(EINVAL);
    first = (at + kHugePageSize - 1) & ~(kHugePageSize - 1);
    bool failed = false;
    for (; first + kHugePageSize <= stop; first += kHugePageSize) {
      auto pma = pmas_.find(first);
      if (pma == pmas_.end() || pma->second.end < first + kHugePageSize || pma->second.is_cow()) {
        failed = true;
        continue;
      }
      MemoryRange range{pma->second.offset + (first - pma->second.start), kHugePageSize};
      if (memory_.next_data(range).empty()) {
        failed = true;  // nothing there to collapse
        continue;
      }
      if (!memory_.populate(range).ok()) return Errno(kEMEMORYLIMIT);
      if (range.offset % kHugePageSize == 0) memory_.collapse(range);
    }
    if (failed) return Errno(EINVAL);
    at = stop;
  }
  return {};
}

Result<void> MemoryManager::msync(GuestAddr addr, uint64_t length, int flags) {
  if ((flags & ~(MS_ASYNC | MS_INVALIDATE | MS_SYNC)) != 0) return Errno(EINVAL);
  if (!is_page_aligned(addr)) return Errno(EINVAL);
  if ((flags & MS_ASYNC) != 0 && (flags & MS_SYNC) != 0) return Errno(EINVAL);
  length = page_up(length);
  GuestAddr end = addr + length;
  if (end < addr) return Errno(ENOMEM);
  // Shared memory is the file's memory, so there is nothing to write back. Holes are reported at
  // the end, but for MS_ASYNC alone.
  ReadLock lock(mappings_);
  bool hole = false;
  for (GuestAddr at = addr; at < end;) {
    auto it = vmas_.first_ending_after(at);
    if (it == vmas_.end() || it->second.start > at) hole = true;
    if (it == vmas_.end() || it->second.start >= end || (hole && flags == MS_ASYNC)) break;
    if ((flags & MS_INVALIDATE) != 0 && it->second.has(kVmaLocked)) return Errno(EBUSY);
    at = it->second.end;
  }
  if (hole) return Errno(ENOMEM);
  return {};
}

void MemoryManager::residency_locked(GuestAddr start, std::span<uint8_t> pages) {
  std::fill(pages.begin(), pages.end(), uint8_t{0});
  GuestAddr end = start + pages.size() * kPageSize;
  auto it = pmas_.first_ending_after(start);
  for (; it != pmas_.end() && it->second.start < end; ++it) {
    GuestAddr at = std::max(start, it->second.start);
    while (at < std::min(end, it->second.end)) {
      uint64_t bytes = std::min(end, it->second.end) - at;
      const std::byte* host = translate_locked(at, Access::kRead, true, &bytes);
      bytes = page_down(bytes);
      if (bytes == 0 || host == nullptr) {
        at += kPageSize;
        continue;
      }
      uint8_t* first = pages.data() + (at - start) / kPageSize;
      if (!host::residency(host, bytes, first).ok()) std::fill_n(first, bytes / kPageSize, 0);
      for (uint64_t i = 0; i < bytes / kPageSize; ++i) first[i] &= 1;
      if (it->second.in_memory_file()) {
        const uint64_t offset = it->second.offset + (at - it->second.start);
        memory_.find_untouched({offset, bytes}, [&](MemoryRange part) {
          std::fill_n(first + (part.offset - offset) / kPageSize, part.length / kPageSize, 0);
        });
      }
      at += bytes;
    }
  }
}

Result<void> MemoryManager::mincore(GuestAddr addr, uint64_t length, GuestAddr vector) {
  if (!is_page_aligned(addr)) return Errno(EINVAL);
  if (addr > max_addr_ || length > max_addr_ - addr) return Errno(ENOMEM);
  GuestAddr end = addr + page_up(length);
  uint8_t pages[4096];
  while (addr < end) {
    uint64_t count = std::min<uint64_t>(sizeof(pages), (end - addr) / kPageSize);
    {
      WriteLock lock(mappings_);
      for (GuestAddr at = addr; at < addr + count * kPageSize;) {
        auto it = vmas_.find(at);
        if (it == vmas_.end()) return Errno(ENOMEM);
        at = it->second.end;
      }
      back_files_locked(addr, addr + count * kPageSize, true);
      residency_locked(addr, std::span(pages, count));
    }
    TRY(copy_out(vector, pages, count).result());
    addr += count * kPageSize;
    vector += count;
  }
  return {};
}

Result<void> MemoryManager::mlock(GuestAddr addr, uint64_t length, bool on_fault, bool may_lock) {
  uint64_t within = addr & (kPageSize - 1);
  if (length + within < length || (length != 0 && page_up(length + within) == 0))
    return Errno(EINVAL);
  length = page_up(length + within);
  addr = page_down(addr);
  GuestAddr end = addr + length;
  WriteLock lock(mappings_);
  if (!may_lock && limits_.locked == 0) return Errno(EPERM);
  if (end < addr) return Errno(EINVAL);
  if (!may_lock && (length > limits_.locked ||
                    locked_bytes_locked(0, max_addr_) + length - locked_bytes_locked(addr, end) >
                        limits_.locked))
    return Errno(ENOMEM);
  if (end == addr) return {};
  Result<void> result = lock_range_locked(addr, end, kVmaLocked | (on_fault ? kVmaLockOnFault : 0));
  if (!result.ok() || on_fault) return result;
  populate_locked(addr, end);
  if (!can_touch_all_locked(addr, end)) return Errno(ENOMEM);
  return {};
}

// Would an access of every page work that the mappings allow? [start, end) has no hole.
bool MemoryManager::can_touch_all_locked(GuestAddr start, GuestAddr end) const {
  for (auto it = vmas_.first_ending_after(start); it != vmas_.end() && it->second.start < end;
       ++it) {
    const Vma& vma = it->second;
    if (vma.prot == PROT_NONE) return false;
    if (!vma.file || vma.file->kind() == Mappable::Kind::kZero) continue;
    if (vma.file_offset(std::min(end, vma.end) - kPageSize) >= vma.file->size()) return false;
  }
  return true;
}

Result<void> MemoryManager::munlock(GuestAddr addr, uint64_t length) {
  length = page_up(length + (addr & (kPageSize - 1)));
  addr = page_down(addr);
  GuestAddr end = addr + length;
  if (end < addr) return Errno(EINVAL);
  WriteLock lock(mappings_);
  return lock_range_locked(addr, end, 0);
}

// Sets the lock flags of every vma in the range; ENOMEM at the first hole.
Result<void> MemoryManager::lock_range_locked(GuestAddr addr, GuestAddr end, uint32_t flags) {
  constexpr uint32_t kMask = kVmaLocked | kVmaLockOnFault;
  GuestAddr begin = addr;
  Result<void> result;
  while (addr < end) {
    auto it = vmas_.find(addr);
    if (it == vmas_.end()) {
      result = Errno(ENOMEM);
      break;
    }
    GuestAddr stop = std::min(end, it->second.end);
    if ((it->second.flags & kMask) != flags) {
      if ((it->second.start < addr || it->second.end > stop) && near_mapping_limit()) {
        result = Errno(ENOMEM);
        break;
      }
      vmas_.split(addr);
      vmas_.split(stop);
      pmas_.split(addr);
      pmas_.split(stop);
      Vma& vma = vmas_.find(addr)->second;
      account_locked(vma, false);
      vma.flags = (vma.flags & ~kMask) | flags;
      account_locked(vma, true);
    }
    addr = stop;
  }
  merge_vmas_locked(begin, end);
  return result;
}

Result<void> MemoryManager::mlockall(int flags, bool may_lock) {
  if (flags == 0 || (flags & ~(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT)) != 0 ||
      flags == MCL_ONFAULT)
    return Errno(EINVAL);
  WriteLock lock(mappings_);
  if (!may_lock && limits_.locked == 0) return Errno(EPERM);
  if (!may_lock && (flags & MCL_CURRENT) != 0 && use_.total > limits_.locked) return Errno(ENOMEM);
  lock_future_ = flags & (MCL_FUTURE | MCL_ONFAULT);
  if ((flags & MCL_FUTURE) == 0) lock_future_ = 0;
  if ((flags & MCL_CURRENT) == 0) return {};
  bool on_fault = (flags & MCL_ONFAULT) != 0;
  lock_all_locked(kVmaLocked | (on_fault ? kVmaLockOnFault : 0));
  if (!on_fault) populate_locked(0, max_addr_);
  return {};
}

Result<void> MemoryManager::munlockall() {
  WriteLock lock(mappings_);
  lock_future_ = 0;
  lock_all_locked(0);
  return {};
}

void MemoryManager::lock_all_locked(uint32_t flags) {
  for (auto& [start, vma] : vmas_) {
    account_locked(vma, false);
    vma.flags = (vma.flags & ~(kVmaLocked | kVmaLockOnFault)) | flags;
    account_locked(vma, true);
  }
  merge_vmas_locked(0, max_addr_);
}

}  // namespace caisson
