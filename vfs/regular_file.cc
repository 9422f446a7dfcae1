#include "vfs/regular_file.h"

#include <linux/fs.h>
#include <unistd.h>

#include "mm/mappable.h"
#include "mm/user_buffer.h"

namespace caisson {
namespace {

constexpr uint64_t kMaxOffset = INT64_MAX;
constexpr uint32_t kKnownRwf = RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_NOWAIT | RWF_APPEND;

Result<void> check_flags(IoFlags flags) {
  if ((flags.rwf & ~kKnownRwf) != 0) return Errno(EOPNOTSUPP);
  return {};
}

}  // namespace

Ref<RegularFile> RegularFile::create(Path path, uint32_t flags) {
  return adopt_ref(new RegularFile(std::move(path), flags));
}

Result<size_t> RegularFile::read(UserBuffer& to, IoFlags flags) {
  TRY(check_flags(flags));
  MutexLock lock(offset_mu_);
  size_t done = TRY(inode().read_at(to, offset_));
  offset_ += done;
  return done;
}

Result<size_t> RegularFile::write(UserBuffer& from, IoFlags flags) {
  TRY(check_flags(flags));
  MutexLock lock(offset_mu_);
  bool append = (this->flags() & O_APPEND) != 0 || (flags.rwf & RWF_APPEND) != 0;
  WritePosition position{offset_, append};
  size_t done = TRY(inode().write_at(from, position));
  offset_ = position.offset + done;
  return done;
}

Result<size_t> RegularFile::pread(UserBuffer& to, uint64_t offset, IoFlags flags) {
  TRY(check_flags(flags));
  return inode().read_at(to, offset);
}

Result<size_t> RegularFile::pwrite(UserBuffer& from, uint64_t offset, IoFlags flags) {
  TRY(check_flags(flags));
  // O_APPEND wins over the offset: pwrite(2), BUGS.
  bool append = (this->flags() & O_APPEND) != 0 || (flags.rwf & RWF_APPEND) != 0;
  WritePosition position{offset, append};
  return inode().write_at(from, position);
}

Result<uint64_t> seek_offset(Inode& inode, uint64_t current, int64_t offset, int whence) {
  uint64_t base = 0;
  switch (whence) {
    case SEEK_SET:
      break;
    case SEEK_CUR:
      base = current;
      break;
    case SEEK_END:
      base = TRY(inode.stat()).size;
      break;
    case SEEK_DATA:
    case SEEK_HOLE:
      if (offset < 0) return Errno(ENXIO);
      return inode.seek_data(static_cast<uint64_t>(offset), whence == SEEK_HOLE);
    default:
      return Errno(EINVAL);
  }
  int64_t result;
  if (__builtin_add_overflow(static_cast<int64_t>(base), offset, &result))
    return Errno(offset > 0 ? EOVERFLOW : EINVAL);
  if (result < 0) return Errno(EINVAL);
  return static_cast<uint64_t>(result);
}

Result<uint64_t> RegularFile::lseek(int64_t offset, int whence) {
  MutexLock lock(offset_mu_);
  offset_ = TRY(seek_offset(inode(), offset_, offset, whence));
  return offset_;
}

Result<void> RegularFile::truncate(uint64_t size) {
  if (!is_writable()) return Errno(EINVAL);
  if (size > kMaxOffset) return Errno(EINVAL);
  return inode().truncate(size);
}

Result<void> RegularFile::allocate(int mode, uint64_t offset, uint64_t length) {
  return inode().allocate(mode, offset, length);
}

Result<void> RegularFile::fsync(bool data_only) { return inode().sync(data_only); }
RefOrNull<Mappable> RegularFile::mappable() { return inode().mappable(); }

Result<uint64_t> RegularFile::bytes_readable() {
  uint64_t size = TRY(inode().stat()).size;
  MutexLock lock(offset_mu_);
  return size > offset_ ? size - offset_ : 0;
}

}  // namespace caisson
