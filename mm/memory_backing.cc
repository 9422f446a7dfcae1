// What stands behind a mapping: allocation, private copies of file pages, faults, stack growth.
// Linux: mm/memory.c (do_fault, do_wp_page), mm/mmap.c (expand_downwards).
#include <linux/mman.h>

#include <algorithm>
#include <memory>

#include "abi/signal.h"
#include "mm/memory_manager.h"

namespace caisson {

namespace {

constexpr uint64_t kCarveChunk = 64 * 1024 * 1024;
constexpr uint64_t kHeapCarveChunk = 16 * 1024 * 1024;
constexpr uint64_t kDirectAllocation = kHugePageSize;  // aligned, for huge pages
// Unbacked anonymous memory is backed this much at a time when it is touched.
constexpr uint64_t kBackChunk = kHugePageSize;
// A write to private file pages copies this much at a time.
constexpr uint64_t kCopyChunk = 64 * 1024;
constexpr uint64_t kStackGuardGap = 256 * kPageSize;
constexpr uint64_t kStackStepMax = 1024 * 1024;
constexpr int kMaxAttempts = 64;
// Mappings on either side of one that are backed with it.
constexpr int kMostJoined = 8;

FaultOutcome signal_outcome(int signo, int code) {
  return {FaultOutcome::Kind::kSignal, signo, code};
}

bool copies_by_page(const Vma& vma) {
  if (vma.has(kVmaCopyByPage)) return true;
  MappingRegistry* registry = vma.file->registry();
  return registry != nullptr && registry->has_writers();
}

bool has_content(const Vma& vma) { return vma.file && vma.file->kind() != Mappable::Kind::kZero; }

bool needs_copy_to_write(const Vma& vma) { return has_content(vma) && !vma.is_shared(); }

}  // namespace

// `is_warm` as MemoryFile::take().
Result<MemoryRange> MemoryManager::allocate_private_locked(GuestAddr start, uint64_t length,
                                                           bool* is_warm) {
  if (length >= kDirectAllocation) return memory_.allocate(length, start);
  bool heap = brk_start_ != 0 && start >= brk_start_ && start <= page_up(brk_end_);
  MemoryRange& carve = heap ? heap_carve_ : carve_;
  if (carve.length < length) {
    MemoryRange fresh = TRY(memory_.reserve(heap ? kHeapCarveChunk : kCarveChunk));
    memory_.unreserve(carve);
    carve = fresh;
  }
  carve.length -= length;
  MemoryRange taken{heap ? carve.offset : carve.end(), length};
  if (heap) carve.offset += length;
  bool warm = memory_.take(taken);
  if (is_warm != nullptr) *is_warm = warm;
  return taken;
}

// Backs what has no pma yet in [start, end), which lies in `vma`. Memory beyond the end of a file
// stays unbacked: a touch of it is SIGBUS. Partial success stays in place.
Result<void> MemoryManager::back_locked(const Vma& vma, GuestAddr start, GuestAddr end, Wait wait) {
  auto it = pmas_.first_ending_after(start);
  while (start < end) {
    GuestAddr gap_end = it == pmas_.end() ? end : std::min(end, it->second.start);
    GuestAddr next = it == pmas_.end() ? end : std::min(end, it->second.end);
    if (start < gap_end) {
      TRY(back_run_locked(vma, start, gap_end, wait));
      it = pmas_.first_ending_after(next);
    } else {
      ++it;
    }
    start = std::max(next, gap_end);
  }
  return {};
}

Result<void> MemoryManager::back_run_locked(const Vma& vma, GuestAddr start, GuestAddr end,
                                            Wait wait) {
  Pma pma;
  pma.prot = static_cast<uint8_t>(vma.prot);
  bool anonymous = !vma.file || (!vma.is_shared() && vma.file->kind() == Mappable::Kind::kZero);
  if (anonymous) {
    if (vma.prot == PROT_NONE) return {};
    return back_anonymous_locked(vma, start, end, wait);
  }
  Mappable& file = *vma.file;
  uint64_t offset = vma.file_offset(start);
  uint64_t file_end = page_up(file.size());
  if (offset >= file_end) return {};
  end = std::min(end, start + (file_end - offset));
  if (!vma.is_shared() && (pma.prot & kProtWrite) != 0)
    pma.prot = static_cast<uint8_t>((pma.prot & ~kProtWrite) | kProtRead);
  if (file.kind() == Mappable::Kind::kHostFile) {
    (void)TRY(file.host_file());
    pma.kind = Pma::Kind::kHostFile;
    pma.start = start;
    pma.end = end;
    pma.offset = offset;
    post_map_locked(vma, pma, wait);
    insert_pma_locked(pma);
    return {};
  }
  pma.kind = Pma::Kind::kShared;
  pma.read_only = !vma.is_shared() || (vma.max_prot & kProtWrite) == 0;
  while (start < end) {
    MemoryRange range = TRY(file.memory_range(offset, end - start));
    if (range.empty()) return Errno(EFAULT);
    pma.start = start;
    pma.end = start + range.length;
    pma.offset = range.offset;
    post_map_locked(vma, pma, wait);
    insert_pma_locked(pma);
    start += range.length;
    offset += range.length;
  }
  return {};
}

// Reads the file with no lock held. The range is shorter than asked for at the end of the file.
Result<MemoryManager::PreparedCopy> MemoryManager::prepare_copy(Ref<Mappable> file, uint64_t offset,
                                                                GuestAddr start, GuestAddr end) {
  PreparedCopy copy{start, end, file.or_null(), offset, {}};
  uint64_t size = file->size();
  if (offset >= size) return copy;
  uint64_t bytes = std::min(end - start, size - offset);
  copy.range = TRY(memory_.allocate(page_up(bytes), start));
  auto fail = [&](Errno error) {
    memory_.release(copy.range);
    return error;
  };
  if (file->kind() == Mappable::Kind::kMemory) {
    for (uint64_t done = 0; done < copy.range.length;) {
      Result<MemoryRange> source = file->memory_range(offset + done, copy.range.length - done);
      if (!source.ok() || source.value().empty()) break;
      MemoryRange rest = source.value();
      Result<void> copied;
      while (!rest.empty() && copied.ok()) {
        MemoryRange data = memory_.next_data(rest);
        if (data.empty()) break;
        uint64_t at = done + (data.offset - source.value().offset);
        copied = memory_.copy_pages(copy.range.offset + at, data.offset, data.length);
        rest = {data.end(), rest.end() - data.end()};
      }
      memory_.release(source.value());
      if (!copied.ok()) return fail(copied.error());
      done += source.value().length;
    }
    return copy;
  }
  std::unique_ptr<std::byte[]> bounce;
  for (uint64_t done = 0; done < bytes;) {
    uint64_t length = bytes - done;
    const std::byte* view = file->kernel_view(offset + done, &length);
    if (view != nullptr) {
      Result<void> written = memory_.write(copy.range.offset + done, {view, length});
      if (written.ok()) {
        done += length;
        continue;
      }
      if (written.error() != Errno(EFAULT)) return fail(written.error());
    }
    if (!bounce) bounce.reset(new std::byte[kCopyChunk]);
    length = std::min(bytes - done, kCopyChunk);
    Result<size_t> read = file->read_at(offset + done, {bounce.get(), length});
    if (!read.ok()) return fail(read.error());
    if (read.value() == 0) break;  // the file became shorter: zeros, as Linux's last page
    Result<void> written = memory_.write(copy.range.offset + done, {bounce.get(), read.value()});
    if (!written.ok()) return fail(written.error());
    done += read.value();
  }
  return copy;
}

// Puts the copy behind every page of its range that is still without one. `vma` may have changed
// since the copy was made: what does not fit any more is given back.
void MemoryManager::install_copy_locked(const Vma& vma, PreparedCopy& copy, Garbage& garbage) {
  MemoryRange unused = copy.range;
  copy.range = {};
  if (unused.empty()) return;
  GuestAddr copy_end = copy.start + unused.length;
  bool fits = vma.file.ref() == copy.file && !vma.is_shared() && copy.start < vma.end &&
              vma.start < copy_end &&
              vma.offset - vma.start == copy.offset - copy.start;  // wraps alike on both sides
  if (!fits) {
    garbage.ranges.push_back(unused);
    return;
  }
  uint64_t base = unused.offset;
  GuestAddr start = std::max(copy.start, vma.start);
  GuestAddr end = std::min(copy_end, vma.end);
  if (copy.start < start) garbage.ranges.push_back({base, start - copy.start});
  if (end < copy_end) garbage.ranges.push_back({base + (end - copy.start), copy_end - end});
  while (start < end) {
    auto it = pmas_.first_ending_after(start);
    GuestAddr next = end;
    if (it != pmas_.end() && it->second.start < end) {
      const Pma& there = it->second;
      if (there.kind == Pma::Kind::kPrivate && there.start <= start) {
        next = std::min(end, there.end);
        garbage.ranges.push_back({base + (start - copy.start), next - start});
        start = next;
        continue;
      }
      next = std::min(end, there.start <= start ? there.end : there.start);
    }
    pmas_.split(start);
    pmas_.split(next);
    drop_pmas_locked(start, next, garbage, Unmap::kNoOrder);
    Pma pma;
    pma.start = start;
    pma.end = next;
    pma.offset = base + (start - copy.start);
    pma.prot = static_cast<uint8_t>(vma.prot);
    post_map_locked(vma, pma);
    insert_pma_locked(pma);
    start = next;
  }
}

bool MemoryManager::is_backed_at_touch(const Vma& vma) {
  return has_content(vma) && (!vma.is_shared() || vma.file->kind() == Mappable::Kind::kHostFile);
}

bool MemoryManager::is_copied_whole(const Vma& vma, uint64_t length) {
  return (vma.prot & kProtWrite) != 0 && length <= kWholeCopyLimit && needs_copy_to_write(vma) &&
         !copies_by_page(vma);
}

// Backs the mapping at `it`, and those of files that join it if nothing stands behind them yet, as
// the segments of a library do: the mapper is woken once for all. Lists what is to be copied.
Result<void> MemoryManager::back_around_locked(VmaSet::iterator it,
                                               std::vector<PreparedCopy>& wanted) {
  auto back = [&](const Vma& vma) REQUIRES(mappings_) -> Result<void> {
    if (vma.prot == PROT_NONE) return {};
    if (!is_copied_whole(vma, vma.length()))
      return back_locked(vma, vma.start, vma.end, Wait::kNow);
    if (vma.offset < vma.file->size())
      wanted.push_back({vma.start, vma.end, vma.file.ref(), vma.offset, {}});
    return {};
  };
  auto joins = [this](const Vma& low, const Vma& high, const Vma& other) REQUIRES(mappings_) {
    return low.end == high.start && is_backed_at_touch(other) &&
           !pmas_.overlaps(other.start, other.end);
  };
  TRY(back(it->second));
  // The others gain something, but nothing depends on them.
  auto below = it;
  for (int left = kMostJoined; left > 0 && below != vmas_.begin(); --left) {
    const Vma& high = below->second;
    --below;
    if (!joins(below->second, high, below->second)) break;
    (void)back(below->second).ok();
  }
  // Data is the last segment; what is above it now will be replaced.
  auto above = it;
  for (int left = kMostJoined; left > 0 && !is_copied_whole(above->second, above->second.length());
       --left) {
    const Vma& low = above->second;
    ++above;
    if (above == vmas_.end() || !joins(low, above->second, above->second)) break;
    (void)back(above->second).ok();
  }
  return {};
}

// What a touch of files in [start, end) would do.
void MemoryManager::back_files_locked(GuestAddr start, GuestAddr end, bool closed_too) {
  for (auto it = vmas_.first_ending_after(start); it != vmas_.end() && it->second.start < end;
       ++it) {
    const Vma& vma = it->second;
    if ((vma.prot == PROT_NONE && !closed_too) || !is_backed_at_touch(vma)) continue;
    (void)back_locked(vma, std::max(start, vma.start), std::min(end, vma.end), Wait::kAtTouch).ok();
  }
}

// Lists the parts of private file mappings in [start, end) that have no copy yet.
bool MemoryManager::find_copies_locked(GuestAddr start, GuestAddr end,
                                       std::vector<PreparedCopy>& wanted) const {
  for (auto it = vmas_.first_ending_after(start); it != vmas_.end() && it->second.start < end;
       ++it) {
    const Vma& vma = it->second;
    if (!needs_copy_to_write(vma) || copies_by_page(vma)) continue;
    GuestAddr at = std::max(start, vma.start);
    GuestAddr limit = std::min(end, vma.end);
    while (at < limit) {
      auto pma = pmas_.first_ending_after(at);
      if (pma == pmas_.end() || pma->second.start >= limit) break;  // untouched
      if (pma->second.kind == Pma::Kind::kPrivate) {
        at = std::min(limit, pma->second.end);
        continue;
      }
      at = std::max(at, pma->second.start);
      GuestAddr stop = limit;
      for (; pma != pmas_.end() && pma->second.start < limit; ++pma) {
        if (pma->second.kind != Pma::Kind::kPrivate) continue;
        stop = pma->second.start;
        break;
      }
      wanted.push_back({at, stop, vma.file.ref(), vma.file_offset(at), {}});
      at = stop;
    }
  }
  return !wanted.empty();
}

bool MemoryManager::grow_stack_locked(GuestAddr addr) {
  auto it = vmas_.first_ending_after(addr);
  if (it == vmas_.end() || !it->second.has(kVmaGrowsDown) || addr < min_addr_) return false;
  Vma vma = it->second;
  if (vma.start <= addr) return false;
  GuestAddr low = min_addr_;
  if (it != vmas_.begin()) {
    const Vma& previous = std::prev(it)->second;
    low = previous.end;
    if (!previous.has(kVmaGrowsDown) && previous.prot != PROT_NONE) low += kStackGuardGap;
  }
  GuestAddr start = page_down(addr);
  if (start < low || vma.end - start > limits_.stack) return false;
  // Ahead of need: doubles, up to a step.
  uint64_t ahead = std::min(vma.end - start, kStackStepMax);
  GuestAddr wanted = start - std::min(ahead, start);
  if (wanted >= low && vma.end - wanted <= page_down(limits_.stack)) start = wanted;
  uint64_t added = vma.start - start;
  if (!fits_limits_locked(added, false)) return false;
  if (vma.has(kVmaLocked) && locked_bytes_locked(0, max_addr_) + added > limits_.locked)
    return false;
  account_locked(vma, false);
  vmas_.erase(it);
  vma.offset -= vma.start - start;
  vma.start = start;
  account_locked(vma, true);
  it = vmas_.insert(std::move(vma));
  ++generation_;
  return back_locked(it->second, it->second.start, it->second.start + added, Wait::kNow).ok();
}

// Brings about that `access` of `addr` works, as a page fault would. With `repost`, the stub's
// mapping is ordered again if everything is in place already: the stub was behind, or its guest
// tampered with it.
FaultOutcome MemoryManager::make_accessible(GuestAddr addr, Access access, bool forced,
                                            bool repost) {
  for (int attempt = 0; attempt < kMaxAttempts; ++attempt) {
    std::vector<PreparedCopy> wanted;
    {
      Garbage garbage(*this);
      WriteLock lock(mappings_);
      auto it = vmas_.find(addr);
      if (it == vmas_.end()) {
        if (!grow_stack_locked(addr)) return signal_outcome(SIGSEGV, SEGV_MAPERR);
        it = vmas_.find(addr);
      }
      const Vma& vma = it->second;
      int prot = forced ? vma.max_prot | vma.prot : vma.prot;
      bool allowed = access == Access::kWrite     ? (prot & kProtWrite) != 0
                     : access == Access::kExecute ? (prot & kProtExec) != 0
                                                  : prot != PROT_NONE;
      if (!allowed) return signal_outcome(SIGSEGV, SEGV_ACCERR);
      bool copies = access == Access::kWrite && needs_copy_to_write(vma);
      auto pma = pmas_.find(addr);
      bool backed = pma != pmas_.end();
      if (backed && (!copies || pma->second.kind == Pma::Kind::kPrivate)) {
        if (access == Access::kWrite && pma->second.is_cow()) {
          if (is_unsettled_locked(pma->second)) return {};  // the access comes again
          if (!break_cow_locked(vma, addr, garbage).ok())
            return {FaultOutcome::Kind::kOutOfMemory, 0, 0};
          return {};
        }
        if (repost) post_map_locked(vma, pma->second, Wait::kNow, true);
        return {};
      }
      if (!backed && vma.file && vma.file->kind() != Mappable::Kind::kZero &&
          vma.file_offset(page_down(addr)) >= vma.file->size())
        return signal_outcome(SIGBUS, BUS_ADRERR);
      const bool joins = !backed && is_backed_at_touch(vma) && vma.prot != PROT_NONE &&
                         !pmas_.overlaps(vma.start, vma.end);
      if (joins) {
        if (!back_around_locked(it, wanted).ok()) return {FaultOutcome::Kind::kOutOfMemory, 0, 0};
        repost = false;
        if (wanted.empty()) continue;
      } else if (!copies) {
        GuestAddr start = std::max(vma.start, addr - addr % kBackChunk);
        GuestAddr end = std::min(vma.end, start - start % kBackChunk + kBackChunk);
        if (forced && vma.prot == PROT_NONE) return signal_outcome(SIGSEGV, SEGV_ACCERR);
        if (!back_locked(vma, start, end, Wait::kNow).ok())
          return {FaultOutcome::Kind::kOutOfMemory, 0, 0};
        repost = false;
        continue;
      } else {
        uint64_t size = copies_by_page(vma) ? kPageSize : kCopyChunk;
        GuestAddr chunk = addr - addr % size;
        GuestAddr start = std::max(vma.start, chunk);
        GuestAddr end = std::min(vma.end, chunk + size);
        wanted.push_back({start, end, vma.file.ref(), vma.file_offset(start), {}});
      }
    }
    Errno error(0);
    for (PreparedCopy& piece : wanted) {
      Result<PreparedCopy> copy =
          prepare_copy(Ref<Mappable>::from(piece.file), piece.offset, piece.start, piece.end);
      if (copy.ok())
        piece = std::move(copy).value();
      else if (piece.start <= addr && addr < piece.end)
        error = copy.error();
    }
    {
      Garbage garbage(*this);
      WriteLock lock(mappings_);
      for (PreparedCopy& copy : wanted) {
        auto it = vmas_.find(copy.start);
        if (it != vmas_.end())
          install_copy_locked(it->second, copy, garbage);
        else if (!copy.range.empty())
          garbage.ranges.push_back(copy.range);
      }
    }
    if (error == Errno(kEMEMORYLIMIT)) return {FaultOutcome::Kind::kOutOfMemory, 0, 0};
    if (error != Errno(0)) return signal_outcome(SIGBUS, BUS_ADRERR);  // the file can't be read
    repost = false;
  }
  return {};  // others change it all the time; the access will fault again
}

void MemoryManager::drop_file_pages(const Mappable& file, uint64_t offset, uint64_t end,
                                    bool copies) {
  Garbage garbage(*this);
  WriteLock lock(mappings_);
  for (auto& [start, vma] : vmas_) {
    if (vma.file.ref().get() != &file || end <= vma.offset || offset >= vma.offset + vma.length())
      continue;
    GuestAddr low = vma.start + (std::max(offset, vma.offset) - vma.offset);
    GuestAddr high = vma.start + std::min(end - vma.offset, vma.length());
    pmas_.split(low);
    pmas_.split(high);
    for (auto it = pmas_.first_ending_after(low); it != pmas_.end() && it->second.start < high;) {
      GuestAddr begin = it->second.start;
      GuestAddr stop = it->second.end;
      if (copies || it->second.kind != Pma::Kind::kPrivate)
        drop_pmas_locked(begin, stop, garbage, Unmap::kOrder);
      it = pmas_.first_ending_after(stop);
    }
  }
  ++generation_;
}

FaultOutcome MemoryManager::handle_fault(GuestAddr addr, Access access, int host_signo) {
  if (addr >= max_addr_) return signal_outcome(SIGSEGV, SEGV_MAPERR);
  if (host_signo == SIGBUS) {
    // The host had a page to give and could not: beyond a file's end, or at the memory limit.
    ReadLock lock(mappings_);
    auto pma = pmas_.find(addr);
    if (pma != pmas_.end()) {
      if (pma->second.kind == Pma::Kind::kHostFile) return signal_outcome(SIGBUS, BUS_ADRERR);
      return {FaultOutcome::Kind::kOutOfMemory, 0, 0};
    }
  }
  return make_accessible(addr, access, false, true);
}

}  // namespace caisson
