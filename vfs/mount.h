// Mount and MountNamespace: which filesystem is seen where. Linux: fs/mount.h, fs/namespace.c.
//
// A namespace owns its mounts. The table is guarded by kMountTree; path resolution reads it only at
// dentries that carry a mount.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "base/ref.h"
#include "base/result.h"
#include "vfs/dentry.h"
#include "vfs/filesystem.h"

namespace caisson {

struct Path;

class Mount : public RefCounted<Mount> {
 public:
  // `flags` are MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_NOATIME, MS_RELATIME ...
  static Ref<Mount> create(Ref<Filesystem> filesystem, Ref<Dentry> root, uint64_t flags,
                           std::string source);
  ~Mount();

  int id() const { return id_; }
  Filesystem& filesystem() const { return *filesystem_; }
  const Ref<Dentry>& root() const { return root_; }
  const std::string& source() const { return source_; }
  uint64_t flags() const { return flags_.load(std::memory_order_relaxed); }
  void set_flags(uint64_t flags) { flags_.store(flags, std::memory_order_relaxed); }
  bool is_read_only() const;

 private:
  friend class MountNamespace;
  Mount(Ref<Filesystem> filesystem, Ref<Dentry> root, uint64_t flags, std::string source);

  const int id_;
  const Ref<Filesystem> filesystem_;
  const Ref<Dentry> root_;
  const std::string source_;
  std::atomic<uint64_t> flags_;
  // Guarded by the namespace's mu_; null for the root mount and after unmounting.
  RefOrNull<Mount> parent_;
  RefOrNull<Dentry> mount_point_;
};

class MountNamespace : public RefCounted<MountNamespace> {
 public:
  static Ref<MountNamespace> create(Ref<Mount> root);
  ~MountNamespace();

  Path root() const;
  // The mount on top of this place, if any.
  RefOrNull<Mount> mounted_at(const Mount& mount, const Dentry& dentry) const;
  // Where `mount` is mounted; the path itself for the root mount and for unmounted ones.
  Path mount_point_of(const Path& path) const;
  // Mounts `mount` over `where` (ENOENT if it is removed, ENOTDIR if the types differ).
  Result<void> attach(Ref<Mount> mount, const Path& where);
  // EINVAL if `where` is not the root of a mount of this namespace or is its root; EBUSY with
  // mounts below.
  Result<void> detach(const Path& where, bool lazy);
  // In mount order, for /proc/PID/mounts and mountinfo.
  struct Entry {
    Ref<Mount> mount;
    RefOrNull<Mount> parent;
    RefOrNull<Dentry> mount_point;
  };
  std::vector<Entry> list() const;

 private:
  explicit MountNamespace(Ref<Mount> root);
  mutable Mutex<LockRank::kMountTree> mu_;
  const Ref<Mount> root_;
  std::vector<Ref<Mount>> mounts_ GUARDED_BY(mu_);  // the root mount first
};

}  // namespace caisson
