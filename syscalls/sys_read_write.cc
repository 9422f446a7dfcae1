// Moving data: read(2), write(2) and their vector and positioned forms, lseek(2), sendfile(2),
// copy_file_range(2), fsync(2), truncation. Linux: fs/read_write.c, fs/sync.c, fs/open.c.
#include "syscalls/sys_read_write.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "abi/signal.h"
#include "kernel/run_operation.h"
#include "mm/memory_manager.h"
#include "syscalls/io_operation.h"
#include "syscalls/sys_socket.h"
#include "vfs/fd_table.h"
#include "vfs/filesystem.h"
#include "vfs/permissions.h"

namespace caisson {
namespace {

using Direction = TransferOperation::Direction;

Result<Ref<FileDescription>> get_for(CurrentTask& task, int fd, Direction direction) {
  Ref<FileDescription> file = TRY(task.files().get(fd));
  if (direction == Direction::kRead ? !file->is_readable() : !file->is_writable())
    return Errno(EBADF);
  return file;
}

// RLIMIT_FSIZE, for regular files: SIGXFSZ and EFBIG at the limit, a short write below it.
Result<void> apply_size_limit(CurrentTask& task, FileDescription& file, UserBuffer& buffer,
                              std::optional<uint64_t> offset) {
  uint64_t limit = task.limit(RLIMIT_FSIZE);
  if (limit == ~0ull || !file.inode().is_regular()) return {};
  uint64_t begin;
  if ((file.flags() & O_APPEND) != 0) {
    begin = TRY(file.stat()).size;
  } else {
    begin = offset ? *offset : TRY(file.lseek(0, SEEK_CUR));
  }
  if (begin >= limit && buffer.remaining() != 0) {
    task.raise(SIGXFSZ);
    return Errno(EFBIG);
  }
  buffer.truncate(std::min(buffer.remaining(), limit - begin));
  return {};
}

SyscallResult transfer(CurrentTask& task, Ref<FileDescription> file, Result<UserBuffer> buffer,
                       Direction direction, std::optional<int64_t> offset, uint32_t rwf) {
  if (!buffer.ok()) return buffer.error();
  std::optional<uint64_t> at;
  if (offset) {
    if (*offset < 0) return Errno(EINVAL);
    at = static_cast<uint64_t>(*offset);
  }
  if (direction == Direction::kWrite) {
    Result<void> limited = apply_size_limit(task, *file, buffer.value(), at);
    if (!limited.ok()) return limited.error();
  }
  if (RefOrNull<Socket> socket = as_socket(file)) {
    if (at) return Errno(ESPIPE);
    if ((rwf & ~uint32_t{RWF_NOWAIT}) != 0) return Errno(EOPNOTSUPP);
    const int flags = (rwf & RWF_NOWAIT) != 0 ? MSG_DONTWAIT : 0;
    auto* transfer_data = direction == Direction::kRead ? read_socket : write_socket;
    return transfer_data(Ref<Socket>::from(std::move(socket)), task, std::move(buffer).value(),
                         flags);
  }
  IoFlags flags{rwf, file->is_nonblocking() || (rwf & RWF_NOWAIT) != 0};
  return run(task,
             TransferOperation(std::move(file), std::move(buffer).value(), direction, at, flags));
}

SyscallResult vector_transfer(CurrentTask& task, uint64_t fd, UserIn<uint64_t> vector,
                              uint64_t count, std::optional<int64_t> offset, uint32_t rwf,
                              Direction direction) {
  Ref<FileDescription> file = TRY(get_for(task, static_cast<int>(fd), direction));
  constexpr uint32_t kKnown =
      RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_NOWAIT | RWF_APPEND | 0x20 /* RWF_NOAPPEND */;
  if ((rwf & ~kKnown) != 0 || (rwf & 0x20) != 0) return Errno(EOPNOTSUPP);
  return transfer(task, std::move(file), UserBuffer::create_vector(task.mm(), vector.addr(), count),
                  direction, offset, rwf);
}

// preadv2(2): offset -1 is the file's own.
std::optional<int64_t> offset_or_current(uint64_t offset) {
  if (offset == ~0ull) return std::nullopt;
  return static_cast<int64_t>(offset);
}

// One buffer; without `offset`, at the file's own.
SyscallResult transfer_one(CurrentTask& task, int fd, GuestAddr buffer, size_t count,
                           Direction direction, std::optional<int64_t> offset) {
  if (offset && *offset < 0) return Errno(EINVAL);
  Ref<FileDescription> file = TRY(get_for(task, fd, direction));
  return transfer(task, std::move(file), UserBuffer::create(task.mm(), buffer, count), direction,
                  offset, 0);
}

}  // namespace

SyscallResult sys_read(CurrentTask& task, int fd, UserOut<std::byte> buffer, size_t count) {
  return transfer_one(task, fd, buffer.addr(), count, Direction::kRead, std::nullopt);
}

SyscallResult sys_write(CurrentTask& task, int fd, UserIn<std::byte> buffer, size_t count) {
  return transfer_one(task, fd, buffer.addr(), count, Direction::kWrite, std::nullopt);
}

SyscallResult sys_pread64(CurrentTask& task, int fd, UserOut<std::byte> buffer, size_t count,
                          int64_t offset) {
  return transfer_one(task, fd, buffer.addr(), count, Direction::kRead, offset);
}

SyscallResult sys_pwrite64(CurrentTask& task, int fd, UserIn<std::byte> buffer, size_t count,
                           int64_t offset) {
  return transfer_one(task, fd, buffer.addr(), count, Direction::kWrite, offset);
}

SyscallResult sys_readv(CurrentTask& task, uint64_t fd, UserIn<uint64_t> vector, uint64_t count) {
  return vector_transfer(task, fd, vector, count, std::nullopt, 0, Direction::kRead);
}
SyscallResult sys_writev(CurrentTask& task, uint64_t fd, UserIn<uint64_t> vector, uint64_t count) {
  return vector_transfer(task, fd, vector, count, std::nullopt, 0, Direction::kWrite);
}
// On 64-bit machines the low half is the whole offset.
SyscallResult sys_preadv(CurrentTask& task, uint64_t fd, UserIn<uint64_t> vector, uint64_t count,
                         uint64_t offset_low, uint64_t) {
  if (static_cast<int64_t>(offset_low) < 0) return Errno(EINVAL);
  return vector_transfer(task, fd, vector, count, static_cast<int64_t>(offset_low), 0,
                         Direction::kRead);
}
SyscallResult sys_pwritev(CurrentTask& task, uint64_t fd, UserIn<uint64_t> vector, uint64_t count,
                          uint64_t offset_low, uint64_t) {
  if (static_cast<int64_t>(offset_low) < 0) return Errno(EINVAL);
  return vector_transfer(task, fd, vector, count, static_cast<int64_t>(offset_low), 0,
                         Direction::kWrite);
}
SyscallResult sys_preadv2(CurrentTask& task, uint64_t fd, UserIn<uint64_t> vector, uint64_t count,
                          uint64_t offset_low, uint64_t, int flags) {
  return vector_transfer(task, fd, vector, count, offset_or_current(offset_low),
                         static_cast<uint32_t>(flags), Direction::kRead);
}
SyscallResult sys_pwritev2(CurrentTask& task, uint64_t fd, UserIn<uint64_t> vector, uint64_t count,
                           uint64_t offset_low, uint64_t, int flags) {
  return vector_transfer(task, fd, vector, count, offset_or_current(offset_low),
                         static_cast<uint32_t>(flags), Direction::kWrite);
}

SyscallResult sys_lseek(CurrentTask& task, int fd, int64_t offset, uint32_t whence) {
  Ref<FileDescription> file = TRY(task.files().get(fd));
  if (whence > SEEK_HOLE) return Errno(EINVAL);
  return file->lseek(offset, static_cast<int>(whence));
}

namespace {

// sendfile(2) and copy_file_range(2): from file to file through a buffer of the kernel's. Data that
// the target does not take now stay for the next step.
class CopyOperation final : public Operation {
 public:
  struct End {
    Ref<FileDescription> file;
    std::optional<uint64_t> offset;
    GuestAddr offset_addr = 0;  // where the guest is told the new offset
  };
  CopyOperation(End in, End out, uint64_t count)
      : in_(std::move(in)), out_(std::move(out)), count_(count) {}
  CopyOperation(CopyOperation&& other) noexcept
      : in_(std::move(other.in_)),
        out_(std::move(other.out_)),
        count_(other.count_),
        done_(other.done_),
        waits_for_input_(other.waits_for_input_),
        held_(std::move(other.held_)),
        held_begin_(other.held_begin_),
        held_end_(other.held_end_) {}

