#include "fs/stdio/host_stdio.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>

#include "fs/hostfs/host_inode.h"
#include "host/raw_syscall.h"
#include "mm/user_buffer.h"

namespace caisson {
namespace {

using host::raw_arg;
using host::raw_syscall;

constexpr size_t kPiece = 64 * 1024;
// A blocking terminal that is writable may have room for no more than this.
constexpr size_t kBlockingPiece = 256;

// This worker's transfer buffer: no host call touches guest memory.
std::byte* transfer_buffer() {
  static thread_local std::unique_ptr<std::byte[]> buffer;
  if (buffer == nullptr) buffer.reset(new std::byte[kPiece]);
  return buffer.get();
}

}  // namespace

// The inode of a handed-in descriptor: keeps the host's side, so that it can be opened again.
class HostStdioInode final : public Inode {
 public:
  HostStdioInode(const FileStat& stat, Ref<HostStream> stream)
      : Inode(anonymous_filesystem(), stat.ino, stat.mode, stat.uid, stat.gid),
        stream_(std::move(stream)) {}

  Result<FileStat> stat() override {
    FileStat stat = TRY(host_stat(stream_->fd.get(), "", HostFilesystemOptions{}));
    stat.device = filesystem().device();
    return stat;
  }
  // /dev/stdin, /proc/PID/fd/N: the host's open file is shared, its offset too.
  Result<Ref<FileDescription>> open(const Path& path, uint32_t flags, const Caller&) override {
    const uint32_t allowed = stream_->flags & O_ACCMODE;
    if (allowed != O_RDWR && allowed != (flags & O_ACCMODE)) return Errno(EACCES);
    return Ref<FileDescription>(adopt_ref(new HostStdio(path, flags, stream_)));
  }
  Result<void> truncate(uint64_t size) override {
    if (stream_->kind != HostStdio::Kind::kRegular) return Errno(EINVAL);
    TRY(raw_syscall(SYS_ftruncate, stream_->fd.get(), static_cast<long>(size)).result());
    return {};
  }

