// HostInode: one host file as it was when first seen. See README.md.
//
// Attributes are immutable. A directory looks single names up with statx(2); after a few of them it
// reads the whole list of names, and then knows what is missing without asking. Lock: mu_ (kInode)
// guards what is fetched later; no host call is made under it.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>

#include "base/mutex.h"
#include "fs/hostfs/host_filesystem.h"
#include "mm/mappable.h"

namespace caisson {

// statx(2) of `name` in the directory `fd`, or of `fd` itself. `mount_id`: of the mount that holds
// it.
Result<FileStat> host_stat(int fd, const char* name, const HostFilesystemOptions& options,
                           uint64_t* mount_id = nullptr);

class HostInode final : public Inode {
 public:
  // Looks `name` up in `directory`, open at `directory_fd`. Without a directory it is what
  // `directory_fd` refers to, and the name is empty. `path` is relative to the root of the
  // filesystem.
  static Result<Ref<Inode>> make(HostFilesystem& filesystem, const HostInode* directory,
                                 int directory_fd, const char* name, std::string path);
  ~HostInode() override;

  Result<FileStat> stat() override { return attributes_; }
  Result<void> set_attributes(const AttributeChange&) override { return Errno(EROFS); }
  Result<RefOrNull<Inode>> lookup(std::string_view name) override;
  Result<DirectoryListing> list() override;
  Result<Ref<Inode>> create(std::string_view, const NewFile&) override { return Errno(EROFS); }
  Result<LinkTarget> link_target(const Caller& caller) override;
  Result<size_t> read_at(UserBuffer& to, uint64_t offset) override;
  Result<uint64_t> seek_data(uint64_t offset, bool hole) override;
  RefOrNull<Mappable> mappable() override;
  Result<Ref<FileDescription>> open(const Path& path, uint32_t flags,
                                    const Caller& caller) override;

 private:
  static constexpr int kLookupsBeforeList = 4;
  // The names of the directory, sorted by hash; whether one is missing.
  struct Names {
    DirectoryListing listing;
    std::unordered_map<std::string_view, size_t> index;  // into listing
  };

  HostInode(Ref<HostFilesystem> filesystem, const FileStat& attributes, std::string path,
            uint64_t mount_id, uint32_t mount_flags);
  HostFilesystem& host() const { return static_cast<HostFilesystem&>(filesystem()); }
  Result<HostFilesystem::SharedFd> fd();
  Result<std::shared_ptr<const Names>> names();

  const FileStat attributes_;  // immutable
  const std::string path_;     // immutable; relative to the root
  const uint64_t mount_id_;    // immutable; the host's
  Mutex<LockRank::kInode> mu_;
  int lookups_ GUARDED_BY(mu_) = 0;
  std::shared_ptr<const Names> names_ GUARDED_BY(mu_);         // of a directory
  std::shared_ptr<const std::string> target_ GUARDED_BY(mu_);  // of a symlink
  RefOrNull<Mappable> mappable_ GUARDED_BY(mu_);
};

}  // namespace caisson
