// FileLocks: record locks (fcntl(2): POSIX and open-file-description ones) and whole-file locks
// (flock(2)) of one file. Linux: fs/locks.c.
//
// Made at the first lock of an inode, owned by it. The range lists hold no references: a POSIX
// lock goes when its process (its FdTable) closes any descriptor of the file, the others with their
// FileDescription. Waiting is done by syscalls/ on queue(). Lock: mu_, rank kLeaf.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/mutex.h"
#include "base/result.h"
#include "kernel/waiter/wait_queue.h"

namespace caisson {

class FdTable;
class FileDescription;

struct RangeLock {
  bool exclusive = false;
  uint64_t first = 0;
  uint64_t last = 0;            // inclusive
  const void* owner = nullptr;  // an FdTable, or a FileDescription for OFD locks
  bool is_ofd = false;
  int32_t process_id = 0;  // for F_GETLK
};

class FileLocks {
 public:
  // Sets what `lock` says, splitting and joining the owner's others. EAGAIN in a conflict.
  Result<void> set(const RangeLock& lock) EXCLUDES(mu_);
  void unlock(const RangeLock& range) EXCLUDES(mu_);
  std::optional<RangeLock> find_conflict(const RangeLock& lock) const EXCLUDES(mu_);

  // flock(2): LOCK_SH, LOCK_EX or LOCK_UN for this open file. EWOULDBLOCK in a conflict; a
  // conversion has then dropped the former lock, as Linux does.
  Result<void> flock(const FileDescription& file, int operation) EXCLUDES(mu_);

  void remove_posix(const FdTable* owner) EXCLUDES(mu_);
  void remove_all_of_file(const FileDescription& file) EXCLUDES(mu_);

  // Notified with kEventOut whenever something is unlocked.
  WaitQueue& queue() { return queue_; }

  // EDEADLK if `owner` would wait for a lock whose owner waits, through others, for `owner`. The
  // note stays until unblock(). For POSIX locks only.
  static Result<void> note_blocked(const void* owner, const void* on);
  static void unblock(const void* owner);

 private:
  struct WholeLock {
    const FileDescription* owner;
    bool exclusive;
  };
  std::optional<RangeLock> find_conflict_locked(const RangeLock& lock) const REQUIRES(mu_);
  void cut_locked(const RangeLock& range) REQUIRES(mu_);

  mutable Mutex<LockRank::kLeaf> mu_;
  std::vector<RangeLock> ranges_ GUARDED_BY(mu_);
  std::vector<WholeLock> whole_ GUARDED_BY(mu_);
  WaitQueue queue_;
};

}  // namespace caisson
