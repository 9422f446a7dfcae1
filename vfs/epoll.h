// EpollFile: epoll(7). Linux: fs/eventpoll.c.
//
// Items are keyed by open file and descriptor number and hold no reference to the file: it takes
// itself out when its last reference goes (EpollLinks). An item is a Waiter of its file; when told,
// it joins the ready list and tells the epoll's own waiters, which may be other epolls.
//
// Locks: mu_ (kEpoll, taken before the polled files' locks) guards the items; ready_mu_ (kLeaf) the
// ready list, which notifications reach from inside the files' locks.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "base/intrusive_list.h"
#include "base/mutex.h"
#include "vfs/file_description.h"

namespace caisson {

// struct epoll_event: packed on x86-64.
struct EpollEvent {
  uint32_t events = 0;
  uint64_t data = 0;
} __attribute__((packed));
static_assert(sizeof(EpollEvent) == 12);

class EpollFile final : public FileDescription {
 public:
  static Ref<EpollFile> create();
  ~EpollFile() override;

  // EEXIST, EPERM (cannot be polled), ELOOP (a circle, or nested too deep), ENOSPC.
  Result<void> add(Ref<FileDescription> file, int fd, EpollEvent event);
  Result<void> modify(FileDescription& file, int fd, EpollEvent event);  // ENOENT
  Result<void> remove(FileDescription& file, int fd);                    // ENOENT

  // Up to `max` events that hold now; none without waiting.
  std::vector<EpollEvent> collect(size_t max);

  EventMask readiness(EventMask mask) override;
  void add_waiter(WaitEntry& entry) override { queue_.add(entry); }
  void remove_waiter(WaitEntry& entry) override { queue_.remove(entry); }
  bool can_poll() const override { return true; }
  // For /proc/PID/fdinfo.
  std::vector<std::pair<int, EpollEvent>> items() const;

 private:
  friend class EpollLinks;
  struct ReadyTag;
  struct Item final : Waiter, ListNode<ReadyTag> {
    Item(EpollFile& owner, FileDescription& file, int fd) : owner(owner), file(file), fd(fd) {}
    void notified(EventMask events) override;
    EpollFile& owner;
    FileDescription& file;  // alive: it removes its items first
    const int fd;
    EpollEvent event;
    WaitEntry entry;
  };
  using Key = std::pair<const FileDescription*, int>;
  using ReadyList = IntrusiveList<Item, ReadyTag>;

  explicit EpollFile(Path path) : FileDescription(std::move(path), O_RDWR) {}
  EventMask item_readiness(Item& item) REQUIRES(mu_);
  void start_item(Item& item) REQUIRES(mu_);
  void stop_item(Item& item) REQUIRES(mu_);
  void make_ready(Item& item);
  void forget(const FileDescription& file);
  // Number of epolls on the longest way down from here; > limit if `wanted` is met.
  int depth_below(const EpollFile& wanted, std::vector<const EpollFile*>& seen);

  mutable Mutex<LockRank::kEpoll> mu_;
  std::map<Key, std::unique_ptr<Item>> items_ GUARDED_BY(mu_);
  mutable Mutex<LockRank::kLeaf> ready_mu_;
  ReadyList ready_ GUARDED_BY(ready_mu_);
  WaitQueue queue_;
};

}  // namespace caisson
