// FsContext: root directory, working directory, umask and mount namespace of a process; shared by
// CLONE_FS. Linux: struct fs_struct.
#pragma once

#include <cstdint>

#include "base/mutex.h"
#include "base/ref.h"
#include "vfs/path.h"

namespace caisson {

class FsContext : public RefCounted<FsContext> {
 public:
  static Ref<FsContext> create(Ref<MountNamespace> mounts, Path root, Path working_directory,
                               uint32_t umask = 022);
  ~FsContext();

  // For clone without CLONE_FS.
  Ref<FsContext> copy() const EXCLUDES(mu_);

  Path root() const EXCLUDES(mu_);
  Path working_directory() const EXCLUDES(mu_);
  void set_root(Path root) EXCLUDES(mu_);
  void set_working_directory(Path directory) EXCLUDES(mu_);
  uint32_t umask() const EXCLUDES(mu_);
  uint32_t set_umask(uint32_t umask) EXCLUDES(mu_);  // answers the former one
  MountNamespace& mounts() const { return *mounts_; }

 private:
  FsContext(Ref<MountNamespace> mounts, Path root, Path working_directory, uint32_t umask);
  const Ref<MountNamespace> mounts_;
  mutable Mutex<LockRank::kFsContext> mu_;
  Path root_ GUARDED_BY(mu_);
  Path working_directory_ GUARDED_BY(mu_);
  uint32_t umask_ GUARDED_BY(mu_);
};

}  // namespace caisson
