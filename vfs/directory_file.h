// DirectoryFile: an open directory and its position in the list of names.
//
// The list is a snapshot, taken at the first getdents(2) after opening or rewinding: positions are
// indices into it and stay meaningful whatever changes. "." and ".." are positions 0 and 1.
#pragma once

#include "base/mutex.h"
#include "vfs/file_description.h"

namespace caisson {

class DirectoryFile final : public FileDescription {
 public:
  static Ref<DirectoryFile> create(Path path, uint32_t flags);

  Result<size_t> read(UserBuffer& to, IoFlags flags) override { return Errno(EISDIR); }
  Result<size_t> pread(UserBuffer& to, uint64_t offset, IoFlags flags) override {
    return Errno(EISDIR);
  }
  Result<size_t> getdents(UserBuffer& to) override;
  Result<uint64_t> lseek(int64_t offset, int whence) override;
  Result<void> fsync(bool data_only) override { return {}; }

 private:
  DirectoryFile(Path path, uint32_t flags) : FileDescription(std::move(path), flags) {}
  Mutex<LockRank::kFileDescription> mu_;
  uint64_t position_ GUARDED_BY(mu_) = 0;
  DirectoryListing listing_ GUARDED_BY(mu_);
};

}  // namespace caisson