 private:
  const Ref<HostStream> stream_;
};

HostStdio::HostStdio(Path path, uint32_t flags, Ref<HostStream> stream)
    : FileDescription(std::move(path), flags), stream_(std::move(stream)) {}

HostStdio::~HostStdio() = default;

bool HostStdio::can_poll() const { return stream_->kind != Kind::kRegular; }
bool HostStdio::is_terminal() const { return stream_->is_terminal; }

Result<Ref<HostStdio>> HostStdio::create(host::EventLoop& events, UniqueFd fd) {
  FileStat stat = TRY(host_stat(fd.get(), "", HostFilesystemOptions{}));
  long flags = TRY(raw_syscall(SYS_fcntl, fd.get(), F_GETFL).result());
  uint32_t open_flags = static_cast<uint32_t>(flags) & (O_ACCMODE | O_APPEND);
  uint32_t settings[16];  // the kernel's struct termios is smaller
  const bool terminal =
      S_ISCHR(stat.mode) && raw_syscall(SYS_ioctl, fd.get(), TCGETS, raw_arg(settings)).ok();
  Kind kind = Kind::kBlocking;
  std::string name = "host:[" + std::to_string(stat.ino) + "]";
  if (S_ISREG(stat.mode) || S_ISBLK(stat.mode) || S_ISDIR(stat.mode)) {
    kind = Kind::kRegular;
  } else if (S_ISSOCK(stat.mode)) {
    kind = Kind::kSocket;
    name = "socket:[" + std::to_string(stat.ino) + "]";
  } else {
    char self[40];
    std::snprintf(self, sizeof self, "/proc/self/fd/%d", fd.get());
    int again = ::open(self, static_cast<int>(open_flags) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (again >= 0) {
      fd.reset(again);
      kind = Kind::kStream;
    }
    if (S_ISFIFO(stat.mode)) name = "pipe:[" + std::to_string(stat.ino) + "]";
  }
  Ref<HostStream> stream = make_ref<HostStream>(events, std::move(fd), kind, terminal, open_flags);
  Ref<Inode> inode = make_ref<HostStdioInode>(stat, stream);
  return adopt_ref(new HostStdio(make_anonymous_path(name, inode), open_flags, stream));
}

Result<size_t> HostStdio::read_host(std::byte* to, size_t length) {
  host::RawResult got(0);
  switch (stream_->kind) {
    case Kind::kRegular:
    case Kind::kStream:
      got = raw_syscall(SYS_read, stream_->fd.get(), raw_arg(to), static_cast<long>(length));
      break;
    case Kind::kSocket:
      got = raw_syscall(SYS_recvfrom, stream_->fd.get(), raw_arg(to), static_cast<long>(length),
                        MSG_DONTWAIT);
      break;
    case Kind::kBlocking: {
      if (readiness(kEventIn) == 0) return Errno(EAGAIN);
      iovec vector{to, length};
      got = raw_syscall(SYS_preadv2, stream_->fd.get(), raw_arg(&vector), 1, -1, -1, RWF_NOWAIT);
      if (got.ok() || !(got.error() == Errno(EOPNOTSUPP))) break;
      got = raw_syscall(SYS_read, stream_->fd.get(), raw_arg(to), static_cast<long>(length));
      break;
    }
  }
  return static_cast<size_t>(TRY(got.result()));
}

Result<size_t> HostStdio::write_host(const std::byte* from, size_t length) {
  host::RawResult put(0);
  switch (stream_->kind) {
    case Kind::kRegular:
    case Kind::kStream:
      put = raw_syscall(SYS_write, stream_->fd.get(), raw_arg(from), static_cast<long>(length));
      break;
    case Kind::kSocket:
      put = raw_syscall(SYS_sendto, stream_->fd.get(), raw_arg(from), static_cast<long>(length),
                        MSG_DONTWAIT | MSG_NOSIGNAL);
      break;
    case Kind::kBlocking: {
      if ((readiness(kEventOut) & (kEventOut | kEventErr)) == 0) return Errno(EAGAIN);
      iovec vector{const_cast<std::byte*>(from), length};
      put = raw_syscall(SYS_pwritev2, stream_->fd.get(), raw_arg(&vector), 1, -1, -1, RWF_NOWAIT);
      if (put.ok() || !(put.error() == Errno(EOPNOTSUPP))) break;
      put = raw_syscall(SYS_write, stream_->fd.get(), raw_arg(from),
                        static_cast<long>(std::min(length, kBlockingPiece)));
      break;
    }
  }
  return static_cast<size_t>(TRY(put.result()));
}

Result<size_t> HostStdio::read(UserBuffer& to, IoFlags flags) {
  if ((flags.rwf & ~uint32_t{RWF_NOWAIT}) != 0) return Errno(EOPNOTSUPP);
  if (to.remaining() == 0) return 0;
  std::byte* buffer = transfer_buffer();
  size_t done = 0;
  // Streams give what they have in one piece; a regular file is read on.
  do {
    size_t wanted = std::min<uint64_t>(kPiece, to.remaining());
    Result<size_t> got = read_host(buffer, wanted);
    if (!got.ok()) {
      if (done != 0) break;
      return got.error();
    }
    if (got.value() == 0) break;
    Result<size_t> moved = to.write(buffer, got.value());
    if (!moved.ok()) {
      if (done != 0) break;
      return moved.error();
    }
    done += moved.value();
    if (moved.value() != got.value() || got.value() != wanted) break;
  } while (stream_->kind == Kind::kRegular && to.remaining() != 0);
  return done;
}

Result<size_t> HostStdio::write(UserBuffer& from, IoFlags flags) {
  if ((flags.rwf & ~uint32_t{RWF_NOWAIT}) != 0) return Errno(EOPNOTSUPP);
  std::byte* buffer = transfer_buffer();
  size_t done = 0;
  while (from.remaining() != 0) {
    Result<size_t> taken = from.read(buffer, std::min<uint64_t>(kPiece, from.remaining()));
    if (!taken.ok()) {
      if (done != 0) break;
      return taken.error();
    }
    Result<size_t> put = write_host(buffer, taken.value());
    if (!put.ok()) {
      from.rewind(taken.value());
      if (done != 0) break;
      return put.error();
    }
    from.rewind(taken.value() - put.value());
    done += put.value();
    if (put.value() != taken.value() && stream_->kind != Kind::kBlocking) break;
  }
  return done;
}

Result<size_t> HostStdio::pread(UserBuffer& to, uint64_t offset, IoFlags) {
  if (stream_->kind != Kind::kRegular) return Errno(ESPIPE);
  std::byte* buffer = transfer_buffer();
  size_t wanted = std::min<uint64_t>(kPiece, to.remaining());
  long got = TRY(raw_syscall(SYS_pread64, stream_->fd.get(), raw_arg(buffer),
                             static_cast<long>(wanted), static_cast<long>(offset))
                     .result());
  return to.write(buffer, static_cast<size_t>(got));
}

Result<size_t> HostStdio::pwrite(UserBuffer& from, uint64_t offset, IoFlags) {
  if (stream_->kind != Kind::kRegular) return Errno(ESPIPE);
  std::byte* buffer = transfer_buffer();
  size_t taken = TRY(from.read(buffer, std::min<uint64_t>(kPiece, from.remaining())));
  long put = TRY(raw_syscall(SYS_pwrite64, stream_->fd.get(), raw_arg(buffer),
                             static_cast<long>(taken), static_cast<long>(offset))
                     .result());
  return static_cast<size_t>(put);
}

Result<uint64_t> HostStdio::lseek(int64_t offset, int whence) {
  if (stream_->kind != Kind::kRegular) return Errno(ESPIPE);
  return static_cast<uint64_t>(
      TRY(raw_syscall(SYS_lseek, stream_->fd.get(), static_cast<long>(offset), whence).result()));
}

Result<FileStat> HostStdio::stat() { return inode().stat(); }

Result<void> HostStdio::truncate(uint64_t size) {
  if (stream_->kind != Kind::kRegular || !is_writable()) return Errno(EINVAL);
  return inode().truncate(size);
}

Result<void> HostStdio::fsync(bool data_only) {
  if (stream_->kind != Kind::kRegular) return Errno(EINVAL);
  TRY(raw_syscall(data_only ? SYS_fdatasync : SYS_fsync, stream_->fd.get()).result());
  return {};
}

Result<uint64_t> HostStdio::bytes_readable() {
  int count = 0;
  TRY(raw_syscall(SYS_ioctl, stream_->fd.get(), FIONREAD, raw_arg(&count)).result());
  return static_cast<uint64_t>(std::max(count, 0));
}

EventMask HostStdio::readiness(EventMask mask) {
  if (stream_->kind == Kind::kRegular) return FileDescription::readiness(mask);
  pollfd entry{stream_->fd.get(), static_cast<short>(mask & 0x7fff), 0};
  host::RawResult count = raw_syscall(SYS_poll, raw_arg(&entry), 1, 0);
  if (!count.ok() || count.value() == 0) return 0;
  return static_cast<EventMask>(entry.revents) & (mask | kEventAlways);
}

void HostStdio::add_waiter(WaitEntry& entry) {
  stream_->watcher->queue.add(entry);
  // Watched from the first wait on: most programs' output never waits.
  if (stream_->kind == Kind::kRegular || stream_->watched.exchange(true)) return;
  if (!stream_->events.watch(stream_->fd.get(), EPOLLIN | EPOLLOUT | EPOLLRDHUP, stream_->watcher)
           .ok())
    stream_->watched.store(false);  // what epoll refuses (/dev/null) never makes anyone wait
}

void HostStdio::remove_waiter(WaitEntry& entry) { stream_->watcher->queue.remove(entry); }

}  // namespace caisson
