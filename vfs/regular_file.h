// RegularFile: an open regular file: an offset over an inode's data. Linux: the generic part of
// fs/read_write.c.
//
// Locks: offset_mu_, rank kFileDescription, is held during read() and write() so that those at the
// shared offset exclude each other, as Linux's f_pos_lock.
#pragma once

#include "base/mutex.h"
#include "vfs/file_description.h"

namespace caisson {

class RegularFile final : public FileDescription {
 public:
  static Ref<RegularFile> create(Path path, uint32_t flags);

  Result<size_t> read(UserBuffer& to, IoFlags flags) override;
  Result<size_t> write(UserBuffer& from, IoFlags flags) override;
  Result<size_t> pread(UserBuffer& to, uint64_t offset, IoFlags flags) override;
  Result<size_t> pwrite(UserBuffer& from, uint64_t offset, IoFlags flags) override;
  Result<uint64_t> lseek(int64_t offset, int whence) override;
  Result<void> truncate(uint64_t size) override;
  Result<void> allocate(int mode, uint64_t offset, uint64_t length) override;
  Result<void> fsync(bool data_only) override;
  RefOrNull<Mappable> mappable() override;
  Result<uint64_t> bytes_readable() override;

 private:
  RegularFile(Path path, uint32_t flags) : FileDescription(std::move(path), flags) {}
  Mutex<LockRank::kFileDescription> offset_mu_;
  uint64_t offset_ GUARDED_BY(offset_mu_) = 0;
};

// What lseek(2) makes of its arguments for a file of `size` bytes; EINVAL below 0 and beyond.
Result<uint64_t> seek_offset(Inode& inode, uint64_t current, int64_t offset, int whence);

}  // namespace caisson
