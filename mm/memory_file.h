// MemoryFile: the one host file that holds all guest memory, and the allocator of its pages.
//
// One per sandbox, owned by the runtime. The file is sparse and very large: offsets are cheap,
// pages cost at the first touch. It is mapped whole and shared into the kernel process; stubs map
// parts of it. Every allocated byte range carries a reference count (a process' private memory has
// 1; shared mappings and memory filesystems share ranges). A range that loses its last reference is
// punched out of the file at once, so callers release only what no stub can reach any more
// (platform::AddressSpace::defer). Linux: mm/shmem.c.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <vector>

#include "base/mutex.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "mm/memory_range.h"

namespace caisson {

inline constexpr uint64_t kPageSize = 4096;
inline constexpr uint64_t kHugePageSize = 2 * 1024 * 1024;

constexpr uint64_t page_down(uint64_t value) { return value & ~(kPageSize - 1); }
constexpr bool is_page_aligned(uint64_t value) { return (value & (kPageSize - 1)) == 0; }
// Wraps to 0 for the last page of the 64-bit range: check for it where a guest gave the value.
constexpr uint64_t page_up(uint64_t value) { return page_down(value + kPageSize - 1); }

class MemoryFile {
 public:
  // Sets the size of the (empty) file `rw` to `size`, a multiple of 2 MiB, and maps it.
  static Result<std::unique_ptr<MemoryFile>> create(UniqueFd rw, uint64_t size);
  ~MemoryFile();
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  int fd() const { return fd_.get(); }
  uint64_t size() const { return size_; }
  // Where the kernel process sees `offset`. Touch it only through mm/safe_copy.h: the memory limit
  // shows as SIGBUS.
  std::byte* at(uint64_t offset) const { return base_ + offset; }

  // A zero-filled range with one reference. Ranges of 2 MiB and more begin at an offset that is
  // congruent to `align_like` modulo 2 MiB, so that huge pages fit. ENOMEM: no offsets left.
  Result<MemoryRange> allocate(uint64_t length, uint64_t align_like = 0);
  // As allocate(), for offsets that are handed out in parts later: take() each part before its use;
  // give the rest back with unreserve().
  Result<MemoryRange> reserve(uint64_t length, uint64_t align_like = 0);
  // True: some pages of it are in memory already.
  bool take(MemoryRange part);
  void unreserve(MemoryRange rest);
  void add_reference(MemoryRange range);
  // The part of `range` around the byte `at` in it that has one reference; empty if that has more.
  MemoryRange exclusive_part(MemoryRange range, uint64_t at) const;
  // How many references the byte at `offset` has, which is in use, and up to where that holds.
  struct References {
    uint64_t end;
    uint32_t count;
  };
  References references_at(uint64_t offset) const;
  // Drops one reference of every byte of the ranges; what has none left is punched and free.
  void release(std::span<const MemoryRange> ranges);
  void release(MemoryRange range) { release(std::span(&range, 1)); }
  // Replaces the content by zeros and gives the pages back; the reference counts stay.
  void discard(MemoryRange range);

  // As discard(), but keeps the pages of small ranges.
  void clear(MemoryRange range);

  // Pages that are there although their owner has not touched them: they were when it got them, and
  // still hold zeros. Calls note(MemoryRange) for each run of them in `range`, by offset.
  template <typename F>
  void find_untouched(MemoryRange range, F&& note) {
    for (uint64_t at = range.offset; at < range.end();) {
      MemoryRange found = next_untouched({at, range.end() - at});
      if (found.empty()) return;
      note(found);
      at = found.end();
    }
  }

  // Where the host's file system sets no limit (a memfd): from now on populate(), write() and what
  // copies with it keep to this one. Touches are counted afterwards (kernel/memory_watch.h). Once,
  // before start.
  void limit_to(uint64_t bytes) { limit_ = bytes; }
  bool has_limit_of_host() const;
  // 0: the host sets one.
  uint64_t limit() const { return limit_; }
  // Whether the pages that the range lacks are within limit().
  bool has_room(MemoryRange range) const;

  // Gives every page of the range memory now. ENOMEM at the memory limit.
  Result<void> populate(MemoryRange range);

  // The same with huge pages, as far as the range has whole ones that are not there at all; as much
  // as works.
  void populate_huge(MemoryRange range);

  // Whether memory of that length should be mapped with huge pages: not where memory gets scarce.
  bool has_room_for_huge(uint64_t length) const;
  // One huge page behind the range, if the host can.
  void collapse(MemoryRange range);

