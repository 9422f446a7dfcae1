// Descriptors: dup(2), fcntl(2), flock(2), ioctl(2), pipe(2), eventfd(2). Linux: fs/fcntl.c,
// fs/locks.c, fs/ioctl.c, fs/pipe.c, fs/eventfd.c.
#include "syscalls/sys_fcntl.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/resource.h>

#include "fs/eventfd/event_file.h"
#include "fs/pipe/pipe.h"
#include "fs/tmpfs/tmpfs_file.h"
#include "kernel/run_operation.h"
#include "vfs/fd_table.h"
#include "vfs/file_locks.h"
#include "vfs/permissions.h"

namespace caisson {
namespace {

// fcntl(F_SETLKW) and flock(2): tries again whenever something is unlocked.
class LockOperation final : public Operation {
 public:
  // Without `range`: flock with `flock_operation`.
  LockOperation(Ref<FileDescription> file, std::optional<RangeLock> range, int flock_operation)
      : file_(std::move(file)), range_(range), flock_operation_(flock_operation) {}
  LockOperation(LockOperation&& other) noexcept
      : file_(other.file_), range_(other.range_), flock_operation_(other.flock_operation_) {}
  ~LockOperation() override { unblock(); }

  StepResult step(CurrentTask&) override {
    FileLocks& locks = file_->inode().locks();
    Result<void> done = range_ ? locks.set(*range_) : locks.flock(*file_, flock_operation_);
    if (done.ok()) {
      unblock();
      return uint64_t{0};
    }
    if (!(done.error() == Errno(EAGAIN))) return done.error();
    if (range_ && !range_->is_ofd) {
      std::optional<RangeLock> other = locks.find_conflict(*range_);
      if (other && !other->is_ofd) {
        blocked_ = true;
        Result<void> noted = FileLocks::note_blocked(range_->owner, other->owner);
        if (!noted.ok()) {
          unblock();
          return noted.error();
        }
      }
    }
    return MustWait{};
  }
  void arm(CurrentTask&, Waiter& waiter) override {
    entry_.waiter = &waiter;
    entry_.mask = kEventOut;
    file_->inode().locks().queue().add(entry_);
  }
  void disarm() override { file_->inode().locks().queue().remove(entry_); }
  const char* name() const override {
    return range_ ? "posix_lock_inode_wait" : "flock_lock_inode_wait";
  }

