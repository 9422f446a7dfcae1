#include "fs/tmpfs/page_store.h"

#include <algorithm>

#include "mm/safe_copy.h"

namespace caisson {
namespace {
constexpr uint64_t kSmallBlock = 64 * 1024;
constexpr uint64_t kLargeBlock = kHugePageSize;

MemoryRange pages_of(MemoryRange range) {
  return {page_down(range.offset), page_up(range.end()) - page_down(range.offset)};
}
}  // namespace

PageStore::~PageStore() { remove(0, UINT64_MAX); }

MemoryRange PageStore::find_locked(uint64_t offset) const {
  auto it = blocks_.upper_bound(offset);
  if (it == blocks_.begin()) return {};
  --it;
  uint64_t within = offset - it->first;
  if (within >= it->second.length) return {};
  return MemoryRange{it->second.offset + within, it->second.length - within};
}

MemoryRange PageStore::find(uint64_t offset) const {
  MutexLock lock(mu_);
  return find_locked(offset);
}

Result<MemoryRange> PageStore::find_or_make(uint64_t offset) {
  MutexLock lock(mu_);
  return find_or_make_locked(offset);
}

Result<MemoryRange> PageStore::find_or_make_locked(uint64_t offset) {
  MemoryRange found = find_locked(offset);
  if (!found.empty()) return found;
  const uint64_t unit = offset < kLargeBlock ? kSmallBlock : kLargeBlock;
  uint64_t begin = offset & ~(unit - 1);
  uint64_t end = begin + unit;
  // Between the neighbours: a hole may have been punched into a block.
  auto after = blocks_.upper_bound(offset);
  if (after != blocks_.end()) end = std::min(end, after->first);
  if (after != blocks_.begin()) {
    auto before = std::prev(after);
    begin = std::max(begin, before->first + before->second.length);
  }
  TRY(tmpfs_->charge(end - begin));
  Result<MemoryRange> made = tmpfs_->memory().allocate(end - begin, begin);
  if (!made.ok()) {
    tmpfs_->uncharge(end - begin);
    return made.error();
  }
  blocks_.emplace(begin, made.value());
  bytes_ += made.value().length;
  return find_locked(offset);
}

uint64_t PageStore::next(uint64_t offset, uint64_t end, bool hole) const {
  MutexLock lock(mu_);
  while (offset < end) {
    MemoryRange here = find_locked(offset);
    if (here.empty() == hole) return offset;
    if (!here.empty()) {
      offset += here.length;
      continue;
    }
    auto after = blocks_.upper_bound(offset);
    if (after == blocks_.end()) return end;
    offset = after->first;
  }
  return end;
}

void PageStore::zero_locked(uint64_t from, uint64_t to) {
  while (from < to) {
    MemoryRange here = find_locked(from);
    if (here.empty()) return;
    uint64_t length = std::min(here.length, to - from);
    safe_zero(tmpfs_->memory().at(here.offset), length);
    from += length;
  }
}

void PageStore::remove(uint64_t offset, uint64_t end) {
  MemoryFile& memory = tmpfs_->memory();
  std::vector<MemoryRange> gone;
  uint64_t freed = 0;
  {
    MutexLock lock(mu_);
    // Parts of pages become zeros, whole ones go.
    uint64_t first = offset > UINT64_MAX - kPageSize ? UINT64_MAX : page_up(offset);
    uint64_t last = page_down(end);
    if (end == UINT64_MAX) last = UINT64_MAX;
    if (first > last) {
      zero_locked(offset, end);
      return;
    }
    zero_locked(offset, std::min(first, end));
    if (end != UINT64_MAX) zero_locked(last, end);

    auto it = blocks_.upper_bound(first);
    if (it != blocks_.begin()) --it;
    while (it != blocks_.end() && it->first < last) {
      uint64_t begin = it->first;
      MemoryRange range = it->second;
      uint64_t block_end = begin + range.length;
      uint64_t cut_begin = std::max(begin, first);
      uint64_t cut_end = std::min(block_end, last);
      if (cut_begin >= cut_end) {
        ++it;
        continue;
      }
      it = blocks_.erase(it);
      if (cut_begin > begin) blocks_.emplace(begin, MemoryRange{range.offset, cut_begin - begin});
      if (cut_end < block_end)
        blocks_.emplace(cut_end,
                        MemoryRange{range.offset + (cut_end - begin), block_end - cut_end});
      gone.push_back(MemoryRange{range.offset + (cut_begin - begin), cut_end - cut_begin});
      freed += cut_end - cut_begin;
    }
    bytes_ -= freed;
  }
  // Mappings hold references of their own, so what is punched here is reached by no stub.
  if (!gone.empty()) memory.release(gone);
  tmpfs_->uncharge(freed);
}

uint64_t PageStore::bytes() const {
  MutexLock lock(mu_);
  return bytes_;
}

void PageStore::set_path(std::string path) {
  MutexLock lock(mu_);
  path_ = std::move(path);
}

// What is at `offset`, at most `length` bytes, its pages with a reference that the caller releases;
// empty in a hole. Where no other lock keeps a truncation away.
MemoryRange PageStore::pin(uint64_t offset, uint64_t length) {
  MutexLock lock(mu_);
  MemoryRange here = find_locked(offset);
  here.length = std::min(here.length, length);
  if (!here.empty()) tmpfs_->memory().add_reference(pages_of(here));
  return here;
}

Result<size_t> PageStore::read_at(uint64_t offset, std::span<std::byte> out) {
  uint64_t size = this->size();
  if (offset >= size) return 0;
  size_t total = std::min<uint64_t>(out.size(), size - offset);
  size_t done = 0;
  while (done < total) {
    size_t piece = total - done;
    size_t missed;
    MemoryRange here = pin(offset + done, piece);
    if (here.empty()) {
      piece = std::min<uint64_t>(piece, next(offset + done, size, false) - (offset + done));
      missed = safe_zero(&out[done], piece);
    } else {
      piece = here.length;
      missed = safe_copy(&out[done], tmpfs_->memory().at(here.offset), piece);
      tmpfs_->memory().release(pages_of(here));
    }
    if (missed != 0) return Errno(EIO);
    done += piece;
  }
  return done;
}

MappedFileInfo PageStore::info() const {
  MappedFileInfo info;
  info.device_major = device_major(tmpfs_->device());
  info.device_minor = device_minor(tmpfs_->device());
  info.inode = ino_;
  MutexLock lock(mu_);
  info.path = path_;
  return info;
}

Result<MemoryRange> PageStore::memory_range(uint64_t offset, uint64_t length) {
  // With the lock held until the reference is taken: a truncation may free it otherwise.
  MutexLock lock(mu_);
  MemoryRange range = TRY(find_or_make_locked(offset));
  range.length = std::min(range.length, length);
  tmpfs_->memory().add_reference(range);
  return range;
}

Result<void> PageStore::punch_hole(uint64_t offset, uint64_t length) {
  if (!is_page_aligned(offset) || !is_page_aligned(length)) return Errno(EINVAL);
  // The pages stay where mappings see them; only their content goes.
  uint64_t end = std::min(offset + length, page_up(size()));
  while (offset < end) {
    MemoryRange here = pin(offset, end - offset);
    if (here.empty()) {
      offset = next(offset, end, false);
      continue;
    }
    tmpfs_->memory().discard(here);
    tmpfs_->memory().release(here);
    offset += here.length;
  }
  return {};
}

}  // namespace caisson
