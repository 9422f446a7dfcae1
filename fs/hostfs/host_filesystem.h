// HostFilesystem: a host directory as a read-only filesystem. See README.md for its host calls.
//
// Owns the root descriptor and a bounded set of open descriptors of directories and files, shared
// by the inodes. Lock: mu_, rank kLeaf; host calls are made outside it.
#pragma once

#include <list>
#include <memory>
#include <string>
#include <unordered_map>

#include "base/mutex.h"
#include "base/unique_fd.h"
#include "vfs/filesystem.h"
#include "vfs/inode.h"

namespace caisson {

namespace platform {
class Platform;
}

struct HostFilesystemOptions {
  // Ids that the kernel process sees as the host's overflow id (65534: not mapped into its user
  // namespace) are shown as this one.
  uint32_t overflow_uid = 65534, overflow_gid = 65534;
};

class HostFilesystem final : public Filesystem {
 public:
  // `root` is a directory; `platform` (for mapping files; null in tests) outlives the filesystem.
  static Result<Ref<HostFilesystem>> create(UniqueFd root, platform::Platform* platform,
                                            HostFilesystemOptions options = {});
  Result<Ref<Inode>> make_root();

  const char* name() const override { return "hostfs"; }
  Result<FilesystemStat> stat() override;

  // A descriptor that stays open as long as the caller keeps the pointer.
  using SharedFd = std::shared_ptr<UniqueFd>;
  // `path` is relative to the root, "" for the root itself. `owner` is the key of the cache. A
  // directory's descriptor is good for looking names up only (O_PATH). ESTALE if it is not the file
  // that `expected` describes (null: any).
  Result<SharedFd> open_shared(const void* owner, const std::string& path, bool directory,
                               const FileStat* expected);
  void forget(const void* owner);

  platform::Platform* platform() const { return platform_; }
  const HostFilesystemOptions& options() const { return options_; }
  int root_fd() const { return root_.get(); }

 private:
  static constexpr size_t kMaxOpen = 256;
  HostFilesystem(UniqueFd root, platform::Platform* platform, HostFilesystemOptions options)
      : root_(std::move(root)), platform_(platform), options_(options) {}

  struct Open {
    const void* owner;
    SharedFd fd;
  };
  const UniqueFd root_;
  platform::Platform* const platform_;
  const HostFilesystemOptions options_;
  Mutex<LockRank::kLeaf> mu_;
  std::list<Open> recent_ GUARDED_BY(mu_);  // most recently used first
  std::unordered_map<const void*, std::list<Open>::iterator> by_owner_ GUARDED_BY(mu_);
};

}  // namespace caisson
