// Inode: one file of a filesystem, whatever its names: attributes, directory operations, data.
// Linux: struct inode with its two operation tables.
//
// Each filesystem derives its own; what a type of file cannot do answers with Linux's errno here.
// Permission checks and name rules (length, "." and "..", busy mount points) are done by the
// callers in vfs/. Directory changes are called with the directory's Dentry locked.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <variant>

#include "base/ref.h"
#include "base/result.h"
#include "vfs/file_types.h"

namespace caisson {

class FileDescription;
class FileLocks;
class Filesystem;
class Inode;
class Mappable;
class UserBuffer;
struct Caller;
struct Path;

// What mknod, mkdir, symlink and open(O_CREAT) make.
struct NewFile {
  uint32_t mode = 0;  // type and permission bits, umask already applied
  uint32_t uid = 0, gid = 0;
  uint64_t special_device = 0;
  std::string_view link_target;  // of a symlink
};

// A symbolic link leads to a text that is resolved further, or (magic links of proc) to a place.
using LinkTarget = std::variant<std::string, Path>;

// Where a write begins: at an offset, or at the end of the file whatever it is then.
struct WritePosition {
  uint64_t offset = 0;
  bool append = false;
};

class Inode : public RefCounted<Inode> {
 public:
  virtual ~Inode();

  Filesystem& filesystem() const { return *filesystem_; }
  uint64_t ino() const { return ino_; }
  uint32_t type() const { return mode_.load(std::memory_order_relaxed) & S_IFMT; }
  bool is_directory() const { return type() == S_IFDIR; }
  bool is_symlink() const { return type() == S_IFLNK; }
  bool is_regular() const { return type() == S_IFREG; }
  // For permission checks: no lock, no host call.
  uint32_t mode() const { return mode_.load(std::memory_order_relaxed); }
  uint32_t uid() const { return uid_.load(std::memory_order_relaxed); }
  uint32_t gid() const { return gid_.load(std::memory_order_relaxed); }
  // MS_NOEXEC and MS_NOSUID of the host's mount that holds it, if the file is the host's or was
  // made in a directory of the host's. Path::mount_flags() has both kinds of mounts.
  uint32_t host_mount_flags() const { return host_mount_flags_; }

  virtual Result<FileStat> stat() = 0;
  virtual Result<void> set_attributes(const AttributeChange& change);

  // Directories. lookup() answers null for a name that is not there.
  virtual Result<RefOrNull<Inode>> lookup(std::string_view name);
  virtual Result<DirectoryListing> list();
  virtual Result<Ref<Inode>> create(std::string_view name, const NewFile& file);
  // A file without a name (O_TMPFILE); link() may give it one.
  virtual Result<Ref<Inode>> create_unnamed(const NewFile& file);
  virtual Result<void> link(std::string_view name, Inode& file);
  virtual Result<void> unlink(std::string_view name, Inode& file);
  virtual Result<void> rmdir(std::string_view name, Inode& directory);
  // Moves `file` from here to `new_name` in `new_directory` (of the same filesystem), in the place
  // of `replaced` if not null; with `exchange` the two change places.
  virtual Result<void> rename(std::string_view old_name, Inode& file, Inode& new_directory,
                              std::string_view new_name, Inode* replaced, bool exchange);

  // Symbolic links.
  virtual Result<LinkTarget> link_target(const Caller& caller);

  // Data of regular files. Reads beyond the end answer 0. write_at() says in position.offset where
  // it began.
  virtual Result<size_t> read_at(UserBuffer& to, uint64_t offset);
  virtual Result<size_t> write_at(UserBuffer& from, WritePosition& position);
  virtual Result<void> truncate(uint64_t size);
  virtual Result<void> allocate(int mode, uint64_t offset, uint64_t length);
  // The next data (or hole) at or after offset; ENXIO at or beyond the end.
  virtual Result<uint64_t> seek_data(uint64_t offset, bool hole);
  virtual Result<void> sync(bool data_only) { return {}; }
  // Null: cannot be mapped (ENODEV).
  virtual RefOrNull<Mappable> mappable();

  // Called before a file is opened for writing: copy-up, without the data if it will be truncated.
  virtual Result<void> prepare_write(bool will_truncate) { return {}; }

  // The open file of open(2), permissions checked; `flags` are O_*. The default makes regular files
  // and directories; devices go by device number, FIFOs to their pipe.
  virtual Result<Ref<FileDescription>> open(const Path& path, uint32_t flags, const Caller& caller);

  // Extended attributes; names carry their prefix.
  virtual Result<std::string> get_xattr(std::string_view name);
  virtual Result<void> set_xattr(std::string_view name, std::string_view value, int flags);
  virtual Result<void> remove_xattr(std::string_view name);
  virtual Result<std::vector<std::string>> list_xattrs();

  // Record and whole-file locks on this file; made at first use.
  FileLocks& locks();
  // Null when nobody has ever locked it.
  FileLocks* locks_or_null() const { return locks_.load(std::memory_order_acquire); }

  // Opens for writing against executions (ETXTBSY): deny_write() fails while writers exist.
  Result<void> add_writer();
  void remove_writer();
  bool is_open_for_writing() const { return writers_.load(std::memory_order_acquire) > 0; }
  Result<void> deny_write();
  void allow_write();

 protected:
  Inode(Ref<Filesystem> filesystem, uint64_t ino, uint32_t mode, uint32_t uid, uint32_t gid);

  std::atomic<uint32_t> mode_;
  std::atomic<uint32_t> uid_;
  std::atomic<uint32_t> gid_;
  uint32_t host_mount_flags_ = 0;  // set once before start

 private:
  const Ref<Filesystem> filesystem_;  // immutable
  const uint64_t ino_;                // immutable
  std::atomic<FileLocks*> locks_{nullptr};
  std::atomic<int32_t> writers_{0};  // > 0: open for writing; < 0: being executed
};

}  // namespace caisson
