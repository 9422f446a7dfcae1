// TmpfsDirectory: the names of one directory: those made or changed here, over those of a lower
// directory. See tmpfs.h.
#pragma once

#include "fs/tmpfs/tmpfs.h"

namespace caisson {

class TmpfsDirectory final : public TmpfsInode {
 public:
  TmpfsDirectory(Ref<Tmpfs> tmpfs, uint64_t ino, const NewFile& file)
      : TmpfsInode(std::move(tmpfs), ino, file) {}
  TmpfsDirectory(Ref<Tmpfs> tmpfs, uint64_t ino, const FileStat& attributes, Ref<Inode> lower)
      : TmpfsInode(std::move(tmpfs), ino, attributes, std::move(lower)) {}
  ~TmpfsDirectory() override;

  Result<RefOrNull<Inode>> lookup(std::string_view name) override;
  Result<DirectoryListing> list() override;
  Result<Ref<Inode>> create(std::string_view name, const NewFile& file) override;
  Result<Ref<Inode>> create_unnamed(const NewFile& file) override;
  Result<void> link(std::string_view name, Inode& file) override;
  Result<void> unlink(std::string_view name, Inode& file) override;
  Result<void> rmdir(std::string_view name, Inode& directory) override;
  Result<void> rename(std::string_view old_name, Inode& file, Inode& new_directory,
                      std::string_view new_name, Inode* replaced, bool exchange) override;

  // pin() of a child: keeps it unless its name was removed meanwhile.
  void keep(const std::string& name, TmpfsInode& child) EXCLUDES(mu_);

 private:
  // Null inode: a whiteout, the lower directory's name does not count.
  using Names = std::map<std::string, RefOrNull<TmpfsInode>, std::less<>>;

  uint64_t size_locked() const override REQUIRES(mu_) { return 40 + 20 * names_.size(); }
  // Puts a new name in; the name is free.
  void insert_locked(std::string_view name, TmpfsInode& inode) REQUIRES(mu_);
  // Takes a name away, leaving a whiteout where a lower name would show.
  RefOrNull<TmpfsInode> erase_locked(std::string_view name) REQUIRES(mu_);
  Result<bool> is_empty();

  Names names_ GUARDED_BY(mu_);
  DirectoryListing merged_ GUARDED_BY(mu_);  // of lower names and ours; null after a change
};

}  // namespace caisson
