// TmpfsFile: a regular file: in memory, or read from its lower file until it is copied up. See
// tmpfs.h. Also the file of memfd_create(2), with its seals.
#pragma once

#include "fs/tmpfs/page_store.h"
#include "fs/tmpfs/tmpfs.h"

namespace caisson {

class TmpfsFile final : public TmpfsInode {
 public:
  TmpfsFile(Ref<Tmpfs> tmpfs, uint64_t ino, const NewFile& file);
  TmpfsFile(Ref<Tmpfs> tmpfs, uint64_t ino, const FileStat& attributes, Ref<Inode> lower);
  ~TmpfsFile() override;

  Result<size_t> read_at(UserBuffer& to, uint64_t offset) override;
  Result<size_t> write_at(UserBuffer& from, WritePosition& position) override;
  Result<void> truncate(uint64_t size) override;
  Result<void> allocate(int mode, uint64_t offset, uint64_t length) override;
  Result<uint64_t> seek_data(uint64_t offset, bool hole) override;
  Result<void> prepare_write(bool will_truncate) override;
  RefOrNull<Mappable> mappable() override;
  Result<Ref<FileDescription>> open(const Path& path, uint32_t flags,
                                    const Caller& caller) override;

  // F_GET_SEALS, F_ADD_SEALS (EPERM once F_SEAL_SEAL is set).
  uint32_t seals() const;
  Result<void> add_seals(uint32_t seals);
  // memfd_create(2) without MFD_ALLOW_SEALING begins with F_SEAL_SEAL.
  void set_seals(uint32_t seals);
  // What /proc/PID/maps shows of its mappings.
  void set_mapped_path(std::string path);

 private:
  uint64_t size_locked() const override REQUIRES(mu_) {
    return store_ ? store_->size() : size_of_rest_;
  }
  uint64_t blocks_locked() const override REQUIRES(mu_) {
    return store_ ? store_->bytes() / 512 : blocks_of_rest_;
  }
  Result<void> truncate_locked(uint64_t size) REQUIRES(mu_);

  RefOrNull<PageStore> store_ GUARDED_BY(mu_);  // null: the lower file's data
  uint32_t seals_ GUARDED_BY(mu_) = 1;          // F_SEAL_SEAL: ordinary files take none
};

}  // namespace caisson
