#include "fs/stdio/host_stdio.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <termios.h>
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

// Attributes of the host file behind a descriptor; its numbers mean nothing inside.
class HostStdioInode final : public Inode {
 public:
  HostStdioInode(const FileStat& stat)
      : Inode(anonymous_filesystem(), stat.ino, stat.mode, stat.uid, stat.gid) {}
  Result<FileStat> stat() override { return Errno(EIO); }  // HostStdio::stat() answers
};

}  // namespace

// Outlives the file when a callback is under way.
class HostStdio::Watcher final : public host::FdWatcher {
 public:
  void ready(uint32_t events) override { queue.notify(events); }
  WaitQueue queue;
};

HostStdio::HostStdio(host::EventLoop& events, UniqueFd fd, Path path, uint32_t flags, Kind kind,
                     bool is_terminal)
    : FileDescription(std::move(path), flags),
      events_(events),
      fd_(std::move(fd)),
      kind_(kind),
      is_terminal_(is_terminal),
      watcher_(make_ref<Watcher>()) {}

HostStdio::~HostStdio() {
  if (watched_.load()) events_.unwatch(fd_.get());
}

Result<Ref<HostStdio>> HostStdio::create(host::EventLoop& events, UniqueFd fd) {
  FileStat stat = TRY(host_stat(fd.get(), "", HostFilesystemOptions{}));
  long flags = TRY(raw_syscall(SYS_fcntl, fd.get(), F_GETFL).result());
  uint32_t open_flags = static_cast<uint32_t>(flags) & (O_ACCMODE | O_APPEND);
  termios settings;
  const bool terminal =
      S_ISCHR(stat.mode) && raw_syscall(SYS_ioctl, fd.get(), TCGETS, raw_arg(&settings)).ok();
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
  Ref<Inode> inode = make_ref<HostStdioInode>(stat);
  return adopt_ref(new HostStdio(events, std::move(fd), make_anonymous_path(name, inode),
                                 open_flags, kind, terminal));
}

Result<size_t> HostStdio::read_host(std::byte* to, size_t length) {
  host::RawResult got(0);
  switch (kind_) {
    case Kind::kRegular:
    case Kind::kStream:
      got = raw_syscall(SYS_read, fd_.get(), raw_arg(to), static_cast<long>(length));
      break;
    case Kind::kSocket:
      got = raw_syscall(SYS_recvfrom, fd_.get(), raw_arg(to), static_cast<long>(length),
                        MSG_DONTWAIT);
      break;
    case Kind::kBlocking: {
      if (readiness(kEventIn) == 0) return Errno(EAGAIN);
      iovec vector{to, length};
      got = raw_syscall(SYS_preadv2, fd_.get(), raw_arg(&vector), 1, -1, -1, RWF_NOWAIT);
      if (got.ok() || !(got.error() == Errno(EOPNOTSUPP))) break;
      got = raw_syscall(SYS_read, fd_.get(), raw_arg(to), static_cast<long>(length));
      break;
    }
  }
  return static_cast<size_t>(TRY(got.result()));
}

