// mremap(2). Linux: mm/mremap.c.
#include <linux/mman.h>

#include <algorithm>

#include "host/memory.h"
#include "mm/memory_manager.h"

namespace caisson {

namespace {
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif
constexpr uint64_t kLinuxTaskSize = (uint64_t{1} << 47) - kPageSize;  // ours ends earlier
}  // namespace

Result<GuestAddr> MemoryManager::mremap(GuestAddr old_addr, uint64_t old_length,
                                        uint64_t new_length, int flags, GuestAddr new_addr) {
  if ((flags & ~(MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP)) != 0) return Errno(EINVAL);
  bool fixed = (flags & MREMAP_FIXED) != 0;
  bool keep_old = (flags & MREMAP_DONTUNMAP) != 0;
  bool may_move = (flags & MREMAP_MAYMOVE) != 0;
  if (!is_page_aligned(old_addr)) return Errno(EINVAL);
  old_length = page_up(old_length);
  new_length = page_up(new_length);
  if (new_length == 0 || new_length > kLinuxTaskSize) return Errno(EINVAL);
  if (new_length > max_addr_) return Errno((fixed || keep_old) ? EINVAL : ENOMEM);
  if (fixed || keep_old) {
    if (!may_move) return Errno(EINVAL);
    if (!is_page_aligned(new_addr) || new_addr > max_addr_ - new_length) return Errno(EINVAL);
    if (keep_old && old_length != new_length) return Errno(EINVAL);
    if (old_addr < new_addr + new_length && new_addr < old_addr + old_length) return Errno(EINVAL);
    if (fixed && new_addr < min_addr_) return Errno(EPERM);
  }

  Garbage garbage(*this);
  WriteLock lock(mappings_);
  if (fixed && old_length == new_length)
    return move_all_locked(old_addr, old_length, flags, new_addr, garbage);
  return remap_locked(old_addr, old_length, new_length, flags, new_addr, garbage);
}

// A move that changes no size takes every mapping of the range along, and the holes between them:
// what lies where a hole comes to stays. Linux: remap_move(), since 6.17.
Result<GuestAddr> MemoryManager::move_all_locked(GuestAddr old_addr, uint64_t length, int flags,
                                                 GuestAddr new_addr, Garbage& garbage) {
  GuestAddr end = old_addr + length;
  auto it = vmas_.find(old_addr);
  if (it == vmas_.end() || end < old_addr) return Errno(EFAULT);
  for (GuestAddr at = old_addr; at < end && it != vmas_.end() && it->second.start < end;
       it = vmas_.first_ending_after(at)) {
    GuestAddr start = std::max(at, it->second.start);
    uint64_t part = std::min(end, it->second.end) - start;
    GuestAddr target = new_addr + (start - old_addr);
    (void)TRY(remap_locked(start, part, part, flags, target, garbage));
    at = start + part;
  }
  return new_addr;
}

// Of one mapping; the arguments are checked.
Result<GuestAddr> MemoryManager::remap_locked(GuestAddr old_addr, uint64_t old_length,
                                              uint64_t new_length, int flags, GuestAddr new_addr,
                                              Garbage& garbage) {
  static const uint64_t overcommit_limit = host::physical_memory();
  bool fixed = (flags & MREMAP_FIXED) != 0;
  bool keep_old = (flags & MREMAP_DONTUNMAP) != 0;
  bool may_move = (flags & MREMAP_MAYMOVE) != 0;
  auto it = vmas_.find(old_addr);
  if (it == vmas_.end()) return Errno(EFAULT);
  const Vma& vma = it->second;
  if (old_length == 0 && !vma.is_shared()) return Errno(EINVAL);
  if (old_length > new_length && old_length > max_addr_ - old_addr) return Errno(EINVAL);
  bool in_place = !fixed && !keep_old;
  if (in_place && new_length <= old_length && old_length != 0) {
    if (new_length < old_length)
      remove_locked(old_addr + new_length, old_addr + old_length, garbage);
    return old_addr;
  }
  // Of a range that shrinks on its way only what arrives must be one mapping.
  if ((fixed ? std::min(old_length, new_length) : old_length) > vma.end - old_addr)
    return Errno(EFAULT);
  if (vma.file && vma.file_offset(old_addr) + new_length < new_length) return Errno(EINVAL);
  uint64_t added = new_length > old_length ? new_length - old_length : 0;
  if (vma.has(kVmaLocked) && locked_bytes_locked(0, max_addr_) + added > limits_.locked)
    return Errno(EAGAIN);
  if (vma.is_data() && !vma.has(kVmaNoReserve) && added > overcommit_limit) return Errno(ENOMEM);
  uint64_t charged = keep_old || old_length == 0 ? new_length : added;
  if (!fits_limits_locked(charged, vma.is_data()) || near_mapping_limit()) return Errno(ENOMEM);

  GuestAddr old_end = old_addr + old_length;
  if (in_place && old_length != 0 && old_end == vma.end && is_free_locked(old_end, added)) {
    Vma tail = vma;
    tail.offset = vma.offset + vma.length();
    tail.start = old_end;
    tail.end = old_end + added;
    const Vma& made = insert_vma_locked(std::move(tail))->second;
    Result<void> backed = back_locked(made, old_end, old_end + added, Wait::kAtTouch);
    if (!backed.ok()) {
      remove_locked(old_end, old_end + added, garbage);
      return backed.error();
    }
    if (made.has(kVmaLocked)) populate_locked(old_end, old_end + added);
    return old_addr;
  }
  if (!may_move) return Errno(ENOMEM);

  if (fixed) {
    remove_locked(new_addr, new_addr + new_length, garbage);
    // The part of the old range that goes away comes first, as in Linux.
    if (old_length > new_length) {
      remove_locked(old_addr + new_length, old_end, garbage);
      old_length = new_length;
    }
  } else {
    uint64_t alignment = new_length % kHugePageSize == 0 ? kHugePageSize : kPageSize;
    new_addr = TRY(find_free_locked(keep_old ? new_addr : 0, new_length, 0, alignment));
  }
  TRY(move_locked(old_addr, old_length, new_addr, new_length, keep_old, garbage));
  return new_addr;
}

// Moves the vma's part and the memory behind it: the same pages appear at the new place.
Result<void> MemoryManager::move_locked(GuestAddr old_addr, uint64_t old_length, GuestAddr new_addr,
                                        uint64_t new_length, bool keep_old, Garbage& garbage) {
  GuestAddr old_end = old_addr + old_length;
  vmas_.split(old_addr);
  pmas_.split(old_addr);
  if (old_length != 0) {
    vmas_.split(old_end);
    pmas_.split(old_end);
  }
  const Vma& old_vma = vmas_.find(old_addr)->second;
  Vma moved = old_vma;
  moved.start = new_addr;
  moved.end = new_addr + new_length;

  std::vector<Pma> pmas;
  if (old_length != 0) {
    for (auto it = pmas_.first_ending_after(old_addr);
         it != pmas_.end() && it->second.start < old_end;) {
      pmas.push_back(it->second);
      it = pmas_.erase(it);
    }
    if (!pmas.empty()) {
      GuestAddr low = pmas.front().start;
      GuestAddr high = pmas.back().end;
      evict_parked_locked(low, high, garbage.ranges);
      space_->unmap(low, high - low);
    }
    if (keep_old) {
      Vma& left = vmas_.find(old_addr)->second;
      account_locked(left, false);
      left.flags &= ~(kVmaLocked | kVmaLockOnFault);
      account_locked(left, true);
      // Old pages read as zeros from now on; a touch backs them.
    } else {
      remove_locked(old_addr, old_end, garbage);
    }
  }
  const Vma& made = insert_vma_locked(std::move(moved))->second;
  for (Pma pma : pmas) {
    pma.start = pma.start - old_addr + new_addr;
    pma.end = pma.end - old_addr + new_addr;
    post_map_locked(made, pma);
    insert_pma_locked(pma);
  }
  // A new tail, and what a duplicated shared mapping shows. Without memory it is backed by faults.
  (void)back_locked(made, new_addr, new_addr + new_length, Wait::kAtTouch).ok();
  merge_vmas_locked(old_addr, old_end);  // what stays
  return {};
}

}  // namespace caisson
