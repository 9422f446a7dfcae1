#include "mm/memory_file.h"

#include <algorithm>

#include "base/check.h"
#include "host/memory.h"
#include "mm/safe_copy.h"

namespace caisson {

namespace {
// Free pages that are kept, in all, and from one run of pages.
constexpr uint64_t kWarmLimit = 4 * 1024 * 1024;
constexpr uint64_t kWarmRunLimit = 512 * 1024;
// What is made ready between two looks at a limit of ours.
constexpr uint64_t kLimitedPiece = 1024 * 1024;
}  // namespace

Result<std::unique_ptr<MemoryFile>> MemoryFile::create(UniqueFd rw, uint64_t size) {
  install_fault_guards();
  if (size == 0 || size % kHugePageSize != 0) return Errno(EINVAL);
  TRY(host::set_file_size(rw.get(), size));
  std::byte* base = TRY(host::map_file(rw.get(), 0, size, host::Sharing::kReadWrite));
  host::exclude_from_dumps(base, size);
  std::byte* huge_base = nullptr;
  if (host::has_huge_pages()) {
    huge_base = host::map_file(rw.get(), 0, size, host::Sharing::kReadWrite).value_or(nullptr);
    if (huge_base != nullptr) {
      host::exclude_from_dumps(huge_base, size);
      host::want_huge_pages(huge_base, size);
    }
  }
  return std::unique_ptr<MemoryFile>(new MemoryFile(std::move(rw), base, huge_base, size));
}

MemoryFile::MemoryFile(UniqueFd fd, std::byte* base, std::byte* huge_base, uint64_t size)
    : fd_(std::move(fd)), base_(base), huge_base_(huge_base), size_(size) {
  MutexLock lock(mutex_);
  add_free_locked(0, size);
}

MemoryFile::~MemoryFile() {
  host::unmap(base_, size_);
  if (huge_base_ != nullptr) host::unmap(huge_base_, size_);
}

void MemoryFile::add_free_locked(uint64_t offset, uint64_t end) {
  auto next = free_.lower_bound(offset);
  if (next != free_.end() && next->first == end) {
    end = next->second;
    free_by_size_.erase({next->second - next->first, next->first});
    next = free_.erase(next);
  }
  if (next != free_.begin()) {
    auto previous = std::prev(next);
    if (previous->second == offset) {
      offset = previous->first;
      free_by_size_.erase({previous->second - previous->first, previous->first});
      free_.erase(previous);
    }
  }
  free_.emplace(offset, end);
  free_by_size_.emplace(end - offset, offset);
}

// Takes [offset, end) out of the free extent that begins at `free_offset`.
void MemoryFile::take_free_locked(uint64_t free_offset, uint64_t offset, uint64_t end) {
  auto it = free_.find(free_offset);
  CHECK(it != free_.end() && offset >= free_offset && end <= it->second);
  uint64_t free_end = it->second;
  free_by_size_.erase({free_end - free_offset, free_offset});
  free_.erase(it);
  if (free_offset < offset) {
    free_.emplace(free_offset, offset);
    free_by_size_.emplace(offset - free_offset, free_offset);
  }
  if (end < free_end) {
    free_.emplace(end, free_end);
    free_by_size_.emplace(free_end - end, end);
  }
  extents_.emplace(offset, Extent{end, 1});
  allocated_ += end - offset;
}

// The pages are now their new owner's. Were there any?
bool MemoryFile::note_warm_taken_locked(uint64_t offset, uint64_t end) {
  const MemoryRange taken{offset, end - offset};
  bool found = false;
  for (MemoryRange part; !(part = warm_.first(taken)).empty(); found = true) {
    warm_.remove(part);
    warm_bytes_ -= part.length;
    untouched_.add(part);
  }
  return found;
}

Result<MemoryRange> MemoryFile::allocate(uint64_t length, uint64_t align_like) {
  MutexLock lock(mutex_);
  MemoryRange range = TRY(allocate_locked(length, align_like));
  note_warm_taken_locked(range.offset, range.end());
  return range;
}

Result<MemoryRange> MemoryFile::reserve(uint64_t length, uint64_t align_like) {
  MutexLock lock(mutex_);
  return allocate_locked(length, align_like);
}

bool MemoryFile::take(MemoryRange part) {
  MutexLock lock(mutex_);
  return note_warm_taken_locked(part.offset, part.end());
}

Result<MemoryRange> MemoryFile::allocate_locked(uint64_t length, uint64_t align_like) {
  if (length == 0 || !is_page_aligned(length) || length > size_) return Errno(ENOMEM);
  uint64_t phase = align_like % kHugePageSize;
  bool align = length >= kHugePageSize;
  // Best fit, lowest offset first: keeps the used part of the file, and with it the kernel process'
  // page tables, small.
  auto it = free_by_size_.lower_bound({length, 0});
  for (int tries = 0; it != free_by_size_.end(); ++tries) {
    auto [size, offset] = *it;
    uint64_t start = offset;
    if (align) {
      start = offset - offset % kHugePageSize + phase;
      if (start < offset) start += kHugePageSize;
    }
    if (start + length <= offset + size) {
      take_free_locked(offset, start, start + length);
      return MemoryRange{start, length};
    }
    // Extents of that much more always fit.
    if (tries == 8)
      it = free_by_size_.lower_bound({std::max(size + 1, length + kHugePageSize), 0});
    else
      ++it;
  }
  return Errno(ENOMEM);
}

// Makes `offset` a boundary of the allocated extents.
void MemoryFile::split_locked(uint64_t offset) {
  auto it = extents_.upper_bound(offset);
  if (it == extents_.begin()) return;
  --it;
  if (it->first == offset || it->second.end <= offset) return;
  Extent upper = it->second;
  it->second.end = offset;
  extents_.emplace_hint(std::next(it), offset, upper);
}

void MemoryFile::add_reference(MemoryRange range) {
  MutexLock lock(mutex_);
  split_locked(range.offset);
  split_locked(range.end());
  uint64_t at = range.offset;
  for (auto it = extents_.lower_bound(range.offset); at < range.end(); ++it) {
    CHECK(it != extents_.end() && it->first == at);
    ++it->second.references;
    at = it->second.end;
  }
}

MemoryRange MemoryFile::exclusive_part(MemoryRange range, uint64_t at) const {
  MutexLock lock(mutex_);
  auto it = extents_.upper_bound(at);
  if (it == extents_.begin()) return {};
  --it;
  if (it->second.end <= at || it->second.references != 1) return {};
  uint64_t low = it->first;
  uint64_t high = it->second.end;
  for (auto left = it; low > range.offset && left != extents_.begin();) {
    --left;
    if (left->second.end != low || left->second.references != 1) break;
    low = left->first;
  }
  for (auto right = std::next(it); high < range.end() && right != extents_.end(); ++right) {
    if (right->first != high || right->second.references != 1) break;
    high = right->second.end;
  }
  low = std::max(low, range.offset);
  return {low, std::min(high, range.end()) - low};
}

MemoryFile::References MemoryFile::references_at(uint64_t offset) const {
  MutexLock lock(mutex_);
  auto it = extents_.upper_bound(offset);
  CHECK(it != extents_.begin());
  --it;
  CHECK(it->second.end > offset);
  return {it->second.end, it->second.references};
}

void MemoryFile::drop_locked(MemoryRange range, std::vector<MemoryRange>& freed) {
  if (range.empty()) return;
  split_locked(range.offset);
  split_locked(range.end());
  uint64_t at = range.offset;
  for (auto it = extents_.lower_bound(range.offset); at < range.end();) {
    CHECK(it != extents_.end() && it->first == at);
    at = it->second.end;
    if (--it->second.references != 0) {
      ++it;
      continue;
    }
    MemoryRange gone{it->first, it->second.end - it->first};
    allocated_ -= gone.length;
    untouched_.remove(gone);
    freed.push_back(gone);
    it = extents_.erase(it);
  }
}

void MemoryFile::release(std::span<const MemoryRange> ranges) {
  std::vector<MemoryRange> freed;
  {
    MutexLock lock(mutex_);
    for (const MemoryRange& range : ranges) drop_locked(range, freed);
  }
  if (freed.empty()) return;
  std::sort(freed.begin(), freed.end(),
            [](const MemoryRange& a, const MemoryRange& b) { return a.offset < b.offset; });
  size_t last = 0;
  for (size_t i = 1; i < freed.size(); ++i) {
    if (freed[i].offset == freed[last].end())
      freed[last].length += freed[i].length;
    else
      freed[++last] = freed[i];
  }
  freed.resize(last + 1);
  // Cleaned before they are free again: the next owner must find zeros.
  std::vector<MemoryRange> warm;
  for (const MemoryRange& range : freed) {
    clean(range, warm);
    released_.fetch_add(range.length, std::memory_order_relaxed);
  }
  MutexLock lock(mutex_);
  for (const MemoryRange& range : freed) add_free_locked(range.offset, range.end());
  for (const MemoryRange& range : warm) warm_.add(range);
}

void MemoryFile::clean(MemoryRange range, std::vector<MemoryRange>& warm) {
  MemoryRange rest = range;
  while (!rest.empty()) {
    MemoryRange data = next_data(rest);
    if (data.empty()) return;
    if (data.length > kWarmRunLimit ||
        warm_bytes_.fetch_add(data.length) + data.length > kWarmLimit) {
      if (data.length <= kWarmRunLimit) warm_bytes_ -= data.length;
      // All the rest at once: a punch costs more than a look for data.
      punch({data.offset, rest.end() - data.offset});
      return;
    }
    if (safe_zero(at(data.offset), data.length) == 0) {
      warm.push_back(data);
    } else {
      warm_bytes_ -= data.length;
      punch(data);
    }
    rest = {data.end(), rest.end() - data.end()};
  }
}

void MemoryFile::trim() {
  // Under the lock, so that nobody is given what is punched.
  MutexLock lock(mutex_);
  warm_.for_each([this](MemoryRange range) {
    punch(range);
    warm_bytes_ -= range.length;
  });
  warm_.clear();
}

Result<void> MemoryFile::keep_reserve(uint64_t length) {
  reserve_ = TRY(allocate(length));
  return populate(reserve_);
}

bool MemoryFile::spend_reserve() {
  constexpr uint64_t kPart = 64 * 1024;
  MutexLock lock(mutex_);
  const uint64_t spent = reserve_spent_.load(std::memory_order_relaxed);
  const uint64_t part = std::min(kPart, reserve_.length - spent);
  if (part == 0) return false;
  punch({reserve_.offset + spent, part});
  reserve_spent_.store(spent + part, std::memory_order_relaxed);
  return true;
}

bool MemoryFile::refill_reserve() {
  MutexLock lock(mutex_);
  const uint64_t spent = reserve_spent_.load(std::memory_order_relaxed);
  if (!host::populate(at(reserve_.offset), spent).ok()) return false;
  reserve_spent_.store(0, std::memory_order_relaxed);
  return true;
}

void MemoryFile::unreserve(MemoryRange range) {
  std::vector<MemoryRange> freed;
  MutexLock lock(mutex_);
  drop_locked(range, freed);
  for (const MemoryRange& gone : freed) add_free_locked(gone.offset, gone.end());
}

void MemoryFile::punch(MemoryRange range) {
  // Must succeed: the pages would leak into the next owner.
  CHECK(host::punch_hole(fd_.get(), range.offset, range.length).ok());
}

void MemoryFile::discard(MemoryRange range) {
  if (range.empty()) return;
  punch(range);
  MutexLock lock(mutex_);
  untouched_.remove(range);
}

void MemoryFile::clear(MemoryRange range) {
  while (!range.empty()) {
    MemoryRange data = next_data(range);
    if (data.empty()) return;
    if (safe_zero(at(data.offset), data.length) != 0) {
      punch(range);
      return;
    }
    {
      MutexLock lock(mutex_);
      untouched_.add(data);
    }
    range = {data.end(), range.end() - data.end()};
  }
}

bool MemoryFile::is_zero_page(uint64_t offset) const {
  uint64_t words[kPageSize / sizeof(uint64_t)];
  if (safe_copy(words, at(offset), kPageSize) != 0) return false;
  return std::all_of(std::begin(words), std::end(words), [](uint64_t word) { return word == 0; });
}

MemoryRange MemoryFile::next_untouched(MemoryRange range) {
  while (!range.empty()) {
    MemoryRange known;
    {
      MutexLock lock(mutex_);
      known = untouched_.first(range);
    }
    if (known.empty()) return {};
    uint64_t start = known.offset;
    while (start < known.end() && !is_zero_page(start)) start += kPageSize;
    uint64_t end = start;
    while (end < known.end() && is_zero_page(end)) end += kPageSize;
    if (start > known.offset) {
      // Touched once is touched for ever.
      MutexLock lock(mutex_);
      untouched_.remove({known.offset, start - known.offset});
    }
    if (end > start) return {start, end - start};
    range = {known.end(), range.end() - known.end()};
  }
  return {};
}

bool MemoryFile::has_limit_of_host() const { return host::free_storage(fd_.get()).has_value(); }

bool MemoryFile::has_room(MemoryRange range) const {
  if (limit_ == 0) return true;
  uint64_t needed = resident_bytes() + range.length;
  while (needed > limit_) {
    MemoryRange data = next_data(range);
    if (data.empty()) return false;
    needed -= data.length;
    range = {data.end(), range.end() - data.end()};
  }
  return true;
}

Result<void> MemoryFile::populate(MemoryRange range) {
  const uint64_t most = limit_ == 0 ? range.length : kLimitedPiece;
  for (MemoryRange rest = range; !rest.empty();) {
    const MemoryRange piece{rest.offset, std::min(rest.length, most)};
    if (!has_room(piece) || !host::populate(at(piece.offset), piece.length).ok())
      return Errno(ENOMEM);
    rest = {piece.end(), rest.end() - piece.end()};
  }
  MutexLock lock(mutex_);
  untouched_.remove(range);
  return {};
}

void MemoryFile::populate_huge(MemoryRange range) {
  if (huge_base_ == nullptr) return;
  auto fill = [this](uint64_t start, uint64_t end) {
    start = (start + kHugePageSize - 1) & ~(kHugePageSize - 1);
    end &= ~(kHugePageSize - 1);
    return start >= end || host::populate(huge_base_ + start, end - start).ok();
  };
  while (!range.empty()) {
    const MemoryRange data = next_data(range);
    if (!fill(range.offset, data.empty() ? range.end() : data.offset) || data.empty()) return;
    range = {data.end(), range.end() - data.end()};
  }
}

bool MemoryFile::has_room_for_huge(uint64_t length) const {
  if (huge_base_ == nullptr) return false;
  if (limit_ != 0) return length <= (limit_ - std::min(limit_, resident_bytes())) / 2;
  return length <= host::free_storage(fd_.get()).value_or(host::physical_memory()) / 2;
}

void MemoryFile::collapse(MemoryRange range) {
  if (huge_base_ != nullptr) host::collapse(at(range.offset), range.length);
}

MemoryRange MemoryFile::next_data(MemoryRange range) const {
  if (range.empty()) return {};
  Result<uint64_t> data = host::seek_data(fd_.get(), range.offset);
  if (!data.ok() || data.value() >= range.end()) return {};
  Result<uint64_t> hole = host::seek_hole(fd_.get(), data.value());
  uint64_t start = std::max(page_down(data.value()), range.offset);
  uint64_t end = hole.ok() ? std::min(page_up(hole.value()), range.end()) : range.end();
  return {start, end - start};
}

Result<void> MemoryFile::write(uint64_t offset, std::span<const std::byte> data) {
  const size_t most = limit_ == 0 ? data.size() : kLimitedPiece;
  while (!data.empty()) {
    const auto piece = data.first(std::min(data.size(), most));
    if (!has_room({offset, piece.size()})) return Errno(kEMEMORYLIMIT);
    Result<void> written = host::write_file(fd_.get(), offset, piece);
    if (!written.ok()) return Errno(written.error() == Errno(EFAULT) ? EFAULT : kEMEMORYLIMIT);
    offset += piece.size();
    data = data.subspan(piece.size());
  }
  return {};
}

// Pages that are not there cost two thirds less when the host writes them whole: no fault, no
// zeros.
size_t MemoryFile::copy_out(std::byte* to, const std::byte* from, size_t length) {
  constexpr size_t kWorthAsking = 32 * 1024;
  constexpr size_t kPiece = 1024 * 1024;  // the host locks the file for each
  // Where this thread found pages the last time: buffers are used again and again. Stale answers
  // cost time only, and not for long.
  constexpr int kAskAgain = 32;
  struct Present {
    const MemoryFile* file = nullptr;
    uint64_t block = 0;
    int uses = 0;
  };
  static thread_local Present present;
  while (length >= kWorthAsking) {
    const uint64_t offset = static_cast<uint64_t>(to - base_);
    const uint64_t block = offset / kHugePageSize;
    if (present.file == this && present.block == block && present.uses++ < kAskAgain) break;
    size_t piece = page_up(offset) - offset;  // up to where a page begins
    if (piece == 0) {
      const uint64_t data = host::seek_data(fd_.get(), offset).value_or(size_);
      piece = page_down(std::min({length, kPiece, data - std::min(data, offset)}));
      if (piece == 0) present = {this, block, 0};
      if (piece == 0 || !write(offset, {from, piece}).ok()) break;
    } else if (size_t left = safe_copy(to, from, piece); left != 0) {
      return length - piece + left;
    }
    to += piece;
    from += piece;
    length -= piece;
  }
  return safe_copy(to, from, length);
}

Result<void> MemoryFile::copy_pages(uint64_t target_offset, uint64_t source_offset,
                                    uint64_t length) {
  while (length != 0) {
    // Into pages that are there already a plain copy is fastest.
    MemoryRange there = next_data({target_offset, length});
    uint64_t absent = there.empty() ? length : there.offset - target_offset;
    if (absent != 0) TRY(write(target_offset, {at(source_offset), absent}));
    uint64_t present = there.length;
    if (safe_copy(at(target_offset + absent), at(source_offset + absent), present) != 0)
      return Errno(kEMEMORYLIMIT);
    target_offset += absent + present;
    source_offset += absent + present;
    length -= absent + present;
  }
  return {};
}

Result<void> MemoryFile::copy_to_new(uint64_t target_offset, uint64_t source_offset,
                                     uint64_t length, bool is_warm) {
  if (!is_warm) return write(target_offset, {at(source_offset), length});
  if (safe_copy(at(target_offset), at(source_offset), length) != 0) return Errno(kEMEMORYLIMIT);
  return {};
}

Result<void> MemoryFile::copy_part(uint64_t target_offset, MemoryRange source, bool is_warm) {
  uint8_t pages[512];
  while (!source.empty()) {
    uint64_t count = std::min<uint64_t>(source.length / kPageSize, sizeof(pages));
    if (!host::residency(at(source.offset), count * kPageSize, pages).ok())
      std::fill_n(pages, count, uint8_t{0});
    // What is not in memory may be a hole, or swapped out.
    auto has_data = [&](uint64_t i) {
      uint64_t offset = source.offset + i * kPageSize;
      return (pages[i] & 1) != 0 || host::seek_data(fd_.get(), offset).value_or(size_) == offset;
    };
    for (uint64_t i = 0; i < count;) {
      uint64_t start = i;
      while (i < count && has_data(i)) ++i;
      if (i > start)
        TRY(copy_to_new(target_offset + start * kPageSize, source.offset + start * kPageSize,
                        (i - start) * kPageSize, is_warm));
      else
        ++i;
    }
    target_offset += count * kPageSize;
    source = {source.offset + count * kPageSize, source.length - count * kPageSize};
  }
  return {};
}

MemoryRange DataRuns::next(MemoryRange range) {
  uint64_t at = range.offset;
  uint64_t end = range.end();
  if (at >= hole_.offset && at < hole_.end()) at = hole_.end();
  if (at >= end) return {};
  auto known = data_.upper_bound(at);
  if (known != data_.begin() && std::prev(known)->second > at)
    return {at, std::min(end, std::prev(known)->second) - at};
  uint64_t start = host::seek_data(memory_.fd(), at).value_or(memory_.size());
  if (start > at) hole_ = {at, page_down(start) - at};
  if (start >= end) return {};
  at = std::max(at, page_down(start));
  uint64_t stop = page_up(host::seek_hole(memory_.fd(), start).value_or(memory_.size()));
  data_[at] = stop;
  return {at, std::min(end, stop) - at};
}

uint64_t MemoryFile::allocated_bytes() const {
  MutexLock lock(mutex_);
  return allocated_;
}

uint64_t MemoryFile::resident_bytes() const {
  return host::file_storage(fd_.get()).value_or(uint64_t{0});
}

}  // namespace caisson
