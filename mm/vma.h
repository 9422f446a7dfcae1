// Vma and Pma: the two interval maps of one address space.
//
// A Vma is what Linux would show in /proc/PID/maps: protection, flags, file. A Pma says which bytes
// of the memory file or of a host file stand behind a part of one Vma right now, and so what the
// stub has mapped there. Every Pma lies inside one Vma and repeats its protection (without
// write where a private copy must be made first), so that an
// access by the kernel needs one look-up only. Both are guarded by the lock of their MemoryManager.
#pragma once

#include <cstdint>
#include <iterator>
#include <map>

#include "abi/user_ptr.h"
#include "base/ref.h"
#include "mm/mapped_file.h"

namespace caisson {

inline constexpr int kProtRead = 1;
inline constexpr int kProtWrite = 2;
inline constexpr int kProtExec = 4;

// Vma::flags.
inline constexpr uint32_t kVmaShared = 1u << 0;
inline constexpr uint32_t kVmaGrowsDown = 1u << 1;
inline constexpr uint32_t kVmaNoReserve = 1u << 2;
inline constexpr uint32_t kVmaLocked = 1u << 3;
inline constexpr uint32_t kVmaDontFork = 1u << 4;
inline constexpr uint32_t kVmaWipeOnFork = 1u << 5;
inline constexpr uint32_t kVmaDontDump = 1u << 6;
inline constexpr uint32_t kVmaHugePage = 1u << 7;
inline constexpr uint32_t kVmaNoHugePage = 1u << 8;
inline constexpr uint32_t kVmaSequential = 1u << 9;
inline constexpr uint32_t kVmaRandom = 1u << 10;
inline constexpr uint32_t kVmaMergeable = 1u << 11;
inline constexpr uint32_t kVmaLockOnFault = 1u << 12;
// Private pages are copied one by one, so that the others show what is written to the file.
inline constexpr uint32_t kVmaCopyByPage = 1u << 13;
// What runs here runs as it is in the file: nobody else reads and translates it
// (kernel/call_patcher.h).
inline constexpr uint32_t kVmaPatchable = 1u << 14;
// Text of the interpreter that exec mapped; what it maps is patchable too.
inline constexpr uint32_t kVmaInterpreter = 1u << 15;

struct Vma {
  GuestAddr start = 0;
  GuestAddr end = 0;
  int prot = 0;      // PROT_*
  int max_prot = 7;  // what mprotect may set
  uint32_t flags = 0;
  MappedFile file;
  uint64_t offset = 0;  // of `start` in the file
  std::string name;     // PR_SET_VMA_ANON_NAME

  uint64_t length() const { return end - start; }
  bool has(uint32_t flag) const { return (flags & flag) != 0; }
  bool is_shared() const { return has(kVmaShared); }
  bool is_data() const { return (prot & kProtWrite) != 0 && !has(kVmaShared | kVmaGrowsDown); }
  uint64_t file_offset(GuestAddr addr) const { return offset + (addr - start); }
  // Can `next`, which begins where this ends, become part of this?
  bool can_merge(const Vma& next) const;
};

inline constexpr uint64_t kNoSpare = ~uint64_t{0};

struct Pma {
  enum class Kind : uint8_t {
    kPrivate,   // memory-file range of this address space alone
    kShared,    // memory-file range that others may map too; this mapping holds a reference
    kHostFile,  // read-only pages of the Vma's file
  };
  GuestAddr start = 0;
  GuestAddr end = 0;
  uint64_t offset = 0;  // of `start`, in the memory file or the host file
  Kind kind = Kind::kPrivate;
  uint8_t prot = 0;
  bool read_only = false;           // mapped through a descriptor that can't write
  bool is_patched = false;          // kHostFile: the file's patched text is mapped
  bool is_broken = false;           // was shared by a fork and has been written since
  uint64_t spare = kNoSpare;        // where copies of shared private memory go; reserved
  uint64_t shared_by = 0;           // which fork of this address space made it is_cow()
  const std::byte* view = nullptr;  // kernel address of `start`; null: not looked up yet

  uint64_t length() const { return end - start; }
  // Private memory that a fork has left to others too: to be copied, or taken over, before a write.
  bool is_cow() const { return kind == Kind::kPrivate && read_only; }
  bool in_memory_file() const { return kind != Kind::kHostFile; }
  MemoryRange range() const { return {offset, length()}; }
};

// Memory that the stub has mapped without protection where no Pma is (memory_parking.cc).
struct Parked {
  GuestAddr start = 0;
  GuestAddr end = 0;
  uint64_t offset = 0;   // in the memory file
  bool used = false;     // may hold a former mapping's pages
  bool is_file = false;  // a host file's: only the place is kept, until something else is mapped
};

// Non-overlapping intervals [start, end), by address. T has start, end, offset and the like; how a
// part is cut off is told by trim_front(T&, GuestAddr).
template <typename T>
class IntervalMap {
  using Map = std::map<GuestAddr, T>;

 public:
  using iterator = typename Map::iterator;
  using const_iterator = typename Map::const_iterator;

  bool empty() const { return map_.empty(); }
  size_t size() const { return map_.size(); }
  iterator begin() { return map_.begin(); }
  iterator end() { return map_.end(); }
  const_iterator begin() const { return map_.begin(); }
  const_iterator end() const { return map_.end(); }

  // The interval that holds `addr`, or end().
  iterator find(GuestAddr addr) {
    auto it = first_ending_after(addr);
    return it != map_.end() && it->second.start <= addr ? it : map_.end();
  }
  const_iterator find(GuestAddr addr) const { return const_cast<IntervalMap*>(this)->find(addr); }
  // The first interval whose end is above `addr`: holds it or lies above it.
  iterator first_ending_after(GuestAddr addr) {
    auto it = map_.upper_bound(addr);
    if (it != map_.begin()) {
      auto before = std::prev(it);
      if (before->second.end > addr) return before;
    }
    return it;
  }
  const_iterator first_ending_after(GuestAddr addr) const {
    return const_cast<IntervalMap*>(this)->first_ending_after(addr);
  }
  bool overlaps(GuestAddr start, GuestAddr end) const {
    auto it = first_ending_after(start);
    return it != map_.end() && it->second.start < end;
  }
  // The range must be free.
  iterator insert(T value) {
    GuestAddr start = value.start;
    return map_.emplace(start, std::move(value)).first;
  }
  iterator erase(iterator it) { return map_.erase(it); }
  // Makes `addr` a boundary; returns the first interval at or above it.
  iterator split(GuestAddr addr) {
    auto it = first_ending_after(addr);
    if (it == map_.end() || it->second.start >= addr) return it;
    T upper = it->second;
    it->second.end = addr;
    trim_front(upper, addr);
    return map_.emplace_hint(std::next(it), addr, std::move(upper));
  }

 private:
  Map map_;
};

void trim_front(Vma& vma, GuestAddr addr);
void trim_front(Pma& pma, GuestAddr addr);
void trim_front(Parked& parked, GuestAddr addr);

using VmaSet = IntervalMap<Vma>;
using PmaSet = IntervalMap<Pma>;

}  // namespace caisson
