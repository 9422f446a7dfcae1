// Tmpfs: files in memory; and, over a lower tree, the overlay that is the sandbox's root. Linux:
// mm/shmem.c and fs/overlayfs/.
//
// Each inode may have a lower one behind it, of any read-only filesystem that counts as fixed. A
// directory holds the names that were made or changed here (whiteouts for those removed) and asks
// its lower directory for the rest; a file reads from its lower file until it is opened for
// writing, which copies it up. So a plain tmpfs is the case without a lower tree, and renaming a
// lower directory works, which Linux's overlay answers with EXDEV. Inode numbers of lower files are
// kept.
//
// Unchanged inodes over lower ones may be dropped and made again with the dentry; pin() makes a
// changed one, and the directories above it, stay.
//
// Locks: an inode's mu_ (kInode; directory before child) guards all its fields; page tables have
// their own (PageStore). No lock is held while the lower tree is asked.
#pragma once

#include <atomic>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>

#include "base/mutex.h"
#include "mm/memory_file.h"
#include "vfs/filesystem.h"
#include "vfs/inode.h"
#include "vfs/mount.h"

namespace caisson {

class TmpfsDirectory;

struct TmpfsOptions {
  uint64_t max_bytes = UINT64_MAX;  // "size="
  uint64_t max_inodes = 1u << 20;   // "nr_inodes="; of files made here
  uint32_t root_mode = 01777;
  uint32_t root_uid = 0, root_gid = 0;
  const char* name = "tmpfs";
};

class Tmpfs final : public Filesystem {
 public:
  // `memory` outlives every filesystem.
  static Ref<Tmpfs> create(MemoryFile& memory, TmpfsOptions options = {});
  const char* name() const override { return options_.name; }
  Result<FilesystemStat> stat() override;

  // An empty root directory, or one over `lower`. Called once per filesystem.
  Result<Ref<Inode>> make_root(RefOrNull<Inode> lower = nullptr);
  // A file without a name, for memfd_create(2) and shared memory.
  Result<Ref<Inode>> make_unnamed(const NewFile& file);
  // The root, mounted.
  static Result<Ref<Mount>> mount(MemoryFile& memory, TmpfsOptions options, uint64_t mount_flags,
                                  std::string source, RefOrNull<Inode> lower = nullptr);

  MemoryFile& memory() const { return memory_; }
  // ENOSPC at max_bytes.
  Result<void> charge(uint64_t bytes);
  void uncharge(uint64_t bytes);
  Result<void> charge_inode();
  void uncharge_inode();
  uint64_t next_ino() { return next_ino_.fetch_add(1, std::memory_order_relaxed); }
  // The number under which a lower inode is seen: its own, made distinct between devices.
  uint64_t ino_of_lower(const FileStat& lower);

 private:
  Tmpfs(MemoryFile& memory, TmpfsOptions options) : memory_(memory), options_(options) {}
  MemoryFile& memory_;
  const TmpfsOptions options_;
  // New files over a lower tree count from far above the numbers that host filesystems use.
  std::atomic<uint64_t> next_ino_{1};
  std::atomic<uint64_t> bytes_{0};
  std::atomic<uint64_t> inodes_{0};
  Mutex<LockRank::kLeaf> devices_mu_;
  std::vector<uint64_t> lower_devices_ GUARDED_BY(devices_mu_);

 public:
  ~Tmpfs() override = default;
};

// What all kinds have in common. Symbolic links, devices, FIFOs and sockets need nothing more.
class TmpfsInode : public Inode {
 public:
  ~TmpfsInode() override;

  Result<FileStat> stat() override;
  Result<void> set_attributes(const AttributeChange& change) override;
  Result<LinkTarget> link_target(const Caller& caller) override;
  Result<std::string> get_xattr(std::string_view name) override;
  Result<void> set_xattr(std::string_view name, std::string_view value, int flags) override;
  Result<void> remove_xattr(std::string_view name) override;
  Result<std::vector<std::string>> list_xattrs() override;

  Tmpfs& tmpfs() const { return static_cast<Tmpfs&>(filesystem()); }
  // Makes this inode stay: it differs from its lower one now.
  void pin();

 protected:
  friend class Tmpfs;
  friend class TmpfsDirectory;
  TmpfsInode(Ref<Tmpfs> tmpfs, uint64_t ino, const NewFile& file);
  TmpfsInode(Ref<Tmpfs> tmpfs, uint64_t ino, const FileStat& attributes, Ref<Inode> lower);
  static Result<Ref<TmpfsInode>> make(Tmpfs& tmpfs, const NewFile& file);
  static Result<Ref<TmpfsInode>> make_over(Tmpfs& tmpfs, Ref<Inode> lower);

  virtual uint64_t size_locked() const REQUIRES(mu_) { return size_of_rest_; }
  virtual uint64_t blocks_locked() const REQUIRES(mu_) { return blocks_of_rest_; }
  void changed_now_locked() REQUIRES(mu_) { changed_ = file_time_now(); }
  void modified_now_locked() REQUIRES(mu_) { modified_ = changed_ = file_time_now(); }
  // One name less or more.
  void add_links_locked(int count) REQUIRES(mu_);

  mutable Mutex<LockRank::kInode> mu_;
  const RefOrNull<Inode> lower_;  // immutable
  FileTime accessed_ GUARDED_BY(mu_), modified_ GUARDED_BY(mu_), changed_ GUARDED_BY(mu_);
  FileTime born_ GUARDED_BY(mu_);
  uint32_t link_count_ GUARDED_BY(mu_) = 1;
  uint64_t size_of_rest_ GUARDED_BY(mu_) = 0;  // of what is neither file nor directory
  uint64_t blocks_of_rest_ GUARDED_BY(mu_) = 0;
  const uint64_t special_device_;
  const std::string link_target_;  // of a symlink made here
  std::unique_ptr<std::map<std::string, std::string, std::less<>>> xattrs_ GUARDED_BY(mu_);
  // Until pinned: where this inode was found.
  RefOrNull<TmpfsDirectory> found_in_ GUARDED_BY(mu_);
  std::string found_as_ GUARDED_BY(mu_);
  bool charged_ = false;  // made here; set once before start
};

}  // namespace caisson
