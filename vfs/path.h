// Path: a place in the mounted tree: a mount and a dentry of its filesystem. Linux: struct path.
#pragma once

#include "base/ref.h"
#include "vfs/dentry.h"
#include "vfs/mount.h"

namespace caisson {

struct Path {
  Ref<Mount> mount;
  Ref<Dentry> dentry;

  Inode& inode() const { return dentry->inode(); }
  // MS_* that count for this file.
  uint64_t mount_flags() const { return mount->flags() | inode().host_mount_flags(); }
  friend bool operator==(const Path&, const Path&) = default;
};

}  // namespace caisson
