// Parked memory: mapped in the stub without any protection where the guest has nothing, so that the
// next mapping there, a growing heap or a growing reservation is opened by the guest's own thread
// (mprotect(2) on its way back) instead of by the mapper, which must be woken.
//
// Private memory that was unmapped is parked for a while, with its pages; and what lies beside a
// new mapping is mapped ahead. A guest that tampers with it harms itself only: the range belongs to
// its address space until the mapper has unmapped it.
#include <algorithm>

#include "mm/memory_manager.h"

namespace caisson {

namespace {
constexpr uint64_t kAhead = 1024 * 1024;
// Below a program's interpreter: for what it maps itself, among its first libraries.
constexpr uint64_t kLibrariesAhead = 4 * 1024 * 1024;
// Pages that one address space keeps although the guest has unmapped them.
constexpr uint64_t kParkedPagesLimit = 2 * 1024 * 1024;
constexpr uint64_t kParkLimit = 1024 * 1024;
// Of one address space: the host keeps what they map.
constexpr int kMostParkedFiles = 16;
}  // namespace

void trim_front(Parked& parked, GuestAddr addr) {
  parked.offset += addr - parked.start;
  parked.start = addr;
}

// Unmaps what is behind [start, end), whole pmas, for the guest. False: not suitable.
bool MemoryManager::park_locked(GuestAddr start, GuestAddr end) {
  uint64_t bytes = 0;
  int count = 0;
  int files = 0;
  for (auto it = pmas_.first_ending_after(start); it != pmas_.end() && it->second.start < end;
       ++it) {
    const Pma& pma = it->second;
    if (++count > 2 || pma.is_cow()) return false;
    if (pma.kind == Pma::Kind::kHostFile && !pma.is_patched)
      ++files;
    else if (pma.kind == Pma::Kind::kPrivate)
      bytes += pma.length();
    else
      return false;
  }
  if (bytes > kParkLimit || parked_used_ + bytes > kParkedPagesLimit) return false;
  if (files > 0 && std::count_if(parked_.begin(), parked_.end(),
                                 [](const auto& entry) { return entry.second.is_file; }) +
                           files >
                       kMostParkedFiles)
    return false;
  for (auto it = pmas_.first_ending_after(start); it != pmas_.end() && it->second.start < end;) {
    const Pma& pma = it->second;
    if (pma.prot != 0) space_->protect(pma.start, pma.length(), 0);
    const bool is_file = !pma.in_memory_file();
    parked_.insert({pma.start, pma.end, pma.offset, !is_file, is_file});
    if (!is_file) parked_used_ += pma.length();
    it = pmas_.erase(it);
  }
  return true;
}

// The memory parked at [start, end) if it is all there and in one piece of the file: empty, and no
// longer parked. Nothing otherwise.
MemoryRange MemoryManager::unpark_locked(GuestAddr start, GuestAddr end) {
  auto it = parked_.find(start);
  if (it == parked_.end()) return {};
  uint64_t offset = it->second.offset + (start - it->second.start);
  for (GuestAddr at = start; at < end; at = it++->second.end) {
    if (it == parked_.end() || it->second.start > at || it->second.is_file ||
        it->second.offset - it->second.start != offset - start)
      return {};
  }
  parked_.split(start);
  parked_.split(end);
  for (it = parked_.find(start); it != parked_.end() && it->second.start < end;) {
    if (it->second.used) {
      uint64_t length = it->second.end - it->second.start;
      parked_used_ -= length;
      memory_.clear({it->second.offset, length});
    }
    it = parked_.erase(it);
  }
  return {offset, end - start};
}

// What is parked in [start, end) is about to be replaced or unmapped in the stub; its memory can be
// released once that is acknowledged.
void MemoryManager::evict_parked_locked(GuestAddr start, GuestAddr end,
                                        std::vector<MemoryRange>& released) {
  if (!parked_.overlaps(start, end)) return;
  parked_.split(start);
  parked_.split(end);
  for (auto it = parked_.first_ending_after(start);
       it != parked_.end() && it->second.start < end;) {
    const Parked& parked = it->second;
    uint64_t length = parked.end - parked.start;
    if (parked.used) parked_used_ -= length;
    if (!parked.is_file) released.push_back({parked.offset, length});
    it = parked_.erase(it);
  }
}

// How much of what lies below `start` (or from `end` on) is to be mapped together with a new
// mapping: nothing may be there, not even parked.
uint64_t MemoryManager::ahead_below_locked(GuestAddr start) const {
  if (start <= min_addr_ + kAhead || start > mmap_base_) return 0;
  GuestAddr low = start - kAhead;
  auto vma = vmas_.first_ending_after(low);
  if (vma != vmas_.end() && vma->second.start < start) {
    while (std::next(vma) != vmas_.end() && std::next(vma)->second.start < start) ++vma;
    low = std::min(start, vma->second.end);
  }
  for (auto it = parked_.first_ending_after(low); it != parked_.end() && it->second.start < start;
       ++it)
    low = std::min(start, it->second.end);
  return start - low;
}

uint64_t MemoryManager::ahead_above_locked(const Vma& vma, GuestAddr end) const {
  GuestAddr high = std::min(end + kAhead, max_addr_);
  auto next = vmas_.first_ending_after(end);
  bool heap = vma.start >= brk_start_ && end == page_up(brk_end_);
  if (next != vmas_.end() && next->second.start < high) {
    const Vma& beside = next->second;
    // A reservation that is opened bit by bit.
    bool reserved = beside.start <= end && beside.prot == 0 && !beside.file && !beside.is_shared();
    high = reserved ? std::min(high, beside.end) : std::max(end, beside.start);
    if (!reserved && !heap) return 0;
  } else if (!heap) {
    return 0;
  }
  auto pma = pmas_.first_ending_after(end);
  if (pma != pmas_.end()) high = std::min(high, std::max(end, pma->second.start));
  auto parked = parked_.first_ending_after(end);
  if (parked != parked_.end()) high = std::min(high, std::max(end, parked->second.start));
  return high - end;
}

// Maps memory ahead that nobody has used.
void MemoryManager::map_parked_locked(GuestAddr start, GuestAddr end, uint64_t offset) {
  parked_.insert({start, end, offset, false});
  platform::MapOrder order;
  order.addr = start;
  order.length = end - start;
  order.offset = offset;
  order.is_awaited = false;
  space_->map(order);
}

// Backs [start, end) of `vma` and maps what is beside it ahead.
Result<void> MemoryManager::back_anonymous_locked(const Vma& vma, GuestAddr start, GuestAddr end,
                                                  Wait wait) {
  Pma pma;
  pma.start = start;
  pma.end = end;
  pma.prot = static_cast<uint8_t>(vma.prot);
  MemoryRange range = unpark_locked(start, end);
  if (!range.empty()) {
    pma.offset = range.offset;
    space_->protect(start, end - start, vma.prot);
    insert_pma_locked(pma);
    return {};
  }
  uint64_t below = 0;
  uint64_t above = 0;
  if (end - start <= kParkLimit && !near_mapping_limit()) {
    above = ahead_above_locked(vma, end);
    if (above == 0 && vma.start == start && !vma.has(kVmaGrowsDown))
      below = ahead_below_locked(start);
  }
  range = TRY(allocate_private_locked(start - below, below + (end - start) + above));
  pma.offset = range.offset + below;
  post_map_locked(vma, pma, wait);
  insert_pma_locked(pma);
  if (below != 0)
    map_parked_locked(start - below, start, range.offset);
  else if (above != 0)
    map_parked_locked(end, end + above, pma.offset + (end - start));
  return {};
}

void MemoryManager::map_ahead_locked(GuestAddr start, uint64_t length) {
  const GuestAddr end = start + length;
  if (start < min_addr_ || end > max_addr_ || !is_free_locked(start, length) ||
      parked_.overlaps(start, end))
    return;
  Result<MemoryRange> range = allocate_private_locked(start, length);
  if (range.ok()) map_parked_locked(start, end, range.value().offset);
}

// With the rest of a new program, so that its first brk(2) and its interpreter's first mappings
// need the mapper no more.
void MemoryManager::map_heap_ahead() {
  WriteLock lock(mappings_);
  map_ahead_locked(brk_start_, kAhead);
}

void MemoryManager::map_libraries_ahead(GuestAddr interpreter) {
  WriteLock lock(mappings_);
  map_ahead_locked(interpreter - kLibrariesAhead, kLibrariesAhead);
}

void MemoryManager::drop_parked_pages() {
  WriteLock lock(mappings_);
  // Also of what no mapping has used: a guest that tampers may have touched it.
  for (auto& [start, parked] : parked_) {
    if (parked.is_file) continue;
    MemoryRange range{parked.offset, parked.end - parked.start};
    if (!memory_.next_data(range).empty()) memory_.discard(range);
    parked.used = false;
  }
  parked_used_ = 0;
}

uint64_t MemoryManager::parked_bytes() const {
  uint64_t bytes = 0;
  ReadLock lock(mappings_);
  DataRuns runs(memory_);
  for (const auto& [start, parked] : parked_) {
    if (parked.is_file) continue;
    MemoryRange rest{parked.offset, parked.end - parked.start};
    while (!rest.empty()) {
      MemoryRange data = runs.next(rest);
      if (data.empty()) break;
      bytes += data.length;
      rest = {data.end(), rest.end() - data.end()};
    }
  }
  return bytes;
}

}  // namespace caisson
