// Dentry: one name in a directory, present or known to be missing (negative). Linux: struct dentry.
//
// A tree per filesystem: children hold their parent; a parent keeps its children in a cache that
// shrinks when it grows too large (DentryCache), so a dentry lives as long as anyone uses it and a
// while longer. All look-ups and changes of a directory's names go through its dentry.
//
// Locks: mu_ (kDentry; two directories of a rename: ancestor first, else by address) guards the
// children; name_mu_ (kLeaf) the place in the tree, which rename changes.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>

#include "base/intrusive_list.h"
#include "base/mutex.h"
#include "base/ref.h"
#include "base/result.h"
#include "vfs/inode.h"

namespace caisson {

struct DentryCacheTag;

// An internal answer of the changes below: another change overtook this one, resolve the path
// again. Never reaches a guest.
inline constexpr int kLookUpAgain = 1000;

class Dentry : public RefCounted<Dentry>, public ListNode<DentryCacheTag> {
 public:
  // The root of a filesystem, or the one dentry of a file without a name in the tree ("pipe:[7]").
  static Ref<Dentry> create_root(Ref<Inode> inode, std::string name = "/");
  ~Dentry();

  // Null for a name that is not there. A dentry changes between the two while its parent is locked.
  RefOrNull<Inode> inode_or_null() const EXCLUDES(name_mu_);
  bool is_negative() const { return inode_.load(std::memory_order_acquire) == nullptr; }
  // Precondition: not negative. Once present, an inode stays reachable here until the dentry goes
  // away: a file that is removed leaves a dentry that is no longer in the tree.
  Inode& inode() const;

  std::string name() const EXCLUDES(name_mu_);
  // Itself for a root.
  Ref<Dentry> parent() const EXCLUDES(name_mu_);
  bool is_root() const { return is_root_; }
  // Its name was removed: d_path says "(deleted)", nothing new can be made in it.
  bool is_removed() const { return removed_.load(std::memory_order_acquire); }
  // May be above `other`?
  bool is_ancestor_of(const Dentry& other) const;

  // The child of this name, from the cache or the filesystem; negative ones too.
  // ENAMETOOLONG, and what Inode::lookup() says. Precondition: a directory.
  Result<Ref<Dentry>> lookup(std::string_view name) EXCLUDES(mu_);

  // Number of mounts on this dentry: path resolution asks the mount table only if not 0.
  std::atomic<int> mount_count{0};

  // The changes; `child` is a dentry that lookup() gave. Errors as in Linux's vfs_* functions,
  // minus permissions: EEXIST, ENOENT (this directory is removed), EBUSY, ENOTDIR, EISDIR,
  // ENOTEMPTY.
  Result<Ref<Inode>> create(Dentry& child, const NewFile& file) EXCLUDES(mu_);
  Result<void> link(Dentry& child, Inode& file) EXCLUDES(mu_);
  Result<void> unlink(Dentry& child) EXCLUDES(mu_);
  Result<void> rmdir(Dentry& child) EXCLUDES(mu_);
  static Result<void> rename(Dentry& old_directory, Dentry& old_child, Dentry& new_directory,
                             Dentry& new_child, uint32_t flags);

  // Empties the cache of the whole tree below: the filesystem is going away. What is in use stays
  // usable, but is no longer found.
  void forget_children() EXCLUDES(mu_);

 private:
  friend class DentryCache;
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view s) const { return std::hash<std::string_view>()(s); }
  };
  struct Equal {
    using is_transparent = void;
    bool operator()(std::string_view a, std::string_view b) const { return a == b; }
  };
  using Children = std::unordered_map<std::string, Ref<Dentry>, Hash, Equal>;

  Dentry(RefOrNull<Dentry> parent, std::string name, RefOrNull<Inode> inode);

  RefOrNull<Dentry> find_cached_locked(std::string_view name) REQUIRES(mu_);
  // kLookUpAgain if `child` is no longer what this directory has under its name.
  Result<void> check_current_locked(const Dentry& child) const REQUIRES(mu_);
  void set_inode(Inode& inode);
  // Takes a child out of the tree: its name is free again. The caller drops the reference later.
  Ref<Dentry> detach_locked(Dentry& child) REQUIRES(mu_);

  mutable Mutex<LockRank::kDentry> mu_;
  Children children_ GUARDED_BY(mu_);
  uint64_t generation_ GUARDED_BY(mu_) = 0;  // of changes, against look-ups that were under way

  mutable Mutex<LockRank::kLeaf> name_mu_;
  RefOrNull<Dentry> parent_ GUARDED_BY(name_mu_);  // null for a root
  std::string name_ GUARDED_BY(name_mu_);

  std::atomic<Inode*> inode_{nullptr};  // holds a reference; set at most once
  std::atomic<bool> removed_{false};
  std::atomic<bool> used_{false};  // since the cache last looked
  const bool is_root_;
};

}  // namespace caisson
