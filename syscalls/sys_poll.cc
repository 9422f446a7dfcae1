// Waiting for several files: poll(2), select(2), epoll(7). Linux: fs/select.c, fs/eventpoll.c.
#include "syscalls/sys_poll.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstring>
#include <deque>

#include "host/event_loop.h"
#include "kernel/run_operation.h"
#include "kernel/task.h"
#include "vfs/fd_table.h"

namespace caisson {
namespace {

constexpr uint64_t kNsPerSecond = 1'000'000'000;

// When a wait ends, on the host's CLOCK_MONOTONIC; none: never. 0: do not wait.
using Deadline = std::optional<uint64_t>;

Deadline after_ns(uint64_t ns) {
  if (ns == 0) return 0;
  uint64_t now = host::monotonic_ns();
  uint64_t end = now + ns;
  return end < now ? UINT64_MAX : end;
}
Deadline after_ms(int ms) {
  if (ms < 0) return std::nullopt;
  return after_ns(static_cast<uint64_t>(ms) * 1'000'000);
}
Result<Deadline> after(const timespec& time) {
  if (time.tv_sec < 0 || time.tv_nsec < 0 || time.tv_nsec >= static_cast<long>(kNsPerSecond))
    return Errno(EINVAL);
  if (static_cast<uint64_t>(time.tv_sec) > UINT64_MAX / kNsPerSecond - 1)
    return Deadline(UINT64_MAX);
  return after_ns(static_cast<uint64_t>(time.tv_sec) * kNsPerSecond +
                  static_cast<uint64_t>(time.tv_nsec));
}

// The mask of ppoll and its kin; null leaves it.
Result<void> apply_mask(CurrentTask& task, UserIn<uint64_t> mask, size_t size) {
  if (mask.is_null()) return {};
  if (size != sizeof(uint64_t)) return Errno(EINVAL);
  task.set_mask_until_return(TRY(task.copy_in(mask)));
  return {};
}

// What ppoll and select write back of a relative time that is not used up.
timespec left_until(const Deadline& deadline) {
  uint64_t now = host::monotonic_ns();
  uint64_t left = deadline && *deadline > now ? *deadline - now : 0;
  return {static_cast<time_t>(left / kNsPerSecond), static_cast<long>(left % kNsPerSecond)};
}

struct Polled {
  RefOrNull<FileDescription> file;
  int fd = -1;
  EventMask wanted = 0;
  EventMask ready = 0;
};

// poll(2) and select(2): asks every file, waits on all of them. Subclasses tell the guest.
class PollOperation : public Operation {
 public:
  PollOperation(std::vector<Polled> files, Deadline deadline)
      : files_(std::move(files)), deadline_(deadline) {}

  StepResult step(CurrentTask& task) override {
    size_t ready = 0;
    for (Polled& polled : files_) {
      if (polled.file) {
        polled.ready =
            polled.file->readiness(polled.wanted | kEventAlways) & (polled.wanted | kEventAlways);
      }
      if (polled.ready != 0) ++ready;
    }
    if (ready == 0 && !(deadline_ && *deadline_ == 0)) return MustWait{};
    return finish(task);
  }
  void arm(CurrentTask&, Waiter& waiter) override {
    entries_.resize(files_.size());
    for (size_t i = 0; i < files_.size(); ++i) {
      if (!files_[i].file) continue;
      entries_[i].waiter = &waiter;
      entries_[i].mask = files_[i].wanted | kEventAlways;
      files_[i].file->add_waiter(entries_[i]);
    }
  }
  void disarm() override {
    for (size_t i = 0; i < entries_.size(); ++i) {
      if (files_[i].file) files_[i].file->remove_waiter(entries_[i]);
    }
  }
  std::optional<uint64_t> deadline_ns() const override { return deadline_; }
  StepResult timed_out(CurrentTask& task) override {
    StepResult last = step(task);  // what became ready together with the deadline counts
    return std::holds_alternative<MustWait>(last) ? finish(task) : last;
  }
  const char* name() const override { return "do_poll"; }

 protected:
  PollOperation(PollOperation&& other) noexcept
      : files_(std::move(other.files_)), deadline_(other.deadline_) {}
  // The call's value, with results copied out.
  virtual StepResult finish(CurrentTask& task) = 0;

  std::vector<Polled> files_;
  const Deadline deadline_;

 private:
  std::deque<WaitEntry> entries_;  // linked: never moved
};

class PollFdsOperation final : public PollOperation {
 public:
  // `timeout_addr`: ppoll's, which is told what is left; 0 for poll, which restarts with it.
  PollFdsOperation(std::vector<Polled> files, Deadline deadline, GuestAddr fds,
                   GuestAddr timeout_addr, bool restarts)
      : PollOperation(std::move(files), deadline),
        fds_(fds),
        timeout_addr_(timeout_addr),
        restarts_(restarts) {}
  PollFdsOperation(PollFdsOperation&&) noexcept = default;

