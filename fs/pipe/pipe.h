// Pipe and PipeEnd: pipe(2) and FIFOs, pipe(7). Linux: fs/pipe.c.
//
// A Pipe is the buffer between ends; PipeEnd is an open end (or, for a FIFO opened O_RDWR, both).
// It belongs to its inode as long as an end is open (PipeTable), so opening a FIFO or
// /proc/PID/fd/N again leads to the same one. The buffer is a ring of bytes that grows on demand up
// to the capacity; writes of at most PIPE_BUF bytes are never split.
//
// Lock: mu_, rank kPipe; guest memory is copied under it. Waiters are told after it is dropped.
#pragma once

#include <memory>

#include "base/mutex.h"
#include "vfs/caller.h"
#include "vfs/file_description.h"

namespace caisson {

inline constexpr size_t kPipeBuf = 4096;           // PIPE_BUF
inline constexpr size_t kDefaultPipeSize = 65536;  // bytes
inline constexpr size_t kMaxPipeSize = 1u << 20;   // /proc/sys/fs/pipe-max-size

class Pipe final : public RefCounted<Pipe> {
 public:
  Pipe() = default;

  // EAGAIN: empty with writers, or full.
  Result<size_t> read(UserBuffer& to);
  Result<size_t> write(UserBuffer& from);  // EPIPE without readers
  EventMask readiness(bool reader, bool writer, EventMask mask, uint64_t writers_before);

  // Adds or removes ends. Returns the number of opens of the other kind so far.
  struct Opened {
    uint64_t reader_opens, writer_opens;
    bool has_writers;
  };
  Opened add(bool reader, bool writer);
  void remove(bool reader, bool writer);
  // Has the other kind of end been opened since, or is it open now?
  bool has_writer_since(uint64_t writer_opens) const;
  bool has_reader_since(uint64_t reader_opens) const;
  bool has_readers() const;
  bool is_unused() const;

  size_t used() const;
  size_t capacity() const;
  // F_SETPIPE_SZ: rounded up to a power of two of pages; EBUSY if more is in it.
  Result<size_t> set_capacity(size_t capacity);
  WaitQueue& queue() { return queue_; }

 private:
  void grow_locked(size_t wanted) REQUIRES(mu_);

  mutable Mutex<LockRank::kPipe> mu_;
  std::unique_ptr<std::byte[]> ring_ GUARDED_BY(mu_);
  size_t ring_size_ GUARDED_BY(mu_) = 0;  // bytes, a power of two
  size_t begin_ GUARDED_BY(mu_) = 0;      // of the oldest byte
  size_t used_ GUARDED_BY(mu_) = 0;
  size_t capacity_ GUARDED_BY(mu_) = kDefaultPipeSize;
  uint32_t readers_ GUARDED_BY(mu_) = 0;
  uint32_t writers_ GUARDED_BY(mu_) = 0;
  uint64_t reader_opens_ GUARDED_BY(mu_) = 0;
  uint64_t writer_opens_ GUARDED_BY(mu_) = 0;
  WaitQueue queue_;
};

class PipeEnd final : public FileDescription {
 public:
  // pipe2(2): `flags` are O_NONBLOCK, O_DIRECT is refused by the caller.
  struct Pair {
    Ref<PipeEnd> reader, writer;
  };
  static Pair create_pair(uint32_t flags);
  // Opens a FIFO. ENXIO: for writing without waiting, and nobody reads.
  static Result<Ref<FileDescription>> open(const Path& path, uint32_t flags, const Caller& caller);
  ~PipeEnd() override;

  Result<size_t> read(UserBuffer& to, IoFlags flags) override;
  Result<size_t> write(UserBuffer& from, IoFlags flags) override;
  EventMask readiness(EventMask mask) override;
  void add_waiter(WaitEntry& entry) override { pipe_->queue().add(entry); }
  void remove_waiter(WaitEntry& entry) override { pipe_->queue().remove(entry); }
  bool can_poll() const override { return true; }
  bool is_open_complete() override;
  bool raises_sigpipe() const override { return true; }
  bool writes_everything() const override { return true; }
  Result<uint64_t> bytes_readable() override { return pipe_->used(); }
  Pipe& pipe() const { return *pipe_; }

 private:
  PipeEnd(Path path, uint32_t flags, Ref<Pipe> pipe);
  // pipe(2)'s, opened again through /proc/PID/fd: never waits for the other end.
  bool is_fifo() const;

  const Ref<Pipe> pipe_;
  Pipe::Opened at_open_{};          // set once before start
  uint64_t not_hung_up_until_ = 0;  // opens for writing; set once before start
};

}  // namespace caisson