Result<size_t> HostStdio::write_host(const std::byte* from, size_t length) {
  host::RawResult put(0);
  switch (kind_) {
    case Kind::kRegular:
    case Kind::kStream:
      put = raw_syscall(SYS_write, fd_.get(), raw_arg(from), static_cast<long>(length));
      break;
    case Kind::kSocket:
      put = raw_syscall(SYS_sendto, fd_.get(), raw_arg(from), static_cast<long>(length),
                        MSG_DONTWAIT | MSG_NOSIGNAL);
      break;
    case Kind::kBlocking: {
      if ((readiness(kEventOut) & (kEventOut | kEventErr)) == 0) return Errno(EAGAIN);
      iovec vector{const_cast<std::byte*>(from), length};
      put = raw_syscall(SYS_pwritev2, fd_.get(), raw_arg(&vector), 1, -1, -1, RWF_NOWAIT);
      if (put.ok() || !(put.error() == Errno(EOPNOTSUPP))) break;
      put = raw_syscall(SYS_write, fd_.get(), raw_arg(from),
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
  } while (kind_ == Kind::kRegular && to.remaining() != 0);
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
    if (put.value() != taken.value() && kind_ != Kind::kBlocking) break;
  }
  return done;
}

Result<size_t> HostStdio::pread(UserBuffer& to, uint64_t offset, IoFlags) {
  if (kind_ != Kind::kRegular) return Errno(ESPIPE);
  std::byte* buffer = transfer_buffer();
  size_t wanted = std::min<uint64_t>(kPiece, to.remaining());
  long got = TRY(raw_syscall(SYS_pread64, fd_.get(), raw_arg(buffer), static_cast<long>(wanted),
                             static_cast<long>(offset))
                     .result());
  return to.write(buffer, static_cast<size_t>(got));
}

Result<size_t> HostStdio::pwrite(UserBuffer& from, uint64_t offset, IoFlags) {
  if (kind_ != Kind::kRegular) return Errno(ESPIPE);
  std::byte* buffer = transfer_buffer();
  size_t taken = TRY(from.read(buffer, std::min<uint64_t>(kPiece, from.remaining())));
  long put = TRY(raw_syscall(SYS_pwrite64, fd_.get(), raw_arg(buffer), static_cast<long>(taken),
                             static_cast<long>(offset))
                     .result());
  return static_cast<size_t>(put);
}

Result<uint64_t> HostStdio::lseek(int64_t offset, int whence) {
  if (kind_ != Kind::kRegular) return Errno(ESPIPE);
  return static_cast<uint64_t>(
      TRY(raw_syscall(SYS_lseek, fd_.get(), static_cast<long>(offset), whence).result()));
}

Result<FileStat> HostStdio::stat() {
  FileStat stat = TRY(host_stat(fd_.get(), "", HostFilesystemOptions{}));
  stat.device = inode().filesystem().device();
  return stat;
}

Result<void> HostStdio::truncate(uint64_t size) {
  if (kind_ != Kind::kRegular || !is_writable()) return Errno(EINVAL);
  TRY(raw_syscall(SYS_ftruncate, fd_.get(), static_cast<long>(size)).result());
  return {};
}

Result<void> HostStdio::fsync(bool data_only) {
  if (kind_ != Kind::kRegular) return Errno(EINVAL);
  TRY(raw_syscall(data_only ? SYS_fdatasync : SYS_fsync, fd_.get()).result());
  return {};
}

Result<uint64_t> HostStdio::bytes_readable() {
  int count = 0;
  TRY(raw_syscall(SYS_ioctl, fd_.get(), FIONREAD, raw_arg(&count)).result());
  return static_cast<uint64_t>(std::max(count, 0));
}

EventMask HostStdio::readiness(EventMask mask) {
  if (kind_ == Kind::kRegular) return FileDescription::readiness(mask);
  pollfd entry{fd_.get(), static_cast<short>(mask & 0x7fff), 0};
  host::RawResult count = raw_syscall(SYS_poll, raw_arg(&entry), 1, 0);
  if (!count.ok() || count.value() == 0) return 0;
  return static_cast<EventMask>(entry.revents) & (mask | kEventAlways);
}

void HostStdio::add_waiter(WaitEntry& entry) {
  watcher_->queue.add(entry);
  // Watched from the first wait on: most programs' output never waits.
  if (kind_ == Kind::kRegular || watched_.exchange(true)) return;
  if (!events_.watch(fd_.get(), EPOLLIN | EPOLLOUT | EPOLLRDHUP, watcher_).ok())
    watched_.store(false);  // what epoll refuses (/dev/null) never makes anyone wait
}

void HostStdio::remove_waiter(WaitEntry& entry) { watcher_->queue.remove(entry); }

}  // namespace caisson