  StepResult interrupted(CurrentTask& task) override {
    if (!restarts_) {
      tell_left(task);
      return Errno(kERESTARTNOHAND);
    }
    // poll(2) goes on until its first deadline.
    auto again = std::make_shared<PollFdsOperation>(files_, deadline_, fds_, 0, true);
    task.task().restart_block = [again](CurrentTask& current) {
      return run(current, PollFdsOperation(again->files_, again->deadline_, again->fds_, 0, true));
    };
    return Errno(kERESTART_RESTARTBLOCK);
  }

 private:
  StepResult finish(CurrentTask& task) override {
    uint64_t count = 0;
    for (size_t i = 0; i < files_.size(); ++i) {
      if (files_[i].ready != 0) ++count;
      int16_t events = static_cast<int16_t>(files_[i].ready);
      GuestAddr addr = fds_ + i * sizeof(pollfd) + offsetof(pollfd, revents);
      Result<void> told = task.copy_out_bytes(addr, &events, sizeof events);
      if (!told.ok()) return told.error();
    }
    tell_left(task);
    return count;
  }
  void tell_left(CurrentTask& task) {
    if (timeout_addr_ == 0) return;
    // Linux ignores that the timeout may be read-only, too.
    Result<void> told = task.copy_out(UserOut<timespec>(timeout_addr_), left_until(deadline_));
    (void)told;
  }

  const GuestAddr fds_;
  const GuestAddr timeout_addr_;
  const bool restarts_;
};

SyscallResult poll_fds(CurrentTask& task, GuestAddr fds, uint32_t count, Deadline deadline,
                       GuestAddr timeout_addr, bool restarts) {
  if (count > task.limit(RLIMIT_NOFILE)) return Errno(EINVAL);
  std::vector<pollfd> given = TRY(task.copy_in_array(UserIn<pollfd>(fds), count));
  std::vector<Polled> files(count);
  for (size_t i = 0; i < count; ++i) {
    files[i].fd = given[i].fd;
    files[i].wanted = static_cast<uint16_t>(given[i].events);
    if (given[i].fd < 0) continue;
    Result<Ref<FileDescription>> file = task.files().get(given[i].fd);
    if (file.ok()) {
      files[i].file = file.value().or_null();
    } else {
      files[i].ready = POLLNVAL;
    }
  }
  return run(task, PollFdsOperation(std::move(files), deadline, fds, timeout_addr, restarts));
}

// --- select

constexpr EventMask kSelectIn = POLLIN | POLLRDNORM | POLLRDBAND | POLLHUP | POLLERR;
constexpr EventMask kSelectOut = POLLOUT | POLLWRNORM | POLLWRBAND | POLLERR;
constexpr EventMask kSelectExcept = POLLPRI;

class SelectOperation final : public PollOperation {
 public:
  SelectOperation(std::vector<Polled> files, Deadline deadline, int count,
                  const GuestAddr (&sets)[3], GuestAddr timeout_addr, bool is_timeval)
      : PollOperation(std::move(files), deadline),
        count_(count),
        timeout_addr_(timeout_addr),
        is_timeval_(is_timeval) {
    std::copy_n(sets, 3, sets_);
  }
  SelectOperation(SelectOperation&&) noexcept = default;

  StepResult interrupted(CurrentTask& task) override {
    tell_left(task);
    return Errno(kERESTARTNOHAND);
  }

 private:
  StepResult finish(CurrentTask& task) override {
    constexpr EventMask kKinds[3] = {kSelectIn, kSelectOut, kSelectExcept};
    uint64_t total = 0;
    for (int kind = 0; kind < 3; ++kind) {
      if (sets_[kind] == 0) continue;
      std::vector<uint64_t> bits((static_cast<size_t>(count_) + 63) / 64);
      for (const Polled& polled : files_) {
        // `wanted` says in which sets the number was.
        if ((polled.wanted & kKinds[kind] & ~kEventAlways) == 0) continue;
        if ((polled.ready & kKinds[kind]) == 0) continue;
        bits[static_cast<size_t>(polled.fd) / 64] |= 1ull << (polled.fd % 64);
        ++total;
      }
      Result<void> told = task.copy_out_bytes(sets_[kind], bits.data(), bits.size() * 8);
      if (!told.ok()) return told.error();
    }
    tell_left(task);
    return total;
  }
  void tell_left(CurrentTask& task) {
    if (timeout_addr_ == 0) return;
    timespec left = left_until(deadline_);
    Result<void> told;
    if (is_timeval_) {
      told =
          task.copy_out(UserOut<timeval>(timeout_addr_), timeval{left.tv_sec, left.tv_nsec / 1000});
    } else {
      told = task.copy_out(UserOut<timespec>(timeout_addr_), left);
    }
    (void)told;
  }

