#include "vfs/mount.h"

#include <linux/mount.h>

#include <atomic>

#include "vfs/path.h"

namespace caisson {
namespace {
std::atomic<int> next_mount_id{1};
}  // namespace

Mount::Mount(Ref<Filesystem> filesystem, Ref<Dentry> root, uint64_t flags, std::string source)
    : id_(next_mount_id.fetch_add(1)),
      filesystem_(std::move(filesystem)),
      root_(std::move(root)),
      source_(std::move(source)),
      flags_(flags) {
  filesystem_->add_mount();
}

Ref<Mount> Mount::create(Ref<Filesystem> filesystem, Ref<Dentry> root, uint64_t flags,
                         std::string source) {
  return adopt_ref(new Mount(std::move(filesystem), std::move(root), flags, std::move(source)));
}

Mount::~Mount() {
  // Nobody finds anything there any more: the dentries and their parents, which hold each other,
  // let go. With a bind mount of a subtree as the last one, begin at the real root.
  if (!filesystem_->remove_mount()) return;
  Ref<Dentry> top = root_;
  while (!top->is_root()) top = top->parent();
  top->forget_children();
}

bool Mount::is_read_only() const { return (flags() & MS_RDONLY) != 0; }

MountNamespace::MountNamespace(Ref<Mount> root) : root_(root) {
  mounts_.push_back(std::move(root));
}

Ref<MountNamespace> MountNamespace::create(Ref<Mount> root) {
  return adopt_ref(new MountNamespace(std::move(root)));
}

MountNamespace::~MountNamespace() {
  std::vector<Ref<Mount>> mounts;
  {
    MutexLock lock(mu_);
    mounts.swap(mounts_);
    for (const Ref<Mount>& mount : mounts) {
      if (mount->mount_point_) mount->mount_point_->mount_count.fetch_sub(1);
      mount->parent_ = nullptr;
    }
  }
  while (!mounts.empty()) {
    mounts.back()->mount_point_ = nullptr;
    mounts.pop_back();
  }
}

Path MountNamespace::root() const {
  Path path{root_, root_->root()};
  while (path.dentry->mount_count.load() != 0) {
    RefOrNull<Mount> over = mounted_at(*path.mount, *path.dentry);
    if (!over) break;
    path = Path{Ref<Mount>::from(over), over->root()};
  }
  return path;
}

RefOrNull<Mount> MountNamespace::mounted_at(const Mount& mount, const Dentry& dentry) const {
  MutexLock lock(mu_);
  for (const Ref<Mount>& candidate : mounts_) {
    if (candidate->parent_ == &mount && candidate->mount_point_ == &dentry)
      return candidate.or_null();
  }
  return nullptr;
}

Path MountNamespace::mount_point_of(const Path& path) const {
  MutexLock lock(mu_);
  if (!path.mount->parent_) return path;
  return Path{Ref<Mount>::from(path.mount->parent_), Ref<Dentry>::from(path.mount->mount_point_)};
}

Result<void> MountNamespace::attach(Ref<Mount> mount, const Path& where) {
  if (where.dentry->is_removed()) return Errno(ENOENT);
  if (where.inode().is_directory() != mount->root()->inode().is_directory()) return Errno(ENOTDIR);
  MutexLock lock(mu_);
  if (mount->parent_) return Errno(EBUSY);
  mount->parent_ = where.mount.or_null();
  mount->mount_point_ = where.dentry.or_null();
  where.dentry->mount_count.fetch_add(1);
  mounts_.push_back(std::move(mount));
  return {};
}

Result<void> MountNamespace::detach(const Path& where, bool lazy) {
  std::vector<Ref<Mount>> gone;  // dropped after the lock
  MutexLock lock(mu_);
  if (!(where.dentry == where.mount->root()) || where.mount == root_ || !where.mount->parent_)
    return Errno(EINVAL);
  gone.push_back(where.mount);
  for (size_t i = 0; i < gone.size(); ++i) {
    for (const Ref<Mount>& other : mounts_) {
      if (!(other->parent_ == gone[i].get())) continue;
      if (!lazy) return Errno(EBUSY);
      gone.push_back(other);
    }
  }
  // The table, `gone` and the caller's `where` know it; more references are open files and cwds.
  if (!lazy && where.mount->ref_count() > 3) return Errno(EBUSY);
  for (const Ref<Mount>& mount : gone) {
    mount->mount_point_->mount_count.fetch_sub(1);
    mount->parent_ = nullptr;
    mount->mount_point_ = nullptr;
    std::erase_if(mounts_, [&](const Ref<Mount>& other) { return other == mount; });
  }
  return {};
}

std::vector<MountNamespace::Entry> MountNamespace::list() const {
  std::vector<Entry> entries;
  MutexLock lock(mu_);
  for (const Ref<Mount>& mount : mounts_)
    entries.push_back(Entry{mount, mount->parent_, mount->mount_point_});
  return entries;
}

}  // namespace caisson
