// mmap(2), munmap(2), brk(2) and the stack of exec. Linux: mm/mmap.c, mm/vma.c.
#include <linux/mman.h>

#include <algorithm>

#include "host/memory.h"
#include "mm/memory_manager.h"
#include "mm/shared_memory.h"

namespace caisson {

namespace {

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif
constexpr int kMapTypeMask = 0x0f;
// Flags that MAP_SHARED_VALIDATE accepts (Linux: LEGACY_MAP_MASK).
constexpr int kValidatedFlags = MAP_SHARED | MAP_PRIVATE | MAP_FIXED | MAP_FIXED_NOREPLACE |
                                MAP_ANONYMOUS | MAP_DENYWRITE | MAP_EXECUTABLE | MAP_UNINITIALIZED |
                                MAP_GROWSDOWN | MAP_LOCKED | MAP_NORESERVE | MAP_POPULATE |
                                MAP_NONBLOCK | MAP_STACK | MAP_HUGETLB | MAP_32BIT;
// Anonymous memory beyond this is backed piece by piece when it is touched.
constexpr uint64_t kEagerBackLimit = uint64_t{64} << 30;
constexpr uint64_t kStackGuardGap = 256 * kPageSize;
constexpr uint64_t kInitialStack = 256 * 1024;

// Linux's heuristic overcommit refuses a single request beyond all memory.
uint64_t overcommit_limit() {
  static const uint64_t limit = host::physical_memory();
  return limit;
}

struct MapType {
  bool shared = false;
  bool anonymous = false;
};

// The flag checks of do_mmap() that need no address.
Result<MapType> check_type(const MmapRequest& request) {
  MapType type;
  type.anonymous = (request.flags & MAP_ANONYMOUS) != 0 || !request.file;
  int kind = request.flags & kMapTypeMask;
  if (!type.anonymous) {
    switch (kind) {
      case MAP_SHARED_VALIDATE:
        if ((request.flags & ~(kValidatedFlags | MAP_SHARED_VALIDATE)) != 0)
          return Errno(EOPNOTSUPP);
        [[fallthrough]];
      case MAP_SHARED:
        if ((request.prot & PROT_WRITE) != 0 && !request.file_writable) return Errno(EACCES);
        type.shared = true;
        [[fallthrough]];
      case MAP_PRIVATE:
        if (!request.file_readable) return Errno(EACCES);
        if (request.no_exec && (request.prot & PROT_EXEC) != 0) return Errno(EPERM);
        if ((request.flags & MAP_GROWSDOWN) != 0) return Errno(EINVAL);
        return type;
      default:
        return Errno(EINVAL);
    }
  }
  switch (kind) {
    case MAP_SHARED:
      if ((request.flags & MAP_GROWSDOWN) != 0) return Errno(EINVAL);
      type.shared = true;
      return type;
    case MAP_PRIVATE:
      return type;
    default:
      return Errno(EINVAL);  // MAP_DROPPABLE too: only the vDSO's random state uses it
  }
}

uint32_t vma_flags(const MmapRequest& request, bool shared) {
  uint32_t flags = 0;
  if (shared) flags |= kVmaShared;
  if ((request.flags & MAP_GROWSDOWN) != 0) flags |= kVmaGrowsDown;
  if ((request.flags & MAP_NORESERVE) != 0) flags |= kVmaNoReserve;
  if ((request.flags & MAP_LOCKED) != 0) flags |= kVmaLocked;
  if ((request.flags & MAP_STACK) != 0) flags |= kVmaNoHugePage;  // Linux: since 6.7
  return flags;
}

}  // namespace

// Emulators and the like map text that they will not run as it is; they have no interpreter of ours
// do it.
bool MemoryManager::is_patchable_locked(const MmapRequest& request) const {
  if (request.origin != MmapOrigin::kCall) return true;
  auto caller = vmas_.find(request.caller);
  return caller != vmas_.end() && caller->second.has(kVmaInterpreter);
}

Result<GuestAddr> MemoryManager::mmap(const MmapRequest& request) {
  // The order of the checks is Linux's.
  if (!is_page_aligned(request.offset)) return Errno(EINVAL);
  if (request.length == 0) return Errno(EINVAL);
  int flags = request.flags;
  if ((flags & MAP_FIXED_NOREPLACE) != 0) flags |= MAP_FIXED;
  uint64_t length = page_up(request.length);
  if (length == 0) return Errno(ENOMEM);
  if ((flags & MAP_HUGETLB) != 0) return Errno(request.file ? EINVAL : ENOMEM);  // none reserved
  if (length > max_addr_) return Errno(ENOMEM);
  if ((flags & MAP_FIXED) != 0) {
    if (request.addr > max_addr_ - length) return Errno(ENOMEM);
    if (!is_page_aligned(request.addr)) return Errno(EINVAL);
    if (request.addr < min_addr_) return Errno(EPERM);
  }
  if (request.file) {
    const bool is_device = request.file->kind() == Mappable::Kind::kZero;
    const uint64_t most = is_device ? UINT64_MAX : static_cast<uint64_t>(INT64_MAX);
    if (request.offset > most - length) return Errno(EOVERFLOW);
  }
  Result<MapType> checked = check_type(request);
  if (!checked.ok()) {
    // Linux looks for the place first.
    ReadLock lock(mappings_);
    if ((flags & MAP_FIXED_NOREPLACE) != 0 && vmas_.overlaps(request.addr, request.addr + length))
      return Errno(EEXIST);
    return checked.error();
  }
  MapType type = checked.value();
  if ((flags & MAP_LOCKED) != 0 && !request.may_lock) {
    ReadLock lock(mappings_);
    if (limits_.locked == 0) return Errno(EPERM);
  }
  int prot = request.prot & (PROT_READ | PROT_WRITE | PROT_EXEC);

  Vma vma;
  vma.prot = prot;
  vma.flags = vma_flags(request, type.shared);
  if (!type.anonymous) {
    vma.offset = request.offset;
    MappingRegistry* registry = request.file->registry();
    bool may_write = request.file_writable;
    if (type.shared && registry != nullptr && registry->is_sealed()) {
      if ((prot & PROT_WRITE) != 0) return Errno(EPERM);
      may_write = false;
    }
    vma.file = TRY(MappedFile::create(request.file, *this, type.shared && may_write));
    if (!type.shared && registry != nullptr && (request.file_is_written || registry->has_writers()))
      vma.flags |= kVmaCopyByPage;
    if (type.shared && !may_write) vma.max_prot &= ~PROT_WRITE;
    if (request.no_exec) vma.max_prot &= ~PROT_EXEC;
    // Host files are never written through a mapping.
    if (type.shared && vma.file->kind() == Mappable::Kind::kHostFile) {
      if ((prot & PROT_WRITE) != 0) return Errno(EACCES);
      vma.max_prot &= ~PROT_WRITE;
    }
  }
  bool is_zero = vma.file && vma.file->kind() == Mappable::Kind::kZero;
  if (type.shared && (type.anonymous || is_zero)) {
    vma.file =
        TRY(MappedFile::create(TRY(SharedMemory::create(memory_, length)).or_null(), *this, true));
    vma.offset = 0;
  }
  bool plain = !vma.file || is_zero;  // private memory without content
  if (!type.shared && (prot & PROT_WRITE) != 0 && (flags & MAP_NORESERVE) == 0 &&
      length > overcommit_limit())
    return Errno(ENOMEM);

  const bool populates = (flags & (MAP_POPULATE | MAP_NONBLOCK)) == MAP_POPULATE;
  const bool at_touch = request.origin == MmapOrigin::kCall && !populates && !vma.has(kVmaLocked) &&
                        is_backed_at_touch(vma);
  if (at_touch && vma.file->kind() == Mappable::Kind::kHostFile) (void)TRY(vma.file->host_file());
  PreparedCopy copy;
  if (!at_touch && !plain && is_copied_whole(vma, length))
    copy = TRY(prepare_copy(Ref<Mappable>::from(vma.file.ref()), vma.offset, 0, length));

  Garbage garbage(*this);
  WriteLock lock(mappings_);
  auto fail = [&](Errno error) {
    if (!copy.range.empty()) garbage.ranges.push_back(copy.range);
    if (vma.file) garbage.files.push_back(vma.file.release());
    return error;
  };
  GuestAddr addr = request.addr;
  uint64_t replaced = 0;
  if ((flags & MAP_FIXED) == 0) {
    uint64_t alignment = type.anonymous && length % kHugePageSize == 0 ? kHugePageSize : kPageSize;
    Result<GuestAddr> found = find_free_locked(addr, length, flags, alignment);
    if (!found.ok()) return fail(found.error());
    addr = found.value();
  } else {
    for (auto it = vmas_.first_ending_after(addr);
         it != vmas_.end() && it->second.start < addr + length; ++it)
      replaced += std::min(it->second.end, addr + length) - std::max(it->second.start, addr);
    if ((flags & MAP_FIXED_NOREPLACE) != 0 && replaced != 0) return fail(Errno(EEXIST));
  }
  vma.start = addr;
  vma.end = addr + length;
  if ((lock_future_ & MCL_FUTURE) != 0)
    vma.flags |= kVmaLocked | ((lock_future_ & MCL_ONFAULT) != 0 ? kVmaLockOnFault : 0);
  if (vma.has(kVmaLocked) && !request.may_lock &&
      locked_bytes_locked(0, max_addr_) + length > limits_.locked)
    return fail(Errno(EAGAIN));
  if (near_mapping_limit()) return fail(Errno(ENOMEM));
  if (length > replaced && !fits_limits_locked(length - replaced, vma.is_data()))
    return fail(Errno(ENOMEM));
  if (replaced != 0) remove_locked(addr, addr + length, garbage);

  if (vma.file && is_patchable_locked(request)) vma.flags |= kVmaPatchable;
  if (request.origin == MmapOrigin::kExecInterpreter) vma.flags |= kVmaInterpreter;
  const Vma& made = insert_vma_locked(std::move(vma))->second;
  Result<void> backed;
  if (!copy.range.empty()) {
    copy.start = addr;
    copy.end = addr + length;
    install_copy_locked(made, copy, garbage);
  } else if (!at_touch && !(plain && length > kEagerBackLimit)) {
    backed = back_locked(made, addr, addr + length, Wait::kAtTouch);
  }
  if (!backed.ok()) {
    remove_locked(addr, addr + length, garbage);
    return backed.error();
  }
  if (populates || made.has(kVmaLocked)) populate_locked(addr, addr + length);
  return addr;
}

// Gives the pages of accessible memory now; stops quietly at the memory limit, as Linux.
void MemoryManager::populate_locked(GuestAddr start, GuestAddr end) {
  back_files_locked(start, end, false);
  for (auto it = pmas_.first_ending_after(start); it != pmas_.end() && it->second.start < end;
       ++it) {
    const Pma& pma = it->second;
    if (!pma.in_memory_file() || pma.prot == 0) continue;
    GuestAddr low = std::max(start, pma.start);
    GuestAddr high = std::min(end, pma.end);
    if (!memory_.populate({pma.offset + (low - pma.start), high - low}).ok()) return;
  }
}

Result<void> MemoryManager::munmap(GuestAddr addr, uint64_t length) {
  if (!is_page_aligned(addr) || addr > max_addr_ || length > max_addr_ - addr) return Errno(EINVAL);
  length = page_up(length);
  if (length == 0) return Errno(EINVAL);
  Garbage garbage(*this);
  WriteLock lock(mappings_);
  // A hole in the middle makes one mapping more.
  auto it = vmas_.find(addr);
  if (it != vmas_.end() && it->second.start < addr && it->second.end > addr + length &&
      near_mapping_limit())
    return Errno(ENOMEM);
  remove_locked(addr, addr + length, garbage);
  return {};
}

Result<Ref<Mappable>> MemoryManager::detach(GuestAddr addr) {
  if (!is_page_aligned(addr)) return Errno(EINVAL);
  Garbage garbage(*this);
  WriteLock lock(mappings_);
  // The first part of an attachment that lies where it would, had it been mapped at `addr`; then
  // all parts of the same one within its size.
  RefOrNull<Mappable> file;
  GuestAddr end = max_addr_;
  for (auto it = vmas_.first_ending_after(addr); it != vmas_.end() && it->second.start < end;) {
    const Vma& vma = it->second;
    bool fits = vma.file && vma.start >= addr && vma.start - addr == vma.offset &&
                (file ? vma.file.ref() == file : vma.file->is_attachment());
    if (!fits) {
      ++it;
      continue;
    }
    if (!file) {
      file = vma.file.ref();
      end = addr + std::min(max_addr_ - addr, page_up(file->size()));
    }
    GuestAddr stop = vma.end;
    remove_locked(vma.start, stop, garbage);
    it = vmas_.first_ending_after(stop);
  }
  if (!file) return Errno(EINVAL);
  return Ref<Mappable>::from(std::move(file));
}

GuestAddr MemoryManager::brk(GuestAddr addr, bool executable) {
  Garbage garbage(*this);
  WriteLock lock(mappings_);
  if (addr < brk_start_ || addr >= max_addr_) return brk_end_;
  uint64_t program_data = program_.data_end - program_.data_start;
  if (limits_.data != kNoLimit &&
      addr - brk_start_ > limits_.data - std::min(limits_.data, program_data))
    return brk_end_;
  GuestAddr old_top = page_up(brk_end_);
  GuestAddr new_top = page_up(addr);
  if (new_top < old_top) {
    remove_locked(new_top, old_top, garbage);
  } else if (new_top > old_top) {
    // One page more must be free, and the guard gap of a stack.
    uint64_t added = new_top - old_top;
    if (near_mapping_limit() || !is_free_locked(old_top, added + kPageSize) ||
        !fits_limits_locked(added, true) || added > overcommit_limit())
      return brk_end_;
    if ((lock_future_ & MCL_FUTURE) != 0 &&
        locked_bytes_locked(0, max_addr_) + added > limits_.locked)
      return brk_end_;
    Vma vma;
    vma.start = old_top;
    vma.end = new_top;
    vma.prot = PROT_READ | PROT_WRITE | (executable ? PROT_EXEC : 0);
    if ((lock_future_ & MCL_FUTURE) != 0) vma.flags |= kVmaLocked;
    GuestAddr old_end = brk_end_;
    brk_end_ = addr;
    const Vma& made = insert_vma_locked(std::move(vma))->second;
    if (!back_locked(made, old_top, new_top, Wait::kAtTouch).ok()) {
      remove_locked(old_top, new_top, garbage);
      brk_end_ = old_end;
      return brk_end_;
    }
    if (made.has(kVmaLocked)) populate_locked(old_top, new_top);
  }
  brk_end_ = addr;
  return brk_end_;
}

Result<GuestAddr> MemoryManager::make_stack(bool executable) {
  Garbage garbage(*this);
  WriteLock lock(mappings_);
  Vma vma;
  vma.end = stack_top_;
  vma.start = stack_top_ - std::max(page_up(std::min(kInitialStack, limits_.stack)), kPageSize);
  vma.prot = PROT_READ | PROT_WRITE | (executable ? PROT_EXEC : 0);
  vma.flags = kVmaGrowsDown;
  if (!is_free_locked(vma.start - kStackGuardGap, vma.end - vma.start + kStackGuardGap) ||
      !fits_limits_locked(vma.length(), false))
    return Errno(ENOMEM);
  const Vma& made = insert_vma_locked(std::move(vma))->second;
  TRY(back_locked(made, made.start, made.end, Wait::kAtTouch));
  return stack_top_;
}

}  // namespace caisson
