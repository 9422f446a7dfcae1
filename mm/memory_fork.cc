// fork(2) of an address space, and the end of what it shares. Linux: dup_mmap() in mm/mmap.c,
// do_wp_page() in mm/memory.c.
//
// A small process is copied: that costs less than the faults which sharing brings. Of a larger one
// the memory is shared: both map it from the read-only descriptor, and the one that writes first
// gets a copy of the part, which goes to a spare range of the same shape, so that the parts join
// again. Whoever is left alone with a part takes it over.
#include <algorithm>

#include "mm/memory_manager.h"

namespace caisson {

namespace {

// Private memory this small is copied rather than shared.
constexpr uint64_t kSmall = 64 * 1024;
// A write copies this much; twice as much each time when writes go upwards.
constexpr uint64_t kBreakChunk = 64 * 1024;
constexpr uint64_t kBreakChunkMax = 1024 * 1024;
// Untouched memory of this length is not shared: the first touch stays the host's work.
constexpr uint64_t kHole = 256 * 1024;
// Pages that are there but untouched are left out from this length on.
constexpr uint64_t kUntouched = 16 * 1024;
// Of the stack, around its pointer.
constexpr uint64_t kStackBelow = 16 * 1024;
constexpr uint64_t kStackAbove = 48 * 1024;

uint8_t without_write(uint8_t prot) {
  if ((prot & kProtWrite) == 0) return prot;
  return static_cast<uint8_t>((prot & ~kProtWrite) | kProtRead);
}

// From here on nobody else has it.
void make_own(Pma& pma, const Vma& vma) {
  pma.spare = kNoSpare;
  pma.read_only = false;
  pma.shared_by = 0;
  pma.prot = static_cast<uint8_t>(vma.prot);
}

}  // namespace

// Private memory of the parent that nobody shares yet, and where its data is.
struct MemoryManager::ForkPart {
  GuestAddr start = 0;
  size_t first_run = 0;
  size_t runs = 0;
  bool copy = true;
};

// Says that a fork's orders are carried out.
class MemoryManager::ForkSettled final : public platform::Deferred {
 public:
  explicit ForkSettled(Ref<MemoryManager> mm) : mm_(std::move(mm)) {}
  void run() override { mm_->settle_fork(); }

