#include "host/event_loop.h"

#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>

#include <vector>

namespace caisson::host {
namespace {
constexpr uint64_t kWakeTag = ~0ull;
constexpr uint64_t kTimerTag = ~0ull - 1;
}  // namespace

uint64_t monotonic_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(now.tv_nsec);
}

Result<std::unique_ptr<EventLoop>> EventLoop::create() {
  std::unique_ptr<EventLoop> loop(new EventLoop());
  loop->epoll_.reset(epoll_create1(EPOLL_CLOEXEC));
  loop->wake_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  loop->timer_.reset(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!loop->epoll_ || !loop->wake_ || !loop->timer_) return Errno(errno);
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET;
  event.data.u64 = kWakeTag;
  if (epoll_ctl(loop->epoll_.get(), EPOLL_CTL_ADD, loop->wake_.get(), &event) < 0)
    return Errno(errno);
  event.data.u64 = kTimerTag;
  if (epoll_ctl(loop->epoll_.get(), EPOLL_CTL_ADD, loop->timer_.get(), &event) < 0)
    return Errno(errno);
  return loop;
}

EventLoop::~EventLoop() {
  stop();
  for (const auto& [when, target] : deadlines_) target->unref();
}

Result<void> EventLoop::start() {
  thread_ = std::thread([this] { run(); });
  return {};
}

void EventLoop::stop() {
  if (!thread_.joinable()) return;
  stopping_ = true;
  kick();
  thread_.join();
}

void EventLoop::kick() {
  uint64_t one = 1;
  if (write(wake_.get(), &one, sizeof one) < 0) {
    // Already pending: the counter is full.
  }
}

Result<void> EventLoop::watch(int fd, uint32_t epoll_events, Ref<FdWatcher> watcher) {
  MutexLock lock(mu_);
  uint64_t tag = (next_generation_++ << 32) | static_cast<uint32_t>(fd);
  epoll_event event{};
  event.events = epoll_events | EPOLLET;
  event.data.u64 = tag;
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) < 0) return Errno(errno);
  watchers_.insert_or_assign(fd, std::make_pair(tag, std::move(watcher)));
  return {};
}

void EventLoop::unwatch(int fd) {
  RefOrNull<FdWatcher> gone;
  MutexLock lock(mu_);
  auto it = watchers_.find(fd);
  if (it == watchers_.end()) return;
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  gone = std::move(it->second.second).or_null();
  watchers_.erase(it);
}

void EventLoop::add_deadline(uint64_t deadline_ns, Ref<DeadlineTarget> target) {
  MutexLock lock(mu_);
  DeadlineTarget* raw = target.get();
  if (!deadlines_.insert({deadline_ns, raw}).second) return;  // the same deadline twice is one
  raw->ref();
  if (deadlines_.begin()->second != raw || deadlines_.begin()->first != deadline_ns) return;
  if (timer_set_for_ != 0 && timer_set_for_ <= deadline_ns) return;
  timer_set_for_ = deadline_ns;
  itimerspec spec{};
  spec.it_value.tv_sec = static_cast<time_t>(deadline_ns / 1'000'000'000u);
  spec.it_value.tv_nsec = static_cast<long>(deadline_ns % 1'000'000'000u);
  if (deadline_ns == 0) spec.it_value.tv_nsec = 1;
  timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &spec, nullptr);
}

bool EventLoop::cancel_deadline(uint64_t deadline_ns, DeadlineTarget& target) {
  {
    MutexLock lock(mu_);
    if (deadlines_.erase({deadline_ns, &target}) == 0) return false;
  }
  // The timer is left as it is: at most one needless wake-up, cheaper than re-arming for each
  // cancelled wait.
  target.unref();
  return true;
}

void EventLoop::run() {
  epoll_event events[64];
  while (!stopping_) {
    int count = epoll_wait(epoll_.get(), events, 64, -1);
    for (int i = 0; i < count; ++i) {
      uint64_t tag = events[i].data.u64;
      uint64_t drained;
      if (tag == kWakeTag) {
        while (read(wake_.get(), &drained, sizeof drained) > 0) {
        }
        continue;
      }
      if (tag == kTimerTag) {
        while (read(timer_.get(), &drained, sizeof drained) > 0) {
        }
        std::vector<std::pair<uint64_t, DeadlineTarget*>> due;
        {
          MutexLock lock(mu_);
          uint64_t now = monotonic_ns();
          while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
            due.push_back(*deadlines_.begin());
            deadlines_.erase(deadlines_.begin());
          }
          timer_set_for_ = 0;
          if (!deadlines_.empty()) {
            timer_set_for_ = deadlines_.begin()->first;
            itimerspec spec{};
            spec.it_value.tv_sec = static_cast<time_t>(timer_set_for_ / 1'000'000'000u);
            spec.it_value.tv_nsec = static_cast<long>(timer_set_for_ % 1'000'000'000u);
            timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &spec, nullptr);
          }
        }
        for (auto& [when, target] : due) {
          target->expired(when);
          target->unref();
        }
        continue;
      }
      RefOrNull<FdWatcher> watcher;
      {
        MutexLock lock(mu_);
        auto it = watchers_.find(static_cast<int>(tag & 0xffffffffu));
        if (it != watchers_.end() && it->second.first == tag) watcher = it->second.second.or_null();
      }
      if (watcher) watcher->ready(events[i].events);
    }
  }
}

}  // namespace caisson::host