  StepResult step(CurrentTask& task) override {
    while (done_ < count_) {
      if (held_begin_ == held_end_) {
        Result<size_t> got = fill();
        if (!got.ok()) return stop(task, got.error(), true, in_.file->is_nonblocking());
        if (got.value() == 0) break;
      }
      UserBuffer from = UserBuffer::of_kernel(
          std::span<const std::byte>(held_.get() + held_begin_, held_end_ - held_begin_));
      IoFlags flags{0, out_.file->is_nonblocking()};
      Result<size_t> put = out_.offset ? out_.file->pwrite(from, *out_.offset, flags)
                                       : out_.file->write(from, flags);
      if (!put.ok()) {
        if (put.error() == Errno(EPIPE) && out_.file->raises_sigpipe()) task.raise(SIGPIPE);
        return stop(task, put.error(), false, out_.file->is_nonblocking());
      }
      if (put.value() == 0) break;
      held_begin_ += put.value();
      done_ += put.value();
      if (out_.offset) *out_.offset += put.value();
    }
    return finish(task);
  }
  void arm(CurrentTask&, Waiter& waiter) override {
    armed_ = waits_for_input_ ? in_.file.or_null() : out_.file.or_null();
    entry_.waiter = &waiter;
    entry_.mask = (waits_for_input_ ? kEventIn : kEventOut) | kEventAlways;
    armed_->add_waiter(entry_);
  }
  void disarm() override { armed_->remove_waiter(entry_); }
  StepResult interrupted(CurrentTask& task) override {
    if (done_ != 0) return finish(task);
    give_back();
    return Errno(kERESTARTSYS);
  }
  const char* name() const override { return "splice_direct"; }