 private:
  Ref<MemoryManager> mm_;
};

void MemoryManager::settle_fork() {
  WriteLock lock(mappings_);
  ++forks_settled_;
}

void MemoryManager::run_when_settled(std::unique_ptr<platform::Deferred> work) {
  bool settled;
  {
    ReadLock lock(mappings_);
    settled = forks_settled_ == forks_begun_;
  }
  if (settled)
    work->run();
  else
    space_->defer(std::move(work));
}

void MemoryManager::give_back_spare_locked(Pma& pma) {
  if (pma.spare == kNoSpare) return;
  memory_.unreserve({pma.spare, pma.length()});
  pma.spare = kNoSpare;
}

// Copies `data`, ranges of the memory file, as far as they lie in `pma`.
Result<void> MemoryManager::copy_for_fork_locked(MemoryManager& child, const Vma& vma,
                                                 const Pma& pma,
                                                 std::span<const MemoryRange> data) {
  bool is_warm = false;
  MemoryRange target = TRY(child.allocate_private_locked(pma.start, pma.length(), &is_warm));
  Pma copy = pma;
  copy.offset = target.offset;
  copy.view = nullptr;
  Result<void> copied;
  for (const MemoryRange& run : data) {
    uint64_t low = std::max(run.offset, pma.offset);
    uint64_t high = std::min(run.end(), pma.offset + pma.length());
    if (low >= high) continue;
    copied = memory_.copy_to_new(target.offset + (low - pma.offset), low, high - low, is_warm);
    if (!copied.ok()) break;
  }
  auto inserted = child.pmas_.insert(copy);  // after a failure the child's end gives it back
  child.post_map_locked(vma, inserted->second);
  return copied;
}

void MemoryManager::share_for_fork_locked(MemoryManager& child, const Vma& vma, GuestAddr start,
                                          GuestAddr end) {
  pmas_.split(start);
  pmas_.split(end);
  Pma& pma = pmas_.find(start)->second;
  if (!pma.is_cow()) {
    pma.read_only = true;
    pma.is_broken = false;
    pma.shared_by = forks_begun_;
    pma.prot = without_write(pma.prot);
    auto own = vmas_.find(start);
    post_map_locked(own->second, pma);
    ++generation_;
  }
  memory_.add_reference(pma.range());
  Pma copy = pma;
  copy.spare = kNoSpare;
  copy.shared_by = 0;
  child.post_map_locked(vma, child.pmas_.insert(copy)->second);
}

// What both are to have their own of, upwards: the used end of the stack, and what must stay
// writable.
std::vector<std::pair<GuestAddr, GuestAddr>> MemoryManager::own_at_fork_locked(
    const Pma& pma, GuestAddr stack) const {
  std::vector<std::pair<GuestAddr, GuestAddr>> own;
  auto add = [&](GuestAddr low, GuestAddr high) {
    low = std::max(low, pma.start);
    high = std::min(high, pma.end);
    if (low < high) own.emplace_back(low, high);
  };
  // None is longer than two pages.
  auto kept = kept_writable_.lower_bound(pma.start - std::min(pma.start, kPageSize));
  for (; kept != kept_writable_.end() && kept->first < pma.end; ++kept)
    add(page_down(kept->first), page_up(kept->first + kept->second));
  if (stack != 0)
    add(page_down(stack) - std::min(page_down(stack), kStackBelow), page_up(stack + kStackAbove));
  std::sort(own.begin(), own.end());
  return own;
}

// Shares what has data, from the top down: large holes stay each one's own, and so does the rest.
Result<void> MemoryManager::split_for_fork_locked(MemoryManager& child, const Vma& vma,
                                                  const Pma& pma, std::span<const MemoryRange> data,
                                                  GuestAddr stack) {
  struct Piece {
    GuestAddr start;
    GuestAddr end;
    bool shared;
  };
  std::vector<Piece> pieces;
  GuestAddr at = pma.start;
  auto add = [&](GuestAddr end, bool shared) {
    if (end <= at) return;
    if (!pieces.empty() && pieces.back().shared == shared)
      pieces.back().end = end;
    else
      pieces.push_back({at, end, shared});
    at = end;
  };
  const auto own = own_at_fork_locked(pma, stack);
  auto add_shared = [&](GuestAddr end) {
    for (auto [low, high] : own) {
      if (at >= high || end <= low) continue;
      add(std::min(end, std::max(at, low)), true);
      add(std::min(end, high), false);
    }
    add(end, true);
  };
  for (const MemoryRange& run : data) {
    GuestAddr start = pma.start + (run.offset - pma.offset);
    if (start - at >= kHole) add(start, false);
    add_shared(start + run.length);
  }
  if (pma.end - at >= kHole)
    add(pma.end, false);
  else
    add_shared(pma.end);

  const Pma whole = pma;  // the map changes below
  for (size_t i = pieces.size(); i-- > 0;) {
    const Piece& piece = pieces[i];
    if (piece.shared) {
      share_for_fork_locked(child, vma, piece.start, piece.end);
      continue;
    }
    Pma part = whole;
    part.start = piece.start;
    part.end = piece.end;
    part.offset = whole.offset + (piece.start - whole.start);
    TRY(copy_for_fork_locked(child, vma, part, data));
  }
  return {};
}

Result<Ref<MemoryManager>> MemoryManager::fork(GuestAddr stack) {
  Ref<platform::AddressSpace> space = TRY(platform_.new_address_space(trust_domain_));
  Ref<MemoryManager> child =
      adopt_ref(new MemoryManager(platform_, memory_, std::move(space), trust_domain_));
  // The last to go: it may run at once and takes the lock.
  struct Settle {
    ~Settle() {
      if (needed) mm.space_->defer(std::make_unique<ForkSettled>(Ref<MemoryManager>(mm)));
    }
    MemoryManager& mm;
    bool needed = false;
  } settle{*this};
  WriteLock lock(mappings_);
  WriteLockSameRank child_lock(child->mappings_);
  child->limits_ = limits_;
  child->program_ = program_;
  child->brk_start_ = brk_start_;
  child->brk_end_ = brk_end_;
  child->mmap_base_ = mmap_base_;
  child->stack_top_ = stack_top_;
  child->randomize_ = randomize_;
  child->search_tops_ = search_tops_;
  child->fork_copy_limit_ = fork_copy_limit_;

  for (const auto& [start, vma] : vmas_) {
    if (vma.has(kVmaDontFork)) {
      // The gap cache must not miss what the child has free.
      child->forget_gaps_locked();
      continue;
    }
    Vma copy = vma;
    if (vma.file) copy.file = vma.file.for_child(*child);
    copy.flags &= ~(kVmaLocked | kVmaLockOnFault);
    child->account_locked(copy, true);
    child->vmas_.insert(std::move(copy));
  }

  // What there is to copy.
  std::vector<ForkPart> parts;
  std::vector<MemoryRange> runs;
  DataRuns finder(memory_);
  uint64_t resident = 0;
  uint64_t broken = 0;
  auto vma = child->vmas_.begin();
  for (auto& [start, pma] : pmas_) {
    while (vma != child->vmas_.end() && vma->second.end <= start) ++vma;
    if (vma == child->vmas_.end() || vma->second.start > start) continue;
    if (pma.kind != Pma::Kind::kPrivate || pma.is_cow()) continue;
    ForkPart part{start, runs.size(), 0, true};
    uint64_t bytes = 0;
    if (!vma->second.has(kVmaWipeOnFork)) {
      for (MemoryRange rest = pma.range(); !rest.empty();) {
        MemoryRange data = finder.next(rest);
        if (data.empty()) break;
        uint64_t at = data.offset;
        auto add_up_to = [&](uint64_t end) {
          if (end <= at) return;
          runs.push_back({at, end - at});
          bytes += end - at;
        };
        memory_.find_untouched(data, [&](MemoryRange part) {
          if (part.length < kUntouched) return;
          add_up_to(part.offset);
          at = part.end();
        });
        add_up_to(data.end());
        rest = {data.end(), rest.end() - data.end()};
      }
    }
    part.runs = runs.size() - part.first_run;
    resident += bytes;
    if (pma.is_broken) broken += bytes;
    parts.push_back(part);
  }
  if (resident > fork_copy_limit_) {
    uint64_t copied = 0;
    for (ForkPart& part : parts) {
      const Pma& pma = pmas_.find(part.start)->second;
      if (part.runs == 0) continue;
      part.copy = (pma.is_broken && broken <= fork_copy_limit_) ||
                  (pma.length() <= kSmall && (copied += pma.length()) <= fork_copy_limit_);
      if (part.copy || settle.needed) continue;
      settle.needed = true;
      ++forks_begun_;
    }
  }

  // Downwards, so that the child's offsets stay as contiguous as the parent's.
  size_t next_part = parts.size();
  for (auto it = pmas_.end(); it != pmas_.begin();) {
    --it;
    const Pma& pma = it->second;
    auto found = child->vmas_.find(pma.start);
    if (found == child->vmas_.end()) continue;
    const Vma& child_vma = found->second;
    if (pma.kind == Pma::Kind::kPrivate) {
      if (pma.is_cow() && !child_vma.has(kVmaWipeOnFork)) {
        share_for_fork_locked(*child, child_vma, pma.start, pma.end);
        continue;
      }
      if (pma.is_cow()) {
        Pma fresh = pma;
        make_own(fresh, child_vma);
        TRY(copy_for_fork_locked(*child, child_vma, fresh, {}));
        continue;
      }
      const ForkPart& part = parts[--next_part];
      GuestAddr start = part.start;
      auto data = std::span(runs).subspan(part.first_run, part.runs);
      if (part.copy)
        TRY(copy_for_fork_locked(*child, child_vma, pma, data));
      else
        TRY(split_for_fork_locked(*child, child_vma, pma, data, stack));
      it = pmas_.find(start);  // there may be pieces now
      continue;
    }
    if (pma.kind == Pma::Kind::kShared) memory_.add_reference(pma.range());
    child->post_map_locked(child_vma, child->pmas_.insert(pma)->second);
  }
  return child;
}

// What was shared is this address space's own now, at `offset`.
void MemoryManager::replace_broken_locked(PmaSet::iterator it, const Vma& vma, uint64_t offset) {
  Pma own = it->second;
  make_own(own, vma);
  own.offset = offset;
  own.is_broken = true;
  pmas_.erase(it);
  post_map_locked(vma, own);
  insert_pma_locked(own);
}

// Makes the memory around `addr` this address space's own, so that it can be written. Only when the
// forks are settled: a stub that still writes the old pages would lose what it writes.
Result<void> MemoryManager::break_cow_locked(const Vma& vma, GuestAddr addr, Garbage& garbage) {
  auto it = pmas_.find(addr);
  Pma& pma = it->second;
  uint64_t at = pma.offset + (addr - pma.start);
  MemoryRange own = memory_.exclusive_part(pma.range(), page_down(at));
  if (!own.empty()) {
    GuestAddr start = pma.start + (own.offset - pma.offset);
    pmas_.split(start);
    pmas_.split(start + own.length);
    it = pmas_.find(addr);
    give_back_spare_locked(it->second);
    replace_broken_locked(it, vma, it->second.offset);
    return {};
  }

  GuestAddr start = std::max(pma.start, addr - addr % kBreakChunk);
  uint64_t length = kBreakChunk;
  if (it != pmas_.begin()) {
    const Pma& below = std::prev(it)->second;
    if (below.end == start && below.is_broken)
      length = std::clamp(below.length(), kBreakChunk, kBreakChunkMax);
  }
  GuestAddr end = std::min(pma.end, start - start % kBreakChunk + length);
  if (pma.spare == kNoSpare) pma.spare = TRY(memory_.reserve(pma.length(), pma.start)).offset;
  MemoryRange source{pma.offset + (start - pma.start), end - start};
  uint64_t target = pma.spare + (start - pma.start);
  bool is_warm = memory_.take({target, source.length});
  if (Result<void> copied = memory_.copy_part(target, source, is_warm); !copied.ok()) {
    memory_.discard({target, source.length});
    return copied;
  }
  pmas_.split(start);
  pmas_.split(end);
  it = pmas_.find(start);
  garbage.ranges.push_back(it->second.range());
  replace_broken_locked(it, vma, target);
  return {};
}

Result<void> MemoryManager::keep_writable(GuestAddr addr, uint64_t length) {
  for (;;) {
    GuestAddr missing = 0;
    {
      WriteLock lock(mappings_);
      for (GuestAddr at = page_down(addr); at < addr + length && missing == 0; at += kPageSize) {
        auto pma = pmas_.find(at);
        if (pma == pmas_.end() || (pma->second.prot & kProtWrite) == 0) {
          if (pma != pmas_.end() && is_unsettled_locked(pma->second)) return Errno(EAGAIN);
          missing = std::max(at, addr);
        }
      }
      if (missing == 0) {
        kept_writable_.emplace(addr, length);
        space_->await_orders();  // the host's first write there must not fail
        return {};
      }
    }
    FaultOutcome outcome = make_accessible(missing, Access::kWrite, false, false);
    if (outcome.kind == FaultOutcome::Kind::kOutOfMemory) return Errno(kEMEMORYLIMIT);
    if (outcome.kind == FaultOutcome::Kind::kSignal) return Errno(EFAULT);
  }
}

void MemoryManager::stop_keeping_writable(GuestAddr addr) {
  WriteLock lock(mappings_);
  auto it = kept_writable_.find(addr);
  if (it != kept_writable_.end()) kept_writable_.erase(it);
}

bool MemoryManager::kept_is_writable() const {
  ReadLock lock(mappings_);
  for (auto [addr, length] : kept_writable_) {
    for (GuestAddr at = page_down(addr); at < addr + length; at += kPageSize) {
      auto vma = vmas_.find(at);
      if (vma == vmas_.end() || (vma->second.prot & kProtWrite) == 0) return false;
    }
  }
  return true;
}

}  // namespace caisson
