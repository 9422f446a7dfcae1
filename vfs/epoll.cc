#include "vfs/epoll.h"

#include <sys/epoll.h>

#include <algorithm>

#include "vfs/epoll_links.h"

namespace caisson {
namespace {

constexpr uint32_t kFlagBits = EPOLLET | EPOLLONESHOT | EPOLLWAKEUP | EPOLLEXCLUSIVE;
constexpr int kMaxNesting = 5;          // EP_MAX_NESTS + 1
constexpr size_t kMaxItems = 1u << 20;  // fs.epoll.max_user_watches is of this order

}  // namespace

EpollLinks& EpollLinks::instance() {
  static auto* const links = new EpollLinks();
  return *links;
}

void EpollLinks::mark_watched(FileDescription& file) {
  file.in_epoll_.store(true, std::memory_order_release);
}

void EpollLinks::add_locked(FileDescription& file, EpollFile& epoll) {
  mark_watched(file);
  watchers_[&file].push_back(&epoll);
}

void EpollLinks::remove_locked(const FileDescription& file, const EpollFile& epoll) {
  auto it = watchers_.find(&file);
  if (it == watchers_.end()) return;
  auto position = std::find(it->second.begin(), it->second.end(), &epoll);
  if (position != it->second.end()) it->second.erase(position);
  if (it->second.empty()) watchers_.erase(it);
}

void EpollLinks::file_is_gone(const FileDescription& file) {
  EpollLinks& links = instance();
  MutexLock lock(links.mu_);
  auto it = links.watchers_.find(&file);
  if (it == links.watchers_.end()) return;
  for (EpollFile* epoll : it->second) epoll->forget(file);
  links.watchers_.erase(it);
}

Ref<EpollFile> EpollFile::create() {
  return adopt_ref(new EpollFile(make_anonymous_path("anon_inode:[eventpoll]", 0600)));
}

EpollFile::~EpollFile() {
  EpollLinks& links = EpollLinks::instance();
  MutexLock lock(links.mu_);
  MutexLockSameRank own(mu_);
  for (auto& [key, item] : items_) {
    stop_item(*item);
    links.remove_locked(item->file, *this);
  }
  items_.clear();
}

void EpollFile::Item::notified(EventMask) { owner.make_ready(*this); }

void EpollFile::make_ready(Item& item) {
  {
    MutexLock lock(ready_mu_);
    if (!static_cast<ListNode<ReadyTag>&>(item).linked()) ready_.push_back(item);
  }
  queue_.notify(kEventIn);
}

EventMask EpollFile::item_readiness(Item& item) {
  EventMask wanted = item.event.events & ~kFlagBits;
  if (wanted == 0) return 0;  // EPOLLONESHOT has fired
  return item.file.readiness(wanted) & (wanted | kEventAlways);
}

void EpollFile::start_item(Item& item) {
  item.entry.waiter = &item;
  item.entry.mask = (item.event.events & ~kFlagBits) | kEventAlways;
  item.file.add_waiter(item.entry);
  if (item_readiness(item) != 0) make_ready(item);
}

void EpollFile::stop_item(Item& item) {
  item.file.remove_waiter(item.entry);  // no callback runs after this
  MutexLock lock(ready_mu_);
  if (static_cast<ListNode<ReadyTag>&>(item).linked()) ready_.remove(item);
}

int EpollFile::depth_below(const EpollFile& wanted, std::vector<const EpollFile*>& seen) {
  if (this == &wanted) return kMaxNesting + 1;
  if (std::find(seen.begin(), seen.end(), this) != seen.end()) return 0;
  seen.push_back(this);
  int deepest = 0;
  MutexLockSameRank lock(mu_);
  for (auto& [key, item] : items_) {
    if (auto* inner = dynamic_cast<EpollFile*>(&item->file))
      deepest = std::max(deepest, inner->depth_below(wanted, seen));
    if (deepest > kMaxNesting) break;
  }
  return deepest + 1;
}

Result<void> EpollFile::add(Ref<FileDescription> file, int fd, EpollEvent event) {
  if (file.get() == this) return Errno(EINVAL);
  if (!file->can_poll()) return Errno(EPERM);
  if ((event.events & EPOLLEXCLUSIVE) != 0) {
    constexpr uint32_t kAllowed =
        EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP | EPOLLWAKEUP | EPOLLET | EPOLLEXCLUSIVE;
    if ((event.events & ~kAllowed) != 0) return Errno(EINVAL);
  }
  EpollLinks& links = EpollLinks::instance();
  MutexLock lock(links.mu_);
  if (auto* inner = dynamic_cast<EpollFile*>(file.get())) {
    if ((event.events & EPOLLEXCLUSIVE) != 0) return Errno(EINVAL);
    std::vector<const EpollFile*> seen;
    if (inner->depth_below(*this, seen) >= kMaxNesting) return Errno(ELOOP);
  }
  MutexLockSameRank own(mu_);
  Key key{file.get(), fd};
  if (items_.contains(key)) return Errno(EEXIST);
  if (items_.size() >= kMaxItems) return Errno(ENOSPC);
  auto item = std::make_unique<Item>(*this, *file, fd);
  item->event = event;
  item->event.events |= EPOLLERR | EPOLLHUP;
  links.add_locked(*file, *this);
  Item& placed = *item;
  items_.emplace(key, std::move(item));
  start_item(placed);
  return {};
}

Result<void> EpollFile::modify(FileDescription& file, int fd, EpollEvent event) {
  if (&file == this) return Errno(EINVAL);
  MutexLock own(mu_);
  auto it = items_.find(Key{&file, fd});
  if (it == items_.end()) return Errno(ENOENT);
  Item& item = *it->second;
  if ((item.event.events & EPOLLEXCLUSIVE) != 0 || (event.events & EPOLLEXCLUSIVE) != 0)
    return Errno(EINVAL);
  stop_item(item);
  item.event = event;
  item.event.events |= EPOLLERR | EPOLLHUP;
  start_item(item);
  return {};
}

Result<void> EpollFile::remove(FileDescription& file, int fd) {
  if (&file == this) return Errno(EINVAL);
  EpollLinks& links = EpollLinks::instance();
  MutexLock lock(links.mu_);
  MutexLockSameRank own(mu_);
  auto it = items_.find(Key{&file, fd});
  if (it == items_.end()) return Errno(ENOENT);
  stop_item(*it->second);
  links.remove_locked(file, *this);
  items_.erase(it);
  return {};
}

void EpollFile::forget(const FileDescription& file) {
  MutexLockSameRank own(mu_);
  for (auto it = items_.lower_bound(Key{&file, INT32_MIN});
       it != items_.end() && it->first.first == &file;) {
    stop_item(*it->second);
    it = items_.erase(it);
  }
}

std::vector<EpollEvent> EpollFile::collect(size_t max) {
  std::vector<EpollEvent> events;
  std::vector<Item*> again;  // level-triggered: they stay ready until seen otherwise
  MutexLock own(mu_);
  size_t to_check;
  {
    MutexLock lock(ready_mu_);
    if (ready_.empty()) return events;
    to_check = items_.size();
  }
  while (to_check-- > 0 && events.size() < max) {
    Item* item;
    {
      MutexLock lock(ready_mu_);
      item = ready_.pop_front();
    }
    if (item == nullptr) break;
    EventMask ready = item_readiness(*item);
    if (ready == 0) continue;
    events.push_back(EpollEvent{ready, item->event.data});
    if ((item->event.events & EPOLLONESHOT) != 0) {
      item->event.events &= kFlagBits;
    } else if ((item->event.events & EPOLLET) == 0) {
      again.push_back(item);
    }
  }
  MutexLock lock(ready_mu_);
  for (Item* item : again) {
    if (!static_cast<ListNode<ReadyTag>&>(*item).linked()) ready_.push_back(*item);
  }
  return events;
}

EventMask EpollFile::readiness(EventMask mask) {
  if ((mask & kEventIn) == 0) return 0;
  MutexLockSameRank own(mu_);
  for (;;) {
    Item* item;
    {
      MutexLock lock(ready_mu_);
      item = ready_.pop_front();  // before it is asked: being told afterwards lists it again
    }
    if (item == nullptr) return 0;
    if (item_readiness(*item) == 0) continue;
    MutexLock lock(ready_mu_);
    if (!static_cast<ListNode<ReadyTag>&>(*item).linked()) ready_.push_front(*item);
    return kEventIn;
  }
}

std::vector<std::pair<int, EpollEvent>> EpollFile::items() const {
  std::vector<std::pair<int, EpollEvent>> result;
  MutexLock own(mu_);
  for (const auto& [key, item] : items_) result.emplace_back(item->fd, item->event);
  return result;
}

}  // namespace caisson