  const int count_;
  GuestAddr sets_[3];
  const GuestAddr timeout_addr_;
  const bool is_timeval_;
};

SyscallResult select_fds(CurrentTask& task, int count, const GuestAddr (&sets)[3],
                         Deadline deadline, GuestAddr timeout_addr, bool is_timeval) {
  if (count < 0) return Errno(EINVAL);
  std::vector<int> open = task.files().numbers();
  // Linux looks no further than its table of descriptors is long.
  int table = std::max(256, open.empty() ? 0 : (open.back() + 64) / 64 * 64);
  count = std::min(count, table);
  constexpr EventMask kWanted[3] = {POLLIN | POLLRDNORM | POLLRDBAND,
                                    POLLOUT | POLLWRNORM | POLLWRBAND, POLLPRI};
  std::vector<EventMask> wanted(static_cast<size_t>(count));
  for (int kind = 0; kind < 3; ++kind) {
    if (sets[kind] == 0 || count == 0) continue;
    std::vector<uint64_t> bits = TRY(
        task.copy_in_array(UserIn<uint64_t>(sets[kind]), (static_cast<size_t>(count) + 63) / 64));
    for (size_t fd = 0; fd < wanted.size(); ++fd) {
      if ((bits[fd / 64] >> (fd % 64) & 1) != 0) wanted[fd] |= kWanted[kind];
    }
  }
  std::vector<Polled> files;
  for (size_t fd = 0; fd < wanted.size(); ++fd) {
    if (wanted[fd] == 0) continue;
    Polled polled;
    polled.fd = static_cast<int>(fd);
    polled.wanted = wanted[fd];
    polled.file = TRY(task.files().get(polled.fd)).or_null();
    files.push_back(std::move(polled));
  }
  return run(task,
             SelectOperation(std::move(files), deadline, count, sets, timeout_addr, is_timeval));
}

// --- epoll

class EpollWaitOperation final : public Operation {
 public:
  EpollWaitOperation(Ref<FileDescription> file, EpollFile& epoll, UserOut<EpollEvent> events,
                     size_t max, Deadline deadline)
      : file_(std::move(file)), epoll_(epoll), events_(events), max_(max), deadline_(deadline) {}
  EpollWaitOperation(EpollWaitOperation&& other) noexcept
      : file_(other.file_),
        epoll_(other.epoll_),
        events_(other.events_),
        max_(other.max_),
        deadline_(other.deadline_) {}

  StepResult step(CurrentTask& task) override {
    std::vector<EpollEvent> ready = epoll_.collect(max_);
    if (ready.empty()) {
      if (deadline_ && *deadline_ == 0) return uint64_t{0};
      return MustWait{};
    }
    Result<void> told =
        task.copy_out_bytes(events_.addr(), ready.data(), ready.size() * sizeof(EpollEvent));
    if (!told.ok()) return told.error();
    return uint64_t{ready.size()};
  }
  void arm(CurrentTask&, Waiter& waiter) override {
    entry_.waiter = &waiter;
    entry_.mask = kEventIn;
    epoll_.add_waiter(entry_);
  }
  void disarm() override { epoll_.remove_waiter(entry_); }
  std::optional<uint64_t> deadline_ns() const override { return deadline_; }
  StepResult timed_out(CurrentTask& task) override {
    StepResult last = step(task);
    return std::holds_alternative<MustWait>(last) ? StepResult(uint64_t{0}) : last;
  }
  StepResult interrupted(CurrentTask&) override { return Errno(EINTR); }
  const char* name() const override { return "ep_poll"; }