  // The next run of pages that hold data in `range`; empty when there is none.
  MemoryRange next_data(MemoryRange range) const;
  // Copies host-side without mapping the target (Linux writes whole pages without zeroing them
  // first). EMEMORYLIMIT at the memory limit.
  Result<void> copy_pages(uint64_t target_offset, uint64_t source_offset, uint64_t length);
  // The same into a new range; `is_warm` as take() said. Needs no look at what is there.
  Result<void> copy_to_new(uint64_t target_offset, uint64_t source_offset, uint64_t length,
                           bool is_warm);
  // The same for the data of a small part of a large run, without looking for the run's end.
  Result<void> copy_part(uint64_t target_offset, MemoryRange source, bool is_warm);
  // Copies to an address of at(); returns the bytes that were not copied, as safe_copy() does.
  size_t copy_out(std::byte* to, const std::byte* from, size_t length);
  // Writes kernel memory into the file.
  Result<void> write(uint64_t offset, std::span<const std::byte> data);

  // Pages put by for small copies of the kernel's at the memory limit, which must not fail after
  // the rest of a call is done. Once before start.
  Result<void> keep_reserve(uint64_t length);
  // Gives a part of it back to the host, for whoever touches next. False: nothing is left.
  bool spend_reserve() EXCLUDES(mutex_);
  bool is_short() const { return reserve_spent_.load(std::memory_order_relaxed) != 0; }
  // Puts by again what was spent. False: there is no memory yet.
  bool refill_reserve() EXCLUDES(mutex_);

  // Gives up the free pages that are kept warm.
  void trim();
  uint64_t allocated_bytes() const;
  // All that release() ever made free.
  uint64_t released_bytes() const { return released_.load(std::memory_order_relaxed); }
  // Bytes in use by pages, as the host counts them.
  uint64_t resident_bytes() const;

 private:
  struct Extent {
    uint64_t end;
    uint32_t references;
  };
  MemoryFile(UniqueFd fd, std::byte* base, std::byte* huge_base, uint64_t size);

  Result<MemoryRange> allocate_locked(uint64_t length, uint64_t align_like) REQUIRES(mutex_);
  void add_free_locked(uint64_t offset, uint64_t end) REQUIRES(mutex_);
  void take_free_locked(uint64_t free_offset, uint64_t offset, uint64_t end) REQUIRES(mutex_);
  void split_locked(uint64_t offset) REQUIRES(mutex_);
  // Drops references; appends what became free.
  void drop_locked(MemoryRange range, std::vector<MemoryRange>& freed) REQUIRES(mutex_);
  MemoryRange next_untouched(MemoryRange range) EXCLUDES(mutex_);
  bool is_zero_page(uint64_t offset) const;
  bool note_warm_taken_locked(uint64_t offset, uint64_t end) REQUIRES(mutex_);
  // Makes the pages of a range read as zeros; appends what stayed in memory to `warm`.
  void clean(MemoryRange range, std::vector<MemoryRange>& warm);
  void punch(MemoryRange range);

  const UniqueFd fd_;
  std::byte* const base_;
  std::byte* const huge_base_;  // the same, where a touch brings huge pages; null: none to be had
  const uint64_t size_;
  uint64_t limit_ = 0;  // set once before start
  mutable Mutex<LockRank::kMemoryFile> mutex_;
  std::map<uint64_t, Extent> extents_ GUARDED_BY(mutex_);                    // allocated, by offset
  std::map<uint64_t, uint64_t> free_ GUARDED_BY(mutex_);                     // free: offset to end
  std::set<std::pair<uint64_t, uint64_t>> free_by_size_ GUARDED_BY(mutex_);  // (length, offset)
  uint64_t allocated_ GUARDED_BY(mutex_) = 0;
  std::atomic<uint64_t> released_ = 0;
  RangeSet warm_ GUARDED_BY(mutex_);        // zeroed pages that nobody uses
  std::atomic<uint64_t> warm_bytes_ = 0;    // of warm_, and what is about to join it
  MemoryRange reserve_;                     // set once before start
  std::atomic<uint64_t> reserve_spent_{0};  // from its beginning; written with mutex_ held
  // Of what is in use, the pages that their owner found there and may not have touched.
  RangeSet untouched_ GUARDED_BY(mutex_);
};

// Looks for the data of many ranges, one after the other, and asks the host once for what it has
// told about their neighbours already. To be thrown away soon: pages come and go.
class DataRuns {
 public:
  explicit DataRuns(const MemoryFile& memory) : memory_(memory) {}
  // As MemoryFile::next_data().
  MemoryRange next(MemoryRange range);

 private:
  const MemoryFile& memory_;
  std::map<uint64_t, uint64_t> data_;  // offset to end
  MemoryRange hole_;                   // the last one
};

}  // namespace caisson
