// Filesystem: one mounted or mountable instance: tmpfs, overlay, proc. Linux: struct super_block.
//
// Reference counted: every inode and mount holds one. It has an anonymous device number of its own.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/ref.h"
#include "base/result.h"
#include "vfs/file_types.h"

namespace caisson {

class Dentry;
class Inode;

class Filesystem : public RefCounted<Filesystem> {
 public:
  virtual ~Filesystem() = default;

  // "tmpfs"; a literal.
  virtual const char* name() const = 0;
  virtual Result<FilesystemStat> stat() = 0;
  // May look-ups, negative ones too, be kept in dentries? Not where names come and go by
  // themselves (proc).
  virtual bool caches_dentries() const { return true; }
  virtual Result<void> sync() { return {}; }

  uint64_t device() const { return device_; }

  // Mounts count themselves; true for the last one to go.
  void add_mount() { mounts_.fetch_add(1, std::memory_order_relaxed); }
  bool remove_mount() { return mounts_.fetch_sub(1, std::memory_order_acq_rel) == 1; }

 protected:
  Filesystem();

 private:
  const uint64_t device_;  // immutable
  std::atomic<int> mounts_{0};
};

}  // namespace caisson