 private:
  static constexpr size_t kPiece = 64 * 1024;

  Result<size_t> fill() {
    if (held_ == nullptr) held_.reset(new std::byte[kPiece]);
    UserBuffer to = UserBuffer::of_kernel(
        std::span<std::byte>(held_.get(), std::min<uint64_t>(kPiece, count_ - done_)));
    IoFlags flags{0, in_.file->is_nonblocking()};
    size_t got =
        TRY(in_.offset ? in_.file->pread(to, *in_.offset, flags) : in_.file->read(to, flags));
    if (in_.offset) *in_.offset += got;
    held_begin_ = 0;
    held_end_ = got;
    return got;
  }
  StepResult stop(CurrentTask& task, Errno error, bool input, bool nonblocking) {
    if (error == Errno(EAGAIN) && !nonblocking && done_ == 0) {
      waits_for_input_ = input;
      return MustWait{};
    }
    if (done_ != 0) return finish(task);
    give_back();
    return error;
  }
  // What was read and not written.
  void give_back() {
    uint64_t rest = held_end_ - held_begin_;
    held_begin_ = held_end_;
    if (rest == 0) return;
    if (in_.offset) {
      *in_.offset -= rest;
      return;
    }
    Result<uint64_t> back = in_.file->lseek(-static_cast<int64_t>(rest), SEEK_CUR);
    (void)back;
  }
  StepResult finish(CurrentTask& task) {
    give_back();
    for (const End* end : {&in_, &out_}) {
      if (end->offset_addr == 0) continue;
      Result<void> told =
          task.copy_out(UserOut<int64_t>(end->offset_addr), static_cast<int64_t>(*end->offset));
      if (!told.ok()) return told.error();
    }
    return done_;
  }

