// /proc/PID/pagemap: eight bytes a page. Linux: fs/proc/task_mmu.c (pagemap_read).
#include <algorithm>

#include "fs/proc/proc.h"
#include "kernel/task.h"
#include "mm/user_buffer.h"
#include "vfs/regular_file.h"

namespace caisson {
namespace {

constexpr uint64_t kEntry = sizeof(uint64_t);

// Shows the address space that the process had at the open, as Linux.
class PagemapFile final : public FileDescription {
 public:
  PagemapFile(Path path, uint32_t flags, RefOrNull<MemoryManager> mm)
      : FileDescription(std::move(path), flags), mm_(std::move(mm)) {}

  Result<size_t> read(UserBuffer& to, IoFlags flags) override {
    uint64_t offset;
    {
      MutexLock lock(mu_);
      offset = offset_;
    }
    size_t done = TRY(pread(to, offset, flags));
    MutexLock lock(mu_);
    offset_ = offset + done;
    return done;
  }
  Result<size_t> pread(UserBuffer& to, uint64_t offset, IoFlags) override {
    if (offset % kEntry != 0 || to.remaining() % kEntry != 0) return Errno(EINVAL);
    uint64_t page = offset / kEntry;
    if (!mm_ || page > UINT64_MAX / kPageSize) return 0;
    uint64_t entries[512];
    size_t done = 0;
    while (to.remaining() != 0 && mm_->is_guest_range(page * kPageSize, kPageSize)) {
      size_t count = std::min<uint64_t>(to.remaining() / kEntry, std::size(entries));
      while (count > 1 && !mm_->is_guest_range(page * kPageSize, count * kPageSize)) --count;
      mm_->read_pagemap(page * kPageSize, std::span(entries, count));
      Result<size_t> moved = to.write(entries, count * kEntry);
      if (!moved.ok() && done == 0) return moved.error();
      done += moved.ok() ? moved.value() : 0;
      if (!moved.ok() || moved.value() != count * kEntry) break;
      page += count;
    }
    return done;
  }
  Result<uint64_t> lseek(int64_t offset, int whence) override {
    if (whence != SEEK_SET && whence != SEEK_CUR) return Errno(EINVAL);
    MutexLock lock(mu_);
    offset_ = TRY(seek_offset(inode(), offset_, offset, whence));
    return offset_;
  }

 private:
  const RefOrNull<MemoryManager> mm_;
  Mutex<LockRank::kFileDescription> mu_;
  uint64_t offset_ GUARDED_BY(mu_) = 0;
};

class PagemapNode final : public ProcNode {
 public:
  PagemapNode(const ProcPlace& place, OpenMemory open_memory)
      : ProcNode(place, S_IFREG | 0400), open_memory_(std::move(open_memory)) {}
  Result<Ref<FileDescription>> open(const Path& path, uint32_t flags,
                                    const Caller& caller) override {
    RefOrNull<MemoryManager> mm = TRY(open_memory_(caller));
    return Ref<FileDescription>(make_ref<PagemapFile>(path, flags, std::move(mm)));
  }

 private:
  const OpenMemory open_memory_;
};

}  // namespace

Ref<Inode> make_pagemap(const ProcPlace& place, OpenMemory open_memory) {
  return make_ref<PagemapNode>(place, std::move(open_memory));
}

}  // namespace caisson
