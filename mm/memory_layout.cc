// Where things go: random layout and the search for free addresses. Linux: arch/x86/mm/mmap.c,
// mm/mmap.c (vm_unmapped_area, stack guard gaps).
#include <linux/mman.h>

#include <algorithm>
#include <bit>

#include "host/memory.h"
#include "mm/memory_manager.h"

namespace caisson {

namespace {

constexpr uint64_t kStackGuardGap = 256 * kPageSize;
constexpr uint64_t kMinStackGap = 128 * 1024 * 1024;
constexpr uint64_t kStackRandom = uint64_t{1} << 34;  // 16 GiB
constexpr uint64_t kMmapRandom = uint64_t{1} << 40;   // 28 bits of pages
constexpr uint64_t kBrkRandom = 0x02000000;

uint64_t random_below(uint64_t limit) {
  uint64_t value = 0;
  host::fill_random(std::as_writable_bytes(std::span(&value, 1)));
  return value % limit;
}

// Gaps of 2^n pages or more, and less than twice that, are of class n.
size_t gap_class(uint64_t length) {
  return static_cast<size_t>(std::bit_width(length / kPageSize)) - 1;
}

// Where the space that a vma claims begins: below a growing one a guard gap stays free.
GuestAddr claimed_start(const Vma& vma) {
  if (!vma.has(kVmaGrowsDown)) return vma.start;
  return vma.start > kStackGuardGap ? vma.start - kStackGuardGap : 0;
}

}  // namespace

void MemoryManager::choose_layout(bool randomize) {
  WriteLock lock(mappings_);
  randomize_ = randomize;
  // Address spaces smaller than Linux's (tests) get as much smaller random parts.
  uint64_t stack_random = std::min(kStackRandom, max_addr_ / 64);
  uint64_t mmap_random = std::min(kMmapRandom, max_addr_ / 64);
  stack_top_ = page_down(max_addr_ - kPageSize - (randomize ? random_below(stack_random) : 0));
  uint64_t gap = std::clamp(limits_.stack, kMinStackGap, max_addr_ / 6 * 5);
  uint64_t pad = kStackGuardGap + (randomize ? stack_random : 0);
  gap = std::min(gap + pad, max_addr_ / 6 * 5);
  mmap_base_ = page_down(max_addr_ - gap - (randomize ? random_below(mmap_random) : 0));
  forget_gaps_locked();
}

GuestAddr MemoryManager::random_program_base() {
  uint64_t mmap_random = std::min(kMmapRandom, max_addr_ / 64);
  // Of Linux's address space, not of ours, which ends earlier: debuggers' users know the place.
  constexpr GuestAddr kLinuxEnd = (uint64_t{1} << 47) - kPageSize;
  const GuestAddr all = max_addr_ > kLinuxEnd / 8 * 7 ? kLinuxEnd : max_addr_;
  return page_down(all / 3 * 2 + (randomize_ ? random_below(mmap_random) : 0));
}

void MemoryManager::set_brk_start(GuestAddr addr) {
  WriteLock lock(mappings_);
  if (randomize_) addr += random_below(std::min(kBrkRandom, max_addr_ / 64));
  brk_start_ = brk_end_ = page_up(addr);
}

bool MemoryManager::is_free_locked(GuestAddr start, uint64_t length) const {
  if (start < min_addr_ || start >= max_addr_ || length > max_addr_ - start) return false;
  auto it = vmas_.first_ending_after(start);
  return it == vmas_.end() || claimed_start(it->second) >= start + length;
}

// [start, end) may be free now.
void MemoryManager::note_gap_locked(GuestAddr start, GuestAddr end) {
  if (end <= start || start >= mmap_base_) return;
  end = std::min(end, mmap_base_);
  const size_t largest = gap_class(end - start);
  for (size_t i = 0; i <= largest && i < kGapClasses; ++i)
    search_tops_[i] = std::max(search_tops_[i], end);
}

// The highest place in [low, mmap_base_); 0 if there is none. Begins where the last search for
// about as much found something.
GuestAddr MemoryManager::top_gap_locked(GuestAddr low, uint64_t length, uint64_t alignment) {
  const size_t size_class = std::min(gap_class(length), kGapClasses - 1);
  const uint64_t least = kPageSize << size_class;
  GuestAddr& top = search_tops_[size_class];
  const GuestAddr begin = std::min(top, mmap_base_);
  GuestAddr new_top = 0;  // below the gaps that later searches for as much need not look at
  GuestAddr gap_end = begin;
  auto it = vmas_.first_ending_after(begin - 1);
  if (it != vmas_.end() && it->second.start < begin)
    gap_end = claimed_start(it->second);  // holds the beginning
  else if (it != vmas_.end())
    gap_end = std::min(gap_end, claimed_start(it->second));
  GuestAddr found = 0;
  for (;;) {
    GuestAddr gap_start = low;
    bool last = it == vmas_.begin();
    if (!last) {
      --it;
      gap_start = std::max(gap_start, it->second.end);
    }
    if (gap_end > gap_start) {
      uint64_t room = gap_end - gap_start;
      if (room >= least && new_top == 0) new_top = gap_end;
      if (room >= length) {
        GuestAddr candidate = gap_end - length;
        candidate -= candidate % alignment;
        if (candidate >= gap_start) {
          found = candidate;
          break;
        }
      }
    }
    if (last || it->second.start <= low) break;
    gap_end = std::min(gap_end, claimed_start(it->second));
  }
  top = new_top != 0 ? new_top : low;
  return found;
}

GuestAddr MemoryManager::bottom_gap_locked(GuestAddr low, GuestAddr high, uint64_t length) {
  GuestAddr at = low;
  for (auto it = vmas_.first_ending_after(low);; ++it) {
    GuestAddr limit = it == vmas_.end() ? high : std::min(high, claimed_start(it->second));
    if (limit >= at && limit - at >= length) return at;
    if (it == vmas_.end() || it->second.end >= high) return 0;
    at = std::max(at, it->second.end);
  }
}

Result<GuestAddr> MemoryManager::find_free_locked(GuestAddr hint, uint64_t length, int flags,
                                                  uint64_t alignment) {
  if (length > max_addr_ - min_addr_) return Errno(ENOMEM);
  if (hint != 0) {
    hint = std::max(page_down(hint), min_addr_);
    if (is_free_locked(hint, length)) return hint;
  }
  if ((flags & MAP_32BIT) != 0) {
    constexpr GuestAddr kLow = 0x40000000;
    constexpr GuestAddr kHigh = 0x80000000;
    GuestAddr addr =
        bottom_gap_locked(std::max(kLow, min_addr_), std::min(kHigh, max_addr_), length);
    if (addr == 0) return Errno(ENOMEM);
    return addr;
  }
  GuestAddr addr = 0;
  if (mmap_base_ > min_addr_) addr = top_gap_locked(min_addr_, length, alignment);
  if (addr == 0) addr = bottom_gap_locked(page_down(max_addr_ / 3), max_addr_, length);
  if (addr == 0) return Errno(ENOMEM);
  return addr;
}

}  // namespace caisson
