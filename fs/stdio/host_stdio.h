// HostStdio: a host descriptor that was handed to the sandbox: standard input, output and error.
//
// A worker must never block in it, and O_NONBLOCK must not leak to others who share the open file.
// So create() opens terminals, pipes and devices again for itself, without blocking (through
// /proc/self/fd: before the kernel process gives that up); sockets are used with MSG_DONTWAIT;
// regular files don't block. Where opening again is refused, reads and writes ask poll(2) first and
// use RWF_NOWAIT.
//
// Terminals: line discipline and window size are the host's, by an allow-list of requests; the
// foreground process group is the guest's own and kept here.
//
// Host calls, for the kernel process' filter: read/write and preadv2/pwritev2 (offset -1,
// RWF_NOWAIT) with one vector; recvfrom/sendto with MSG_DONTWAIT|MSG_NOSIGNAL; pread64, pwrite64,
// lseek, ftruncate, fsync, fdatasync on regular files; statx("", AT_EMPTY_PATH); poll with timeout
// 0; ioctl with TCGETS, TCSETS, TCFLSH, TIOCGWINSZ, TIOCSWINSZ, FIONREAD, TIOCOUTQ; close.
#pragma once

#include <atomic>

#include "base/unique_fd.h"
#include "host/event_loop.h"
#include "vfs/file_description.h"

namespace caisson {

// The host's side, shared by the open files that /dev/stdin and /proc/PID/fd/N make of it again.
struct HostStream;

class HostStdio final : public FileDescription {
 public:
  // Takes `fd` over. `events` outlives the file. Before the kernel process' last privilege step.
  static Result<Ref<HostStdio>> create(host::EventLoop& events, UniqueFd fd);
  ~HostStdio() override;

  Result<size_t> read(UserBuffer& to, IoFlags flags) override;
  Result<size_t> write(UserBuffer& from, IoFlags flags) override;
  Result<size_t> pread(UserBuffer& to, uint64_t offset, IoFlags flags) override;
  Result<size_t> pwrite(UserBuffer& from, uint64_t offset, IoFlags flags) override;
  Result<uint64_t> lseek(int64_t offset, int whence) override;
  Result<FileStat> stat() override;
  Result<void> truncate(uint64_t size) override;
  Result<void> fsync(bool data_only) override;
  Result<uint64_t> ioctl(CurrentTask& task, uint32_t request, uint64_t argument) override;
  Result<uint64_t> bytes_readable() override;

  EventMask readiness(EventMask mask) override;
  void add_waiter(WaitEntry& entry) override;
  void remove_waiter(WaitEntry& entry) override;
  bool can_poll() const override;
  bool raises_sigpipe() const override { return can_poll(); }
  bool writes_everything() const override { return can_poll(); }
  bool is_terminal() const;

 private:
  friend struct HostStream;
  friend class HostStdioInode;
  enum class Kind : uint8_t {
    kRegular,   // never blocks
    kStream,    // ours alone, opened with O_NONBLOCK
    kSocket,    // MSG_DONTWAIT
    kBlocking,  // shared and blocking: poll(2) first
  };
  HostStdio(Path path, uint32_t flags, Ref<HostStream> stream);
  Result<size_t> read_host(std::byte* to, size_t length);
  Result<size_t> write_host(const std::byte* from, size_t length);
  Result<uint64_t> terminal_ioctl(CurrentTask& task, uint32_t request, uint64_t argument);

  const Ref<HostStream> stream_;
};

struct HostStream final : RefCounted<HostStream> {
  class Watcher final : public host::FdWatcher {  // outlives the stream in a late callback
   public:
    void ready(uint32_t events) override { queue.notify(events); }
    WaitQueue queue;
  };
  HostStream(host::EventLoop& events, UniqueFd fd, HostStdio::Kind kind, bool is_terminal,
             uint32_t flags)
      : events(events),
        fd(std::move(fd)),
        kind(kind),
        is_terminal(is_terminal),
        flags(flags),
        watcher(make_ref<Watcher>()) {}
  ~HostStream() {
    if (watched.load()) events.unwatch(fd.get());
  }

  host::EventLoop& events;
  const UniqueFd fd;
  const HostStdio::Kind kind;
  const bool is_terminal;
  const uint32_t flags;  // access mode that the host allows, O_APPEND
  const Ref<Watcher> watcher;
  std::atomic<bool> watched{false};
  std::atomic<int32_t> foreground{0};  // process group of the terminal; 0: whoever asks
};

}  // namespace caisson
