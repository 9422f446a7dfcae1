// PageStore: which ranges of the memory file hold one file's data.
//
// Owned by one TmpfsFile and shared with the mappings of that file (Mappable). Ranges come in
// blocks of 64 KiB, 2 MiB beyond the first 2 MiB of a file; only touched pages cost memory. The
// store holds a reference to each; mappings take their own. Lock: mu_, rank kPageIndex, never held
// while data are copied: whoever copies holds the file's own lock against truncation.
#pragma once

#include <map>
#include <vector>

#include "base/mutex.h"
#include "fs/tmpfs/tmpfs.h"
#include "mm/mapped_file.h"

namespace caisson {

class PageStore final : public Mappable {
 public:
  PageStore(Ref<Tmpfs> tmpfs, uint64_t ino) : tmpfs_(std::move(tmpfs)), ino_(ino) {}
  ~PageStore() override;

  // The memory at `offset`, up to the end of its block; empty in a hole.
  MemoryRange find(uint64_t offset) const EXCLUDES(mu_);
  // The same, with a hole filled. ENOSPC, ENOMEM.
  Result<MemoryRange> find_or_make(uint64_t offset) EXCLUDES(mu_);
  // First offset at or after `offset` that is (not) in a block, at most `end`.
  uint64_t next(uint64_t offset, uint64_t end, bool hole) const EXCLUDES(mu_);
  // Frees what lies in [offset, end) and zeroes the parts of pages at its ends.
  void remove(uint64_t offset, uint64_t end) EXCLUDES(mu_);
  uint64_t bytes() const EXCLUDES(mu_);  // in blocks

  void set_size(uint64_t size) { size_.store(size, std::memory_order_release); }
  void set_path(std::string path) EXCLUDES(mu_);

  Kind kind() const override { return Kind::kMemory; }
  uint64_t size() const override { return size_.load(std::memory_order_acquire); }
  Result<size_t> read_at(uint64_t offset, std::span<std::byte> out) override;
  MappedFileInfo info() const override;
  MappingRegistry* registry() override { return &mappings_; }
  Result<MemoryRange> memory_range(uint64_t offset, uint64_t length) override;
  Result<void> punch_hole(uint64_t offset, uint64_t length) override;

 private:
  MemoryRange find_locked(uint64_t offset) const REQUIRES(mu_);
  Result<MemoryRange> find_or_make_locked(uint64_t offset) REQUIRES(mu_);
  MemoryRange pin(uint64_t offset, uint64_t length) EXCLUDES(mu_);
  void zero_locked(uint64_t from, uint64_t to) REQUIRES(mu_);  // up to the end of its block

  const Ref<Tmpfs> tmpfs_;
  const uint64_t ino_;
  std::atomic<uint64_t> size_{0};  // bytes, of the file
  mutable Mutex<LockRank::kPageIndex> mu_;
  std::map<uint64_t, MemoryRange> blocks_ GUARDED_BY(mu_);  // by file offset
  uint64_t bytes_ GUARDED_BY(mu_) = 0;
  std::string path_ GUARDED_BY(mu_);
  MappingRegistry mappings_;
};

}  // namespace caisson