 private:
  Ref<FileDescription> file_;  // keeps epoll_ alive
  EpollFile& epoll_;
  const UserOut<EpollEvent> events_;
  const size_t max_;
  const Deadline deadline_;
  WaitEntry entry_;
};

SyscallResult epoll_wait_until(CurrentTask& task, int epoll_fd, UserOut<EpollEvent> events, int max,
                               Deadline deadline) {
  constexpr int kMaxEvents = INT32_MAX / static_cast<int>(sizeof(EpollEvent));
  if (max <= 0 || max > kMaxEvents) return Errno(EINVAL);
  Ref<FileDescription> file = TRY(task.files().get(epoll_fd));
  auto* epoll = dynamic_cast<EpollFile*>(file.get());
  if (epoll == nullptr) return Errno(EINVAL);
  return run(task, EpollWaitOperation(std::move(file), *epoll, events, static_cast<size_t>(max),
                                      deadline));
}

}  // namespace

SyscallResult sys_poll(CurrentTask& task, UserInOut<uint64_t> fds, uint32_t count, int timeout_ms) {
  return poll_fds(task, fds.addr(), count, after_ms(timeout_ms), 0, true);
}

SyscallResult sys_ppoll(CurrentTask& task, UserInOut<uint64_t> fds, uint32_t count,
                        UserInOut<timespec> timeout, UserIn<uint64_t> mask, size_t mask_size) {
  Deadline deadline;
  if (!timeout.is_null()) deadline = TRY(after(TRY(task.copy_in(timeout))));
  TRY(apply_mask(task, mask, mask_size));
  return poll_fds(task, fds.addr(), count, deadline, timeout.addr(), false);
}

SyscallResult sys_select(CurrentTask& task, int count, UserInOut<uint64_t> in,
                         UserInOut<uint64_t> out, UserInOut<uint64_t> except,
                         UserInOut<timeval> timeout) {
  Deadline deadline;
  if (!timeout.is_null()) {
    timeval time = TRY(task.copy_in(timeout));
    if (time.tv_sec < 0 || time.tv_usec < 0) return Errno(EINVAL);
    time_t seconds;
    if (__builtin_add_overflow(time.tv_sec, time.tv_usec / 1'000'000, &seconds))
      return Errno(EINVAL);
    deadline = TRY(after({seconds, time.tv_usec % 1'000'000 * 1000}));
  }
  return select_fds(task, count, {in.addr(), out.addr(), except.addr()}, deadline, timeout.addr(),
                    true);
}

SyscallResult sys_pselect6(CurrentTask& task, int count, UserInOut<uint64_t> in,
                           UserInOut<uint64_t> out, UserInOut<uint64_t> except,
                           UserInOut<timespec> timeout, UserIn<uint64_t> mask_and_size) {
  UserIn<uint64_t> mask;
  size_t mask_size = 0;
  if (!mask_and_size.is_null()) {
    std::vector<uint64_t> both = TRY(task.copy_in_array(mask_and_size, 2));
    mask = UserIn<uint64_t>(both[0]);
    mask_size = both[1];
  }
  Deadline deadline;
  if (!timeout.is_null()) deadline = TRY(after(TRY(task.copy_in(timeout))));
  TRY(apply_mask(task, mask, mask_size));
  return select_fds(task, count, {in.addr(), out.addr(), except.addr()}, deadline, timeout.addr(),
                    false);
}

SyscallResult sys_epoll_create1(CurrentTask& task, int flags) {
  if ((flags & ~EPOLL_CLOEXEC) != 0) return Errno(EINVAL);
  return task.files().install(EpollFile::create(),
                              {(flags & EPOLL_CLOEXEC) != 0, 0, task.limit(RLIMIT_NOFILE)});
}
SyscallResult sys_epoll_create(CurrentTask& task, int size) {
  if (size <= 0) return Errno(EINVAL);
  return sys_epoll_create1(task, 0);
}

SyscallResult sys_epoll_ctl(CurrentTask& task, int epoll_fd, int operation, int fd,
                            UserIn<EpollEvent> event) {
  EpollEvent wanted{};
  if (operation != EPOLL_CTL_DEL) wanted = TRY(task.copy_in(event));
  Ref<FileDescription> file = TRY(task.files().get(epoll_fd));
  Ref<FileDescription> target = TRY(task.files().get(fd));
  if (!target->can_poll()) return Errno(EPERM);
  auto* epoll = dynamic_cast<EpollFile*>(file.get());
  if (epoll == nullptr || file == target) return Errno(EINVAL);
  switch (operation) {
    case EPOLL_CTL_ADD:
      return epoll->add(std::move(target), fd, wanted);
    case EPOLL_CTL_MOD:
      return epoll->modify(*target, fd, wanted);
    case EPOLL_CTL_DEL:
      return epoll->remove(*target, fd);
    default:
      return Errno(EINVAL);
  }
}

SyscallResult sys_epoll_wait(CurrentTask& task, int epoll_fd, UserOut<EpollEvent> events, int max,
                             int timeout_ms) {
  return epoll_wait_until(task, epoll_fd, events, max, after_ms(timeout_ms));
}
SyscallResult sys_epoll_pwait(CurrentTask& task, int epoll_fd, UserOut<EpollEvent> events, int max,
                              int timeout_ms, UserIn<uint64_t> mask, size_t mask_size) {
  TRY(apply_mask(task, mask, mask_size));
  return epoll_wait_until(task, epoll_fd, events, max, after_ms(timeout_ms));
}
SyscallResult sys_epoll_pwait2(CurrentTask& task, int epoll_fd, UserOut<EpollEvent> events, int max,
                               UserIn<timespec> timeout, UserIn<uint64_t> mask, size_t mask_size) {
  Deadline deadline;
  if (!timeout.is_null()) deadline = TRY(after(TRY(task.copy_in(timeout))));
  TRY(apply_mask(task, mask, mask_size));
  return epoll_wait_until(task, epoll_fd, events, max, deadline);
}

}  // namespace caisson
