// Copies between the kernel and guest memory, and futex words. Linux: lib/usercopy.c, mm/gup.c,
// kernel/futex/core.c (get_futex_key).
#include <algorithm>
#include <atomic>

#include "mm/memory_manager.h"
#include "mm/safe_copy.h"

namespace caisson {

namespace {
// How often an access may be put right without getting further, while others change the mappings.
constexpr int kMaxStalls = 64;
// Copies up to this may use the reserve, each so often: others take what comes free.
constexpr size_t kSmallCopy = 16 * 1024;
constexpr int kMaxSpent = 4;
}  // namespace

// Where the kernel process sees `addr`, and in *length how far that goes; null if the access is not
// possible right now.
std::byte* MemoryManager::translate_locked(GuestAddr addr, Access access, bool forced,
                                           uint64_t* length) {
  auto it = pmas_.find(addr);
  if (it == pmas_.end()) return nullptr;
  Pma& pma = it->second;
  if (access == Access::kWrite) {
    bool writable =
        forced ? !pma.read_only && pma.kind != Pma::Kind::kHostFile : (pma.prot & kProtWrite) != 0;
    if (!writable && is_unsettled_locked(pma)) {
      // The fork is not over: the child has not begun.
      auto vma = vmas_.find(addr);
      writable = forced || (vma != vmas_.end() && (vma->second.prot & kProtWrite) != 0);
    }
    if (!writable) return nullptr;
  } else if (pma.prot == 0 && !forced) {
    return nullptr;
  }
  uint64_t within = addr - pma.start;
  *length = std::min(*length, pma.length() - within);
  if (pma.in_memory_file()) return memory_.at(pma.offset + within);

  // Several readers may look the view up at once; they find the same.
  std::atomic_ref<const std::byte*> cached(pma.view);
  const std::byte* view = cached.load(std::memory_order_acquire);
  if (view == nullptr) {
    auto vma = vmas_.find(addr);
    if (vma == vmas_.end() || !vma->second.file) return nullptr;
    uint64_t all = pma.length();
    view = vma->second.file->kernel_view(pma.offset, &all);
    if (view != nullptr && all == pma.length()) {
      cached.store(view, std::memory_order_release);
    } else {
      // Only parts of it are contiguous in the kernel process.
      view = vma->second.file->kernel_view(pma.offset + within, length);
      return const_cast<std::byte*>(view);
    }
  }
  return const_cast<std::byte*>(view + within);
}

// Calls copy(pointer, offset, length) -> bytes left for each contiguous piece.
template <typename F>
CopyResult MemoryManager::access_run(GuestAddr addr, size_t length, Access access, bool forced,
                                     F&& copy) {
  size_t done = 0;
  if (length == 0) return {};
  if (addr >= max_addr_ || length > max_addr_ - addr) return {0, Errno(EFAULT)};
  int may_spend = length <= kSmallCopy ? kMaxSpent : 0;
  for (int stalls = 0; stalls < kMaxStalls; ++stalls) {
    size_t before = done;
    {
      ReadLock lock(mappings_);
      while (done < length) {
        uint64_t piece = length - done;
        std::byte* pointer = translate_locked(addr + done, access, forced, &piece);
        if (pointer == nullptr) break;
        size_t left = copy(pointer, done, piece);
        done += piece - left;
        if (left != 0) {
          // Our own file never ends early: it has no page left to give.
          auto pma = pmas_.find(addr + done);
          bool is_ours = pma != pmas_.end() && pma->second.in_memory_file();
          if (is_ours && may_spend-- > 0 && memory_.spend_reserve()) continue;
          return {done, Errno(is_ours ? kEMEMORYLIMIT : EFAULT)};
        }
      }
    }
    if (done == length) return {done, Errno(0)};
    FaultOutcome outcome = make_accessible(addr + done, access, forced, false);
    if (outcome.kind == FaultOutcome::Kind::kOutOfMemory) {
      if (may_spend-- > 0 && memory_.spend_reserve()) continue;
      return {done, Errno(kEMEMORYLIMIT)};
    }
    if (outcome.kind != FaultOutcome::Kind::kHandled) break;
    if (done != before) stalls = 0;
  }
  return {done, Errno(EFAULT)};
}

CopyResult MemoryManager::copy_in(void* to, GuestAddr from, size_t length) {
  auto copy = [to](std::byte* pointer, size_t done, size_t n) {
    return safe_copy(static_cast<std::byte*>(to) + done, pointer, n);
  };
  return access_run(from, length, Access::kRead, false, copy);
}

CopyResult MemoryManager::copy_out(GuestAddr to, const void* from, size_t length) {
  auto copy = [this, from](std::byte* pointer, size_t done, size_t n) {
    return memory_.copy_out(pointer, static_cast<const std::byte*>(from) + done, n);
  };
  return access_run(to, length, Access::kWrite, false, copy);
}

CopyResult MemoryManager::zero_out(GuestAddr to, size_t length) {
  auto zero = [](std::byte* pointer, size_t, size_t n) { return safe_zero(pointer, n); };
  return access_run(to, length, Access::kWrite, false, zero);
}

// A touch by the guest would bring whole huge pages; so does a copy that is worth the look.
void MemoryManager::expect_copy_out(GuestAddr to, uint64_t length) {
  constexpr uint64_t kWorthwhile = 16 * 1024;
  constexpr uint64_t kMask = kHugePageSize - 1;
  if (length < kWorthwhile || !is_guest_range(to, length)) return;
  const GuestAddr end = to + length;
  const GuestAddr last_page = (end - 1) & ~kMask;
  // Copies go upwards, piece after piece.
  if ((to & ~kMask) == last_page && expected_page_.load(std::memory_order_relaxed) == last_page)
    return;
  expected_page_.store(last_page, std::memory_order_relaxed);
  ReadLock lock(mappings_);
  for (auto it = pmas_.first_ending_after(to); it != pmas_.end() && it->second.start < end; ++it) {
    const Pma& pma = it->second;
    const GuestAddr low = std::max(to & ~kMask, pma.start);
    const GuestAddr high = std::min(last_page + kHugePageSize, pma.end);
    if (high - low < kHugePageSize) continue;
    auto vma = vmas_.find(pma.start);
    if (vma == vmas_.end() || !wants_huge_locked(vma->second, pma)) continue;
    memory_.populate_huge({pma.offset + (low - pma.start), high - low});
  }
}

CopyResult MemoryManager::copy_in_forced(void* to, GuestAddr from, size_t length) {
  auto copy = [to](std::byte* pointer, size_t done, size_t n) {
    return safe_copy(static_cast<std::byte*>(to) + done, pointer, n);
  };
  return access_run(from, length, Access::kRead, true, copy);
}

CopyResult MemoryManager::copy_out_forced(GuestAddr to, const void* from, size_t length) {
  auto copy = [from](std::byte* pointer, size_t done, size_t n) {
    return safe_copy(pointer, static_cast<const std::byte*>(from) + done, n);
  };
  return access_run(to, length, Access::kWrite, true, copy);
}

Result<std::string> MemoryManager::copy_in_string(GuestAddr from, size_t max) {
  std::string result;
  char chunk[1024];
  bool found = false;
  while (!found) {
    if (result.size() >= max) return Errno(ENAMETOOLONG);
    GuestAddr at = from + result.size();
    if (at < from || at >= max_addr_) return Errno(EFAULT);
    size_t wanted = std::min({sizeof(chunk), max - result.size(), max_addr_ - at});
    // Stops at the end of each piece: what follows a NUL need not be mapped.
    size_t got = 0;
    auto copy = [&](std::byte* pointer, size_t done, size_t n) -> size_t {
      bool faulted = false;
      got = safe_copy_string(chunk, reinterpret_cast<const char*>(pointer), n, &found, &faulted);
      return faulted ? n - got : 0;
    };
    size_t page_rest = kPageSize - (at & (kPageSize - 1));
    CopyResult copied = access_run(at, std::min(wanted, page_rest), Access::kRead, false, copy);
    if (!found && !copied.ok()) return copied.error;
    result.append(chunk, got);
  }
  result.pop_back();
  return result;
}

template <typename F>
Result<uint32_t> MemoryManager::access_word(GuestAddr addr, Access access, F&& operation) {
  if ((addr & 3) != 0) return Errno(EINVAL);
  uint32_t value = 0;
  auto apply = [&](std::byte* pointer, size_t, size_t n) -> size_t {
    return operation(pointer, &value) ? 0 : n;
  };
  CopyResult result = access_run(addr, sizeof(value), access, false, apply);
  if (!result.ok()) return result.error;
  return value;
}

Result<uint32_t> MemoryManager::load_u32(GuestAddr addr) {
  return access_word(addr, Access::kRead,
                     [](std::byte* word, uint32_t* value) { return safe_load_u32(word, value); });
}

Result<uint32_t> MemoryManager::compare_exchange_u32(GuestAddr addr, uint32_t expected,
                                                     uint32_t desired) {
  return access_word(addr, Access::kWrite, [=](std::byte* word, uint32_t* value) {
    return safe_compare_exchange_u32(word, expected, desired, value);
  });
}

Result<FutexKey> MemoryManager::futex_key(GuestAddr addr, bool shared) {
  if (addr >= max_addr_ || sizeof(uint32_t) > max_addr_ - addr) return Errno(EFAULT);
  if (!shared) return FutexKey{this, addr, nullptr};
  // A shared futex must be readable now; that also says whether a private page or a file holds it.
  uint32_t word;
  CopyResult read = copy_in(&word, addr, sizeof(word));
  if (!read.ok()) return read.error;
  ReadLock lock(mappings_);
  auto it = vmas_.find(addr);
  if (it == vmas_.end()) return Errno(EFAULT);
  const Vma& vma = it->second;
  // A private call never meets a shared one. Linux: FUT_OFF_MMSHARED.
  if (!vma.is_shared() || !vma.file) return FutexKey{this, addr + 2, nullptr};
  return FutexKey{vma.file->identity(), vma.file_offset(addr), vma.file.ref()};
}

}  // namespace caisson
