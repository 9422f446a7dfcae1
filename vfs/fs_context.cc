#include "vfs/fs_context.h"

#include <utility>

namespace caisson {

FsContext::FsContext(Ref<MountNamespace> mounts, Path root, Path working_directory, uint32_t umask)
    : mounts_(std::move(mounts)),
      root_(std::move(root)),
      working_directory_(std::move(working_directory)),
      umask_(umask & 0777) {}

FsContext::~FsContext() = default;

Ref<FsContext> FsContext::create(Ref<MountNamespace> mounts, Path root, Path working_directory,
                                 uint32_t umask) {
  return adopt_ref(
      new FsContext(std::move(mounts), std::move(root), std::move(working_directory), umask));
}

Ref<FsContext> FsContext::copy() const {
  MutexLock lock(mu_);
  return create(mounts_, root_, working_directory_, umask_);
}

Path FsContext::root() const {
  MutexLock lock(mu_);
  return root_;
}

Path FsContext::working_directory() const {
  MutexLock lock(mu_);
  return working_directory_;
}

// The former place is dropped after the lock: it may be the last user of a whole tree.
void FsContext::set_root(Path root) {
  MutexLock lock(mu_);
  std::swap(root_, root);
}

void FsContext::set_working_directory(Path directory) {
  MutexLock lock(mu_);
  std::swap(working_directory_, directory);
}

uint32_t FsContext::umask() const {
  MutexLock lock(mu_);
  return umask_;
}

uint32_t FsContext::set_umask(uint32_t umask) {
  MutexLock lock(mu_);
  return std::exchange(umask_, umask & 0777);
}

}  // namespace caisson
