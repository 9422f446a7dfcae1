// mprotect(2) and prctl(PR_SET_VMA). Linux: mm/mprotect.c, mm/madvise.c.
#include <linux/mman.h>

#include <algorithm>

#include "mm/memory_manager.h"

namespace caisson {

namespace {
constexpr int kProtSem = 0x8;
}  // namespace

Result<void> MemoryManager::mprotect(GuestAddr addr, uint64_t length, int prot,
                                     bool read_implies_exec) {
  int grows = prot & (PROT_GROWSDOWN | PROT_GROWSUP);
  prot &= ~(PROT_GROWSDOWN | PROT_GROWSUP);
  if (grows == (PROT_GROWSDOWN | PROT_GROWSUP)) return Errno(EINVAL);
  if (!is_page_aligned(addr)) return Errno(EINVAL);
  if (length == 0) return {};
  length = page_up(length);
  if (length == 0 || addr + length < addr) return Errno(ENOMEM);
  if ((prot & ~(PROT_READ | PROT_WRITE | PROT_EXEC | kProtSem)) != 0) return Errno(EINVAL);
  prot &= PROT_READ | PROT_WRITE | PROT_EXEC;
  const int implied = read_implies_exec && (prot & PROT_READ) != 0 ? PROT_EXEC : 0;
  GuestAddr end = addr + length;

  // Private file pages that become writable are copied first, without the lock.
  std::vector<PreparedCopy> copies;
  if ((prot & PROT_WRITE) != 0) {
    std::vector<PreparedCopy> wanted;
    {
      ReadLock lock(mappings_);
      find_copies_locked(addr, end, wanted);
    }
    for (PreparedCopy& piece : wanted) {
      if (piece.end - piece.start > kWholeCopyLimit) continue;  // when it is written
      Result<PreparedCopy> copy =
          prepare_copy(Ref<Mappable>::from(piece.file), piece.offset, piece.start, piece.end);
      if (copy.ok()) copies.push_back(std::move(copy).value());
    }
  }

  Garbage garbage(*this);
  WriteLock lock(mappings_);
  auto next_copy = copies.begin();
  Result<void> result = protect_locked(addr, end, prot, implied, grows);
  for (; next_copy != copies.end(); ++next_copy) {
    auto it = vmas_.find(next_copy->start);
    if (it != vmas_.end() && (it->second.prot & PROT_WRITE) != 0)
      install_copy_locked(it->second, *next_copy, garbage);
    else
      garbage.ranges.push_back(next_copy->range);
  }
  return result;
}

// Goes from vma to vma and stops at the first that can't be changed, as Linux. `implied` is added
// where it is allowed.
Result<void> MemoryManager::protect_locked(GuestAddr addr, GuestAddr end, int prot, int implied,
                                           int grows) {
  auto it = vmas_.first_ending_after(addr);
  if (it == vmas_.end()) return Errno(ENOMEM);
  if (grows == PROT_GROWSDOWN) {
    if (it->second.start >= end) return Errno(ENOMEM);
    if (!it->second.has(kVmaGrowsDown)) return Errno(EINVAL);
    addr = it->second.start;
  } else if (it->second.start > addr) {
    return Errno(ENOMEM);
  } else if (grows == PROT_GROWSUP) {
    return Errno(EINVAL);
  }
  GuestAddr begin = addr;
  Result<void> result;
  while (addr < end) {
    it = vmas_.find(addr);
    if (it == vmas_.end()) {
      result = Errno(ENOMEM);
      break;
    }
    GuestAddr stop = std::min(end, it->second.end);
    const int wanted = prot | (implied & it->second.max_prot);
    if (it->second.prot != wanted) {
      result = protect_vma_locked(it, addr, stop, wanted);
      if (!result.ok()) break;
    }
    addr = stop;
  }
  merge_vmas_locked(begin, end);
  return result;
}

// Changes [addr, stop) of one vma.
Result<void> MemoryManager::protect_vma_locked(VmaSet::iterator it, GuestAddr addr, GuestAddr stop,
                                               int prot) {
  if ((prot & ~it->second.max_prot) != 0) return Errno(EACCES);
  bool splits = it->second.start < addr || it->second.end > stop;
  if (splits && near_mapping_limit()) return Errno(ENOMEM);
  Vma changed = it->second;
  changed.prot = prot;
  if (changed.is_data() && !it->second.is_data() && !fits_limits_locked(0, false))
    return Errno(ENOMEM);
  if (changed.is_data() && !it->second.is_data() && limits_.data != kNoLimit &&
      use_.data + (stop - addr) > limits_.data)
    return Errno(ENOMEM);
  vmas_.split(addr);
  vmas_.split(stop);
  pmas_.split(addr);
  pmas_.split(stop);
  Vma& vma = vmas_.find(addr)->second;
  account_locked(vma, false);
  vma.prot = prot;
  account_locked(vma, true);
  ++generation_;

  // One order for each run of neighbours that get the same protection.
  GuestAddr run_start = 0;
  GuestAddr run_end = 0;
  int run_prot = 0;
  auto post_run = [&] {
    if (run_end > run_start) space_->protect(run_start, run_end - run_start, run_prot);
  };
  for (auto pma = pmas_.first_ending_after(addr); pma != pmas_.end() && pma->second.start < stop;
       ++pma) {
    int effective = prot;
    bool is_own = pma->second.kind == Pma::Kind::kPrivate && !pma->second.is_cow();
    if (!vma.is_shared() && !is_own && (prot & PROT_WRITE) != 0)
      effective = (prot & ~PROT_WRITE) | PROT_READ;
    pma->second.prot = static_cast<uint8_t>(effective);
    if (run_end != pma->second.start || run_prot != effective) {
      post_run();
      run_start = pma->second.start;
      run_prot = effective;
    }
    run_end = pma->second.end;
  }
  post_run();
  if (prot == PROT_NONE || is_backed_at_touch(vma)) return {};
  return back_locked(vma, addr, stop, Wait::kAtTouch);
}

Result<void> MemoryManager::set_anonymous_name(GuestAddr addr, uint64_t length, std::string name) {
  if (!is_page_aligned(addr)) return Errno(EINVAL);
  length = page_up(length);
  GuestAddr end = addr + length;
  if (end < addr) return Errno(EINVAL);
  if (end == addr) return {};
  WriteLock lock(mappings_);
  GuestAddr at = addr;
  bool hole = false;
  while (at < end) {
    auto it = vmas_.first_ending_after(at);
    if (it == vmas_.end() || it->second.start >= end) {
      hole = true;
      break;
    }
    if (it->second.start > at) hole = true;
    at = std::max(at, it->second.start);
    GuestAddr stop = std::min(end, it->second.end);
    if (it->second.file) {
      merge_vmas_locked(addr, end);
      return Errno(EBADF);
    }
    vmas_.split(at);
    vmas_.split(stop);
    pmas_.split(at);
    pmas_.split(stop);
    vmas_.find(at)->second.name = name;
    at = stop;
  }
  ++generation_;
  merge_vmas_locked(addr, end);
  if (hole) return Errno(ENOMEM);
  return {};
}

}  // namespace caisson