 private:
  void unblock() {
    if (blocked_) FileLocks::unblock(range_->owner);
    blocked_ = false;
  }
  Ref<FileDescription> file_;
  const std::optional<RangeLock> range_;
  const int flock_operation_;
  bool blocked_ = false;
  WaitEntry entry_;
};

Result<RangeLock> to_range(CurrentTask& task, FileDescription& file, const struct flock& given,
                           bool ofd) {
  int64_t base = 0;
  switch (given.l_whence) {
    case SEEK_SET:
      break;
    case SEEK_CUR: {
      Result<uint64_t> current = file.lseek(0, SEEK_CUR);
      base = current.ok() ? static_cast<int64_t>(current.value()) : 0;
      break;
    }
    case SEEK_END:
      base = static_cast<int64_t>(TRY(file.stat()).size);
      break;
    default:
      return Errno(EINVAL);
  }
  int64_t start;
  if (__builtin_add_overflow(base, given.l_start, &start)) return Errno(EOVERFLOW);
  if (start < 0) return Errno(EINVAL);
  RangeLock range;
  range.first = static_cast<uint64_t>(start);
  if (given.l_len > 0) {
    int64_t last;
    if (__builtin_add_overflow(start, given.l_len - 1, &last)) return Errno(EOVERFLOW);
    range.last = static_cast<uint64_t>(last);
  } else if (given.l_len < 0) {
    if (start + given.l_len < 0) return Errno(EINVAL);
    range.last = static_cast<uint64_t>(start - 1);
    range.first = static_cast<uint64_t>(start + given.l_len);
  } else {
    range.last = INT64_MAX;
  }
  range.exclusive = given.l_type == F_WRLCK;
  range.is_ofd = ofd;
  range.owner = ofd ? static_cast<const void*>(&file) : &task.files();
  range.process_id = ofd ? -1 : task.process_id();
  return range;
}

SyscallResult get_lock(CurrentTask& task, FileDescription& file, uint64_t argument, bool ofd) {
  UserInOut<struct flock> addr(argument);
  struct flock given = TRY(task.copy_in(addr));
  if (given.l_type != F_RDLCK && given.l_type != F_WRLCK && given.l_type != F_UNLCK)
    return Errno(EINVAL);
  if (ofd ? given.l_pid != 0 : given.l_type == F_UNLCK) return Errno(EINVAL);
  RangeLock range = TRY(to_range(task, file, given, ofd));
  std::optional<RangeLock> conflict = file.inode().locks().find_conflict(range);
  if (!conflict) {
    given.l_type = F_UNLCK;
  } else {
    given.l_type = conflict->exclusive ? F_WRLCK : F_RDLCK;
    given.l_whence = SEEK_SET;
    given.l_start = static_cast<int64_t>(conflict->first);
    given.l_len = conflict->last == INT64_MAX
                      ? 0
                      : static_cast<int64_t>(conflict->last - conflict->first + 1);
    given.l_pid = conflict->process_id;
  }
  return task.copy_out(addr, given);
}

SyscallResult set_lock(CurrentTask& task, const Ref<FileDescription>& file, uint64_t argument,
                       bool ofd, bool wait) {
  struct flock given = TRY(task.copy_in(UserIn<struct flock>(argument)));
  if (ofd && given.l_pid != 0) return Errno(EINVAL);
  RangeLock range = TRY(to_range(task, *file, given, ofd));
  switch (given.l_type) {
    case F_UNLCK:
      if (FileLocks* locks = file->inode().locks_or_null()) locks->unlock(range);
      return 0;
    case F_RDLCK:
      if (!file->is_readable()) return Errno(EBADF);
      break;
    case F_WRLCK:
      if (!file->is_writable()) return Errno(EBADF);
      break;
    default:
      return Errno(EINVAL);
  }
  if (!wait) return file->inode().locks().set(range);
  return run(task, LockOperation(file, range, 0));
}

SyscallResult duplicate(CurrentTask& task, Ref<FileDescription> file, uint64_t lowest,
                        bool close_on_exec) {
  uint64_t limit = task.limit(RLIMIT_NOFILE);
  if (lowest >= limit || lowest > INT32_MAX) return Errno(EINVAL);
  return task.files().install(std::move(file), {close_on_exec, static_cast<int>(lowest), limit});
}

Result<void> set_flags(CurrentTask& task, FileDescription& file, uint32_t flags) {
  if ((flags & O_NOATIME) != 0 && (file.flags() & O_NOATIME) == 0 &&
      !is_owner_or_capable(task.credentials(), file.inode()))
    return Errno(EPERM);
  return file.set_status_flags(flags);
}

}  // namespace

SyscallResult sys_dup(CurrentTask& task, uint32_t fd) {
  Ref<FileDescription> file = TRY(task.files().get_any(static_cast<int>(fd)));
  return task.files().install(std::move(file), {false, 0, task.limit(RLIMIT_NOFILE)});
}

SyscallResult sys_dup3(CurrentTask& task, uint32_t old_fd, uint32_t new_fd, int flags) {
  if ((flags & ~O_CLOEXEC) != 0) return Errno(EINVAL);
  if (old_fd == new_fd) return Errno(EINVAL);
  uint64_t limit = task.limit(RLIMIT_NOFILE);
  if (new_fd >= limit) return Errno(EBADF);
  Ref<FileDescription> file = TRY(task.files().get_any(static_cast<int>(old_fd)));
  TRY(task.files().install_at(static_cast<int>(new_fd), std::move(file),
                              {(flags & O_CLOEXEC) != 0, 0, limit}));
  return new_fd;
}

SyscallResult sys_dup2(CurrentTask& task, uint32_t old_fd, uint32_t new_fd) {
  if (old_fd == new_fd) {
    TRY(task.files().get_any(static_cast<int>(old_fd)));
    return new_fd;
  }
  return sys_dup3(task, old_fd, new_fd, 0);
}

SyscallResult sys_fcntl(CurrentTask& task, uint32_t fd, uint32_t command, uint64_t argument) {
  const int number = static_cast<int>(fd);
  Ref<FileDescription> file = TRY(task.files().get_any(number));
  switch (command) {  // what O_PATH descriptors can do
    case F_DUPFD:
    case F_DUPFD_CLOEXEC:
      return duplicate(task, std::move(file), argument, command == F_DUPFD_CLOEXEC);
    case F_GETFD:
      return TRY(task.files().close_on_exec(number)) ? FD_CLOEXEC : 0;
    case F_SETFD:
      return task.files().set_close_on_exec(number, (argument & FD_CLOEXEC) != 0);
    case F_GETFL:
      return file->flags();
    default:
      if (file->is_path_only()) return Errno(EBADF);
  }
  switch (command) {
    case F_SETFL:
      return set_flags(task, *file, static_cast<uint32_t>(argument));
    case F_GETLK:
    case F_OFD_GETLK:
      return get_lock(task, *file, argument, command == F_OFD_GETLK);
    case F_SETLK:
    case F_SETLKW:
      return set_lock(task, file, argument, false, command == F_SETLKW);
    case F_OFD_SETLK:
    case F_OFD_SETLKW:
      return set_lock(task, file, argument, true, command == F_OFD_SETLKW);
    case F_GETPIPE_SZ:
    case F_SETPIPE_SZ: {
      auto* pipe = dynamic_cast<PipeEnd*>(file.get());
      if (pipe == nullptr) return Errno(EBADF);
      if (command == F_GETPIPE_SZ) return pipe->pipe().capacity();
      if (argument > INT32_MAX) return Errno(EINVAL);
      if (argument > kMaxPipeSize && !task.credentials().has(Capability::kSysResource))
        return Errno(EPERM);
      if (argument > kMaxPipeSize * 16) return Errno(ENOMEM);
      return pipe->pipe().set_capacity(argument);
    }
    case F_GET_SEALS:
    case F_ADD_SEALS: {
      auto* data = dynamic_cast<TmpfsFile*>(&file->inode());
      if (data == nullptr) return Errno(EINVAL);
      if (command == F_GET_SEALS) return data->seals();
      if (!file->is_writable()) return Errno(EPERM);
      return data->add_seals(static_cast<uint32_t>(argument));
    }
    default:
      return Errno(EINVAL);
  }
}

SyscallResult sys_flock(CurrentTask& task, uint32_t fd, uint32_t operation) {
  const int kind = static_cast<int>(operation & ~uint32_t{LOCK_NB});
  if (kind != LOCK_SH && kind != LOCK_EX && kind != LOCK_UN) return Errno(EINVAL);
  Ref<FileDescription> file = TRY(task.files().get(static_cast<int>(fd)));
  if (kind != LOCK_UN && !file->is_readable() && !file->is_writable()) return Errno(EBADF);
  if (kind == LOCK_UN || (operation & LOCK_NB) != 0)
    return file->inode().locks().flock(*file, kind);
  return run(task, LockOperation(std::move(file), std::nullopt, kind));
}

SyscallResult sys_ioctl(CurrentTask& task, uint32_t fd, uint32_t request, uint64_t argument) {
  const int number = static_cast<int>(fd);
  Ref<FileDescription> file = TRY(task.files().get(number));
  switch (request) {
    case FIOCLEX:
      return task.files().set_close_on_exec(number, true);
    case FIONCLEX:
      return task.files().set_close_on_exec(number, false);
    case FIONBIO: {
      int on = TRY(task.copy_in(UserIn<int>(argument)));
      uint32_t flags = file->flags() & ~uint32_t{O_NONBLOCK};
      return file->set_status_flags(on != 0 ? flags | O_NONBLOCK : flags);
    }
    case FIONREAD: {
      int count = static_cast<int>(TRY(file->bytes_readable()));
      return task.copy_out(UserOut<int>(argument), count);
    }
    default:
      return file->ioctl(task, request, argument);
  }
}

SyscallResult sys_pipe2(CurrentTask& task, UserOut<int> fds, int flags) {
  if ((flags & ~(O_CLOEXEC | O_NONBLOCK)) != 0) return Errno(EINVAL);  // O_DIRECT: none here
  PipeEnd::Pair pair = PipeEnd::create_pair(static_cast<uint32_t>(flags) & O_NONBLOCK);
  int numbers[2];
  TRY(task.files().install_two(pair.reader, pair.writer,
                               {(flags & O_CLOEXEC) != 0, 0, task.limit(RLIMIT_NOFILE)}, numbers));
  Result<void> told = task.copy_out_bytes(fds.addr(), numbers, sizeof numbers);
  if (told.ok()) return 0;
  for (int number : numbers) {
    Result<Ref<FileDescription>> gone = task.files().remove(number);
    (void)gone;
  }
  return told.error();
}
SyscallResult sys_pipe(CurrentTask& task, UserOut<int> fds) { return sys_pipe2(task, fds, 0); }

SyscallResult sys_eventfd2(CurrentTask& task, uint32_t initial, int flags) {
  if ((flags & ~(EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE)) != 0) return Errno(EINVAL);
  Ref<EventFile> file = EventFile::create(initial, static_cast<uint32_t>(flags) & O_NONBLOCK,
                                          (flags & EFD_SEMAPHORE) != 0);
  return task.files().install(std::move(file),
                              {(flags & EFD_CLOEXEC) != 0, 0, task.limit(RLIMIT_NOFILE)});
}
SyscallResult sys_eventfd(CurrentTask& task, uint32_t initial) {
  return sys_eventfd2(task, initial, 0);
}

}  // namespace caisson
