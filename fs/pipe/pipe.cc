#include "fs/pipe/pipe.h"

#include <linux/fs.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <unordered_map>

#include "mm/user_buffer.h"

namespace caisson {
namespace {

constexpr EventMask kReadable = kEventIn | 0x040;   // POLLRDNORM
constexpr EventMask kWritable = kEventOut | 0x100;  // POLLWRNORM

// Which pipe an inode has, while any end is open.
struct PipeTable {
  Mutex<LockRank::kInode> mu;
  std::unordered_map<const Inode*, Ref<Pipe>> pipes GUARDED_BY(mu);
};
PipeTable& pipe_table() {
  static auto* const table = new PipeTable();
  return *table;
}

bool is_fifo_inode(const Inode& inode) { return &inode.filesystem() != &*anonymous_filesystem(); }

}  // namespace

void Pipe::grow_locked(size_t wanted) {
  size_t size = std::bit_ceil(std::max(wanted, kPipeBuf));
  if (size <= ring_size_) return;
  auto ring = std::make_unique_for_overwrite<std::byte[]>(size);
  size_t first = std::min(used_, ring_size_ - begin_);
  if (used_ != 0) {
    std::memcpy(ring.get(), ring_.get() + begin_, first);
    std::memcpy(ring.get() + first, ring_.get(), used_ - first);
  }
  ring_ = std::move(ring);
  ring_size_ = size;
  begin_ = 0;
}

Result<size_t> Pipe::read(UserBuffer& to) {
  if (to.remaining() == 0) return 0;
  size_t done = 0;
  {
    MutexLock lock(mu_);
    if (used_ == 0) {
      if (writers_ == 0) return 0;
      return Errno(EAGAIN);
    }
    const size_t total = std::min<uint64_t>(to.remaining(), used_);
    while (done < total) {
      size_t piece = std::min(total - done, ring_size_ - begin_);
      Result<size_t> moved = to.write(ring_.get() + begin_, piece);
      if (!moved.ok()) {
        if (done != 0) break;
        return moved.error();
      }
      begin_ = (begin_ + moved.value()) & (ring_size_ - 1);
      used_ -= moved.value();
      done += moved.value();
      if (moved.value() != piece) break;
    }
    if (used_ == 0) begin_ = 0;
  }
  queue_.notify(kWritable);
  return done;
}

Result<size_t> Pipe::write(UserBuffer& from) {
  size_t done = 0;
  {
    MutexLock lock(mu_);
    if (from.remaining() == 0) return 0;
    if (readers_ == 0) return Errno(EPIPE);
    const size_t room = capacity_ - std::min(capacity_, used_);
    if (room == 0 || (from.remaining() <= kPipeBuf && room < from.remaining()))
      return Errno(EAGAIN);
    const size_t total = std::min<uint64_t>(from.remaining(), room);
    grow_locked(used_ + total);
    while (done < total) {
      size_t end = (begin_ + used_) & (ring_size_ - 1);
      size_t piece = std::min(total - done, ring_size_ - end);
      Result<size_t> moved = from.read(ring_.get() + end, piece);
      if (!moved.ok()) {
        if (done != 0) break;
        return moved.error();
      }
      used_ += moved.value();
      done += moved.value();
      if (moved.value() != piece) break;
    }
  }
  queue_.notify(kReadable);
  return done;
}

EventMask Pipe::readiness(bool reader, bool writer, EventMask mask, uint64_t writers_before) {
  EventMask ready = 0;
  MutexLock lock(mu_);
  if (reader) {
    if (used_ != 0) ready |= kReadable;
    // A FIFO that nobody has opened for writing since has not been hung up either.
    if (writers_ == 0 && writer_opens_ != writers_before) ready |= kEventHup;
  }
  if (writer) {
    if (capacity_ - std::min(capacity_, used_) >= kPipeBuf) ready |= kWritable;
    if (readers_ == 0) ready |= kEventErr;
  }
  return ready & (mask | kEventAlways);
}

Pipe::Opened Pipe::add(bool reader, bool writer) {
  Opened before;
  {
    MutexLock lock(mu_);
    before = Opened{reader_opens_, writer_opens_, writers_ != 0};
    if (reader) {
      ++readers_;
      ++reader_opens_;
    }
    if (writer) {
      ++writers_;
      ++writer_opens_;
    }
  }
  queue_.notify(kReadable | kWritable | kEventInternal);
  return before;
}

void Pipe::remove(bool reader, bool writer) {
  {
    MutexLock lock(mu_);
    if (reader) --readers_;
    if (writer) --writers_;
  }
  queue_.notify(kReadable | kWritable | kEventHup | kEventErr);
}

bool Pipe::has_writer_since(uint64_t writer_opens) const {
  MutexLock lock(mu_);
  return writers_ != 0 || writer_opens_ != writer_opens;
}
bool Pipe::has_reader_since(uint64_t reader_opens) const {
  MutexLock lock(mu_);
  return readers_ != 0 || reader_opens_ != reader_opens;
}
bool Pipe::has_readers() const {
  MutexLock lock(mu_);
  return readers_ != 0;
}
bool Pipe::is_unused() const {
  MutexLock lock(mu_);
  return readers_ == 0 && writers_ == 0;
}
size_t Pipe::used() const {
  MutexLock lock(mu_);
  return used_;
}
size_t Pipe::capacity() const {
  MutexLock lock(mu_);
  return capacity_;
}

Result<size_t> Pipe::set_capacity(size_t capacity) {
  capacity = std::bit_ceil(std::max(capacity, kPipeBuf));
  {
    MutexLock lock(mu_);
    if (capacity < used_) return Errno(EBUSY);
    capacity_ = capacity;
  }
  queue_.notify(kWritable);
  return capacity;
}

PipeEnd::PipeEnd(Path path, uint32_t flags, Ref<Pipe> pipe)
    : FileDescription(std::move(path), flags), pipe_(std::move(pipe)) {}

PipeEnd::~PipeEnd() {
  RefOrNull<Pipe> last;  // dropped after the lock
  PipeTable& table = pipe_table();
  MutexLock lock(table.mu);
  pipe_->remove(is_readable(), is_writable());
  if (!pipe_->is_unused()) return;
  auto it = table.pipes.find(&inode());
  if (it == table.pipes.end() || !(it->second == pipe_)) return;
  last = it->second.or_null();
  table.pipes.erase(it);
}

PipeEnd::Pair PipeEnd::create_pair(uint32_t flags) {
  Path path = make_anonymous_path("pipe:", S_IFIFO | 0600);
  Ref<Pipe> pipe = make_ref<Pipe>();
  Ref<PipeEnd> reader = adopt_ref(new PipeEnd(path, O_RDONLY | flags, pipe));
  Ref<PipeEnd> writer = adopt_ref(new PipeEnd(path, O_WRONLY | flags, pipe));
  PipeTable& table = pipe_table();
  MutexLock lock(table.mu);
  table.pipes.insert_or_assign(&path.inode(), pipe);
  pipe->add(true, true);
  return Pair{std::move(reader), std::move(writer)};
}

Result<Ref<FileDescription>> PipeEnd::open(const Path& path, uint32_t flags, const Caller&) {
  const bool reader = (flags & O_ACCMODE) != O_WRONLY;
  const bool writer = (flags & O_ACCMODE) != O_RDONLY;
  PipeTable& table = pipe_table();
  MutexLock lock(table.mu);
  auto it = table.pipes.find(&path.inode());
  // A pipe(2) is there as long as one end is open, which is how it was found.
  if (writer && !reader && is_fifo_inode(path.inode()) && (flags & O_NONBLOCK) != 0 &&
      (it == table.pipes.end() || !it->second->has_readers()))
    return Errno(ENXIO);
  if (it == table.pipes.end()) it = table.pipes.emplace(&path.inode(), make_ref<Pipe>()).first;
  Ref<PipeEnd> end = adopt_ref(new PipeEnd(path, flags, it->second));
  end->at_open_ = end->pipe_->add(reader, writer);
  if (end->is_fifo() && end->is_nonblocking() && !end->at_open_.has_writers)
    end->not_hung_up_until_ = end->at_open_.writer_opens;
  return Ref<FileDescription>(end);
}

bool PipeEnd::is_fifo() const { return is_fifo_inode(inode()); }

bool PipeEnd::is_open_complete() {
  if (!is_fifo()) return true;
  if (is_readable() && is_writable()) return true;
  if (is_nonblocking()) return true;
  return is_readable() ? pipe_->has_writer_since(at_open_.writer_opens)
                       : pipe_->has_reader_since(at_open_.reader_opens);
}

Result<size_t> PipeEnd::read(UserBuffer& to, IoFlags flags) {
  if ((flags.rwf & ~uint32_t{RWF_NOWAIT}) != 0) return Errno(EOPNOTSUPP);
  return pipe_->read(to);
}
Result<size_t> PipeEnd::write(UserBuffer& from, IoFlags flags) {
  if ((flags.rwf & ~uint32_t{RWF_NOWAIT}) != 0) return Errno(EOPNOTSUPP);
  return pipe_->write(from);
}
EventMask PipeEnd::readiness(EventMask mask) {
  return pipe_->readiness(is_readable(), is_writable(), mask, not_hung_up_until_);
}

}  // namespace caisson
