// EpollLinks: which epolls watch an open file, so that a file that goes leaves them.
//
// One for the kernel process. Its lock (rank kEpoll, before those of the epolls) is taken by
// epoll_ctl(2) and by the end of watched files and epolls, never by epoll_wait(2).
#pragma once

#include <unordered_map>
#include <vector>

#include "base/mutex.h"

namespace caisson {

class EpollFile;
class FileDescription;

class EpollLinks {
 public:
  static EpollLinks& instance();
  // The last reference to `file` has gone: every epoll forgets it.
  static void file_is_gone(const FileDescription& file);

 private:
  friend class EpollFile;
  static void mark_watched(FileDescription& file);
  void add_locked(FileDescription& file, EpollFile& epoll) REQUIRES(mu_);
  void remove_locked(const FileDescription& file, const EpollFile& epoll) REQUIRES(mu_);

  Mutex<LockRank::kEpoll> mu_;
  // One entry per item, so an epoll may appear more than once.
  std::unordered_map<const FileDescription*, std::vector<EpollFile*>> watchers_ GUARDED_BY(mu_);
};

}  // namespace caisson
