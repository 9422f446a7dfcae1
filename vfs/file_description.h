// FileDescription: one open file, open(2)'s "open file description". Linux: struct file.
//
// Shared by every descriptor that dup, fork or SCM_RIGHTS made of it. Nothing here waits: what
// would block answers EAGAIN, and the operations of syscalls/ wait on the Waitable side. Kinds
// derive from it: RegularFile and DirectoryFile in vfs/, pipes, devices, eventfd and so on in fs/.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>

#include "abi/file.h"
#include "abi/user_ptr.h"
#include "base/mutex.h"
#include "base/ref.h"
#include "base/result.h"
#include "kernel/waiter/wait_queue.h"
#include "vfs/file_types.h"
#include "vfs/path.h"

namespace caisson {

class CurrentTask;
class Mappable;
class UserBuffer;

// RWF_* of preadv2(2); what a kind does not know it must refuse with EOPNOTSUPP.
struct IoFlags {
  uint32_t rwf = 0;
  bool nonblocking = false;  // O_NONBLOCK or RWF_NOWAIT: the answer may differ from EAGAIN's wait
};

class FileDescription : public RefCounted<FileDescription>, public Waitable {
 public:
  virtual ~FileDescription();
  // Leaves epolls and gives up locks, before any part is destroyed (base/ref.h).
  void last_reference_gone() const;

  // The caller's transfer functions. At the file's own offset (read, write) or at one that is given
  // (pread, pwrite: ESPIPE if it cannot seek). A short count is a success.
  virtual Result<size_t> read(UserBuffer& to, IoFlags flags);
  virtual Result<size_t> write(UserBuffer& from, IoFlags flags);
  virtual Result<size_t> pread(UserBuffer& to, uint64_t offset, IoFlags flags);
  virtual Result<size_t> pwrite(UserBuffer& from, uint64_t offset, IoFlags flags);
  virtual Result<uint64_t> lseek(int64_t offset, int whence);

  virtual Result<FileStat> stat();
  virtual Result<void> truncate(uint64_t size);
  virtual Result<void> allocate(int mode, uint64_t offset, uint64_t length);
  virtual Result<void> fsync(bool data_only);
  // Copies entries in the form of getdents64(2): ENOTDIR unless a directory.
  virtual Result<size_t> getdents(UserBuffer& to);
  // ENOTTY unless the kind knows the request; SIOC/FIO requests common to all are done in
  // syscalls/.
  virtual Result<uint64_t> ioctl(CurrentTask& task, uint32_t request, uint64_t argument);
  // Null: cannot be mapped (ENODEV).
  virtual RefOrNull<Mappable> mappable();
  // Readable bytes (FIONREAD), ENOTTY if unknown.
  virtual Result<uint64_t> bytes_readable();

  // Waitable: files that are always ready need nothing of this.
  EventMask readiness(EventMask mask) override;
  void add_waiter(WaitEntry& entry) override;
  void remove_waiter(WaitEntry& entry) override;
  // May epoll watch it? (Regular files and directories: EPERM.)
  virtual bool can_poll() const { return false; }

  // A change of O_NONBLOCK, O_APPEND, O_DIRECT ... by F_SETFL; a kind may refuse.
  virtual Result<void> set_status_flags(uint32_t flags);

  // O_RDONLY/O_WRONLY/O_RDWR and the status flags, as F_GETFL shows them.
  uint32_t flags() const { return flags_.load(std::memory_order_relaxed); }
  bool is_readable() const { return readable_; }
  bool is_writable() const { return writable_; }
  bool is_path_only() const { return (flags() & O_PATH) != 0; }
  bool is_nonblocking() const { return (flags() & O_NONBLOCK) != 0; }

  // Is this open(2) over? A FIFO waits for its other end; the Waitable tells with kEventInternal.
  virtual bool is_open_complete() { return true; }
  // write(2) raises SIGPIPE along with EPIPE.
  virtual bool raises_sigpipe() const { return false; }
  // A blocking write goes on until all is written (pipes, streams), instead of a short count.
  virtual bool writes_everything() const { return false; }
  // Counts an open for writing against executions of the file: ETXTBSY. Called once, by open.
  Result<void> count_as_writer();

  // Every open file has a place, if only a nameless one of its own ("pipe:[12]").
  const Path& path() const { return path_; }
  Inode& inode() const { return path_.inode(); }

 protected:
  FileDescription(Path path, uint32_t flags);

 private:
  friend class EpollLinks;
  const Path path_;  // immutable
  std::atomic<uint32_t> flags_;
  const bool readable_;
  const bool writable_;
  bool counted_as_writer_ = false;     // set once before start
  std::atomic<bool> in_epoll_{false};  // an epoll watches it: tell it at the end
};

// A place for a file that has none in the tree, such as a pipe: `name` is what /proc/PID/fd shows;
// one that ends in a colon gets the inode number: "pipe:" becomes "pipe:[7]".
Path make_anonymous_path(std::string name, uint32_t mode);
Path make_anonymous_path(std::string name, Ref<Inode> inode);
Ref<Filesystem> anonymous_filesystem();

}  // namespace caisson