  End in_, out_;
  uint64_t count_;
  uint64_t done_ = 0;
  bool waits_for_input_ = false;
  std::unique_ptr<std::byte[]> held_;
  size_t held_begin_ = 0, held_end_ = 0;
  RefOrNull<FileDescription> armed_;
  WaitEntry entry_;
};

}  // namespace

SyscallResult sys_sendfile(CurrentTask& task, int out_fd, int in_fd, UserInOut<int64_t> offset,
                           size_t count) {
  Ref<FileDescription> in = TRY(get_for(task, in_fd, Direction::kRead));
  CopyOperation::End from{in, std::nullopt, 0};
  if (!offset.is_null()) {
    int64_t at = TRY(task.copy_in(offset));
    Result<uint64_t> seekable = in->lseek(0, SEEK_CUR);
    if (!seekable.ok()) return Errno(ESPIPE);
    if (at < 0) return Errno(EINVAL);
    from.offset = static_cast<uint64_t>(at);
    from.offset_addr = offset.addr();
  }
  Ref<FileDescription> out = TRY(get_for(task, out_fd, Direction::kWrite));
  if (in->inode().is_directory()) return Errno(EINVAL);
  // What the target does not take must find its way back.
  if (!in->lseek(0, SEEK_CUR).ok()) return Errno(EINVAL);
  if ((out->flags() & O_APPEND) != 0) return Errno(EINVAL);
  count = std::min<uint64_t>(count, UserBuffer::kMaxBytes);
  return run(task, CopyOperation(std::move(from), {out, std::nullopt, 0}, count));
}

SyscallResult sys_copy_file_range(CurrentTask& task, int in_fd, UserInOut<int64_t> in_offset,
                                  int out_fd, UserInOut<int64_t> out_offset, size_t count,
                                  uint32_t flags) {
  if (flags != 0) return Errno(EINVAL);
  Ref<FileDescription> in = TRY(task.files().get(in_fd));
  Ref<FileDescription> out = TRY(task.files().get(out_fd));
  auto end = [&](Ref<FileDescription> file,
                 UserInOut<int64_t> offset) -> Result<CopyOperation::End> {
    uint64_t at;
    if (offset.is_null()) {
      Result<uint64_t> current = file->lseek(0, SEEK_CUR);
      at = current.ok() ? current.value() : 0;
      return CopyOperation::End{std::move(file), std::nullopt, at};
    }
    int64_t given = TRY(task.copy_in(offset));
    if (given < 0) return Errno(EINVAL);
    return CopyOperation::End{std::move(file), static_cast<uint64_t>(given), offset.addr()};
  };
  CopyOperation::End from = TRY(end(in, in_offset));
  CopyOperation::End to = TRY(end(out, out_offset));
  if (in->inode().is_directory() || out->inode().is_directory()) return Errno(EISDIR);
  if (!in->inode().is_regular() || !out->inode().is_regular()) return Errno(EINVAL);
  if (!in->is_readable() || !out->is_writable() || (out->flags() & O_APPEND) != 0)
    return Errno(EBADF);
  count = std::min<uint64_t>(count, UserBuffer::kMaxBytes);
  // Overlapping ranges of one file are refused. Without an offset argument End carries the current
  // one in offset_addr.
  uint64_t from_at = from.offset ? *from.offset : from.offset_addr;
  uint64_t to_at = to.offset ? *to.offset : to.offset_addr;
  if (&in->inode() == &out->inode() && from_at < to_at + count && to_at < from_at + count)
    return Errno(EINVAL);
  if (!from.offset) from.offset_addr = 0;
  if (!to.offset) to.offset_addr = 0;
  return run(task, CopyOperation(std::move(from), std::move(to), count));
}

SyscallResult sys_fsync(CurrentTask& task, int fd) {
  return TRY(task.files().get(fd))->fsync(false);
}
SyscallResult sys_fdatasync(CurrentTask& task, int fd) {
  return TRY(task.files().get(fd))->fsync(true);
}
// Nothing in here outlives the sandbox: what may be written to the host is written at once.
SyscallResult sys_sync(CurrentTask&) { return 0; }
SyscallResult sys_syncfs(CurrentTask& task, int fd) {
  return TRY(task.files().get(fd))->inode().filesystem().sync();
}

SyscallResult sys_sync_file_range(CurrentTask& task, int fd, int64_t offset, int64_t length,
                                  uint32_t flags) {
  Ref<FileDescription> file = TRY(task.files().get(fd));
  if ((flags & ~7u) != 0 || offset < 0 || length < 0 || offset + length < offset)
    return Errno(EINVAL);
  uint32_t type = file->inode().type();
  if (type != S_IFREG && type != S_IFBLK && type != S_IFDIR && type != S_IFLNK)
    return Errno(ESPIPE);
  return 0;
}

SyscallResult sys_ftruncate(CurrentTask& task, int fd, int64_t length) {
  if (length < 0) return Errno(EINVAL);
  Ref<FileDescription> file = TRY(task.files().get(fd));
  if (!file->inode().is_regular() || !file->is_writable()) return Errno(EINVAL);
  if (static_cast<uint64_t>(length) > task.limit(RLIMIT_FSIZE)) {
    task.raise(SIGXFSZ);
    return Errno(EFBIG);
  }
  return file->truncate(static_cast<uint64_t>(length));
}

SyscallResult sys_fallocate(CurrentTask& task, int fd, int mode, int64_t offset, int64_t length) {
  Ref<FileDescription> file = TRY(task.files().get(fd));
  if (offset < 0 || length <= 0) return Errno(EINVAL);
  constexpr int kKnown = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_COLLAPSE_RANGE |
                         FALLOC_FL_ZERO_RANGE | FALLOC_FL_INSERT_RANGE | FALLOC_FL_UNSHARE_RANGE;
  if ((mode & ~kKnown) != 0) return Errno(EOPNOTSUPP);
  if ((mode & FALLOC_FL_PUNCH_HOLE) != 0 && (mode & FALLOC_FL_KEEP_SIZE) == 0)
    return Errno(EOPNOTSUPP);
  if (!file->is_writable()) return Errno(EBADF);
  if (file->inode().type() == S_IFIFO) return Errno(ESPIPE);
  if (file->inode().is_directory()) return Errno(EISDIR);
  if (!file->inode().is_regular()) return Errno(ENODEV);
  int64_t end;
  if (__builtin_add_overflow(offset, length, &end)) return Errno(EFBIG);
  return file->allocate(mode, static_cast<uint64_t>(offset), static_cast<uint64_t>(length));
}

SyscallResult sys_fadvise64(CurrentTask& task, int fd, int64_t, int64_t length, int advice) {
  Ref<FileDescription> file = TRY(task.files().get(fd));
  if (file->inode().type() == S_IFIFO) return Errno(ESPIPE);
  if (length < 0 || advice < 0 || advice > POSIX_FADV_NOREUSE) return Errno(EINVAL);
  return 0;  // advice: nothing that we could do better
}

}  // namespace caisson
