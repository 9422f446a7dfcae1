#include "fs/tmpfs/tmpfs_file.h"

#include <linux/falloc.h>

#include <algorithm>

#include "mm/user_buffer.h"
#include "vfs/path_walk.h"
#include "vfs/regular_file.h"

namespace caisson {
namespace {

// Either keeps new writes out of a file.
constexpr uint32_t kWriteSeals = F_SEAL_WRITE | 0x10 /* F_SEAL_FUTURE_WRITE */;
constexpr uint64_t kMaxFileSize = uint64_t{1} << 46;  // fits the memory file's offsets many times
}  // namespace

TmpfsFile::TmpfsFile(Ref<Tmpfs> tmpfs, uint64_t ino, const NewFile& file)
    : TmpfsInode(tmpfs, ino, file), store_(make_ref<PageStore>(std::move(tmpfs), ino).or_null()) {}

TmpfsFile::TmpfsFile(Ref<Tmpfs> tmpfs, uint64_t ino, const FileStat& attributes, Ref<Inode> lower)
    : TmpfsInode(std::move(tmpfs), ino, attributes, std::move(lower)) {}

TmpfsFile::~TmpfsFile() = default;

Result<size_t> TmpfsFile::read_at(UserBuffer& to, uint64_t offset) {
  {
    MutexLock lock(mu_);
    if (store_) {
      uint64_t size = store_->size();
      if (offset >= size) return 0;
      uint64_t total = std::min<uint64_t>(to.remaining(), size - offset);
      to.expect_write(total);
      uint64_t done = 0;
      while (done < total) {
        MemoryRange here = store_->find(offset + done);
        uint64_t piece = total - done;
        Result<size_t> moved = 0;
        if (here.empty()) {
          piece = std::min(piece, store_->next(offset + done, size, false) - (offset + done));
          moved = to.write_zeros(piece);
        } else {
          piece = std::min(piece, here.length);
          moved = to.write(tmpfs().memory().at(here.offset), piece);
        }
        if (!moved.ok()) {
          if (done != 0) break;
          return moved.error();
        }
        done += moved.value();
        if (moved.value() != piece) break;  // a bad address: what was done counts
      }
      return done;
    }
  }
  return lower_->read_at(to, offset);
}

Result<void> TmpfsFile::prepare_write(bool will_truncate) {
  {
    MutexLock lock(mu_);
    if (store_) return {};
  }
  pin();
  Ref<PageStore> copy = make_ref<PageStore>(Ref<Tmpfs>(tmpfs()), ino());
  if (!will_truncate) {
    uint64_t size = TRY(lower_->stat()).size;
    uint64_t done = 0;
    while (done < size) {
      MemoryRange here = TRY(copy->find_or_make(done));
      size_t piece = std::min(here.length, size - done);
      UserBuffer buffer =
          UserBuffer::of_kernel(std::span<std::byte>(tmpfs().memory().at(here.offset), piece));
      size_t got = TRY(lower_->read_at(buffer, done));
      if (got == 0) break;  // shorter than it said
      done += got;
    }
    copy->set_size(size);
  }
  MutexLock lock(mu_);
  if (!store_) store_ = copy.or_null();
  return {};
}

Result<size_t> TmpfsFile::write_at(UserBuffer& from, WritePosition& position) {
  if (from.remaining() == 0) return 0;
  MutexLock lock(mu_);
  CHECK(store_);  // prepare_write() ran at open
  uint64_t size = store_->size();
  if (position.append) position.offset = size;
  if (position.offset >= kMaxFileSize) return Errno(EFBIG);
  uint64_t total = std::min<uint64_t>(from.remaining(), kMaxFileSize - position.offset);
  if ((seals_ & kWriteSeals) != 0) return Errno(EPERM);
  if ((seals_ & F_SEAL_GROW) != 0 && position.offset + total > size) {
    if (position.offset >= size) return Errno(EPERM);
    total = size - position.offset;
  }
  uint64_t done = 0;
  Result<void> failure;
  while (done < total) {
    Result<MemoryRange> here = store_->find_or_make(position.offset + done);
    if (!here.ok()) {
      failure = here.error();
      break;
    }
    uint64_t piece = std::min(total - done, here.value().length);
    if (!tmpfs().memory().has_room({here.value().offset, piece})) {
      failure = Errno(ENOSPC);
      break;
    }
    Result<size_t> moved = from.read(tmpfs().memory().at(here.value().offset), piece);
    if (!moved.ok()) {
      // A full sandbox is a full file system: nobody is killed for a file.
      failure = moved.error() == Errno(kEMEMORYLIMIT) ? Errno(ENOSPC) : moved.error();
      break;
    }
    done += moved.value();
    if (moved.value() != piece) break;
  }
  if (done == 0 && !failure.ok()) return failure.error();
  store_->set_size(std::max(size, position.offset + done));
  // Writing takes the set-id bits away (file_remove_privs); whoever may keep them sets them again.
  uint32_t mode = this->mode();
  if ((mode & S_ISUID) != 0 || (mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP)) {
    uint32_t drop = S_ISUID;
    if ((mode & S_IXGRP) != 0) drop |= S_ISGID;
    mode_.store(mode & ~drop);
  }
  modified_now_locked();
  return done;
}

Result<void> TmpfsFile::truncate_locked(uint64_t size) {
  uint64_t before = store_->size();
  if (size > kMaxFileSize) return Errno(EFBIG);
  if (size < before && (seals_ & F_SEAL_SHRINK) != 0) return Errno(EPERM);
  if (size > before && (seals_ & F_SEAL_GROW) != 0) return Errno(EPERM);
  store_->set_size(size);
  if (size < before) {
    store_->remove(size, UINT64_MAX);
    store_->registry()->drop_pages(*store_, page_up(size), UINT64_MAX, true);
  }
  modified_now_locked();
  return {};
}

Result<void> TmpfsFile::truncate(uint64_t size) {
  TRY(prepare_write(size == 0));
  MutexLock lock(mu_);
  return truncate_locked(size);
}

Result<void> TmpfsFile::allocate(int mode, uint64_t offset, uint64_t length) {
  if ((mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)) != 0) return Errno(EOPNOTSUPP);
  if (offset + length > kMaxFileSize) return Errno(EFBIG);
  TRY(prepare_write(false));
  MutexLock lock(mu_);
  const uint64_t end = offset + length;
  if ((mode & FALLOC_FL_PUNCH_HOLE) != 0) {
    if ((seals_ & kWriteSeals) != 0) return Errno(EPERM);
    store_->remove(offset, std::min(end, page_up(store_->size())));
    if (page_up(offset) < page_down(end))
      store_->registry()->drop_pages(*store_, page_up(offset), page_down(end), false);
    modified_now_locked();
    return {};
  }
  if ((seals_ & F_SEAL_GROW) != 0 && end > store_->size()) return Errno(EPERM);
  for (uint64_t at = offset; at < end;) at += TRY(store_->find_or_make(at)).length;
  if ((mode & FALLOC_FL_KEEP_SIZE) == 0 && end > store_->size()) store_->set_size(end);
  changed_now_locked();
  return {};
}

Result<uint64_t> TmpfsFile::seek_data(uint64_t offset, bool hole) {
  {
    MutexLock lock(mu_);
    if (store_) {
      uint64_t size = store_->size();
      if (offset >= size) return Errno(ENXIO);
      uint64_t found = store_->next(offset, size, hole);
      if (!hole && found == size) return Errno(ENXIO);
      return found;
    }
  }
  return lower_->seek_data(offset, hole);
}

RefOrNull<Mappable> TmpfsFile::mappable() {
  {
    MutexLock lock(mu_);
    if (store_) return store_;
  }
  return lower_->mappable();
}

Result<Ref<FileDescription>> TmpfsFile::open(const Path& path, uint32_t flags,
                                             const Caller& caller) {
  RefOrNull<PageStore> store;
  {
    MutexLock lock(mu_);
    store = store_;
  }
  if (store) {
    store->set_path(describe_path(caller.mounts, caller.root, path).text);
    return Ref<FileDescription>(RegularFile::create(path, flags));
  }
  // The lower file may refuse, and opens its host file now rather than at the first read.
  TRY(lower_->open(path, O_RDONLY, caller));
  return Ref<FileDescription>(RegularFile::create(path, flags));
}

uint32_t TmpfsFile::seals() const {
  MutexLock lock(mu_);
  return seals_;
}

Result<void> TmpfsFile::add_seals(uint32_t seals) {
  constexpr uint32_t kKnown = 0x3f;
  if ((seals & ~kKnown) != 0) return Errno(EINVAL);
  MutexLock lock(mu_);
  if ((seals_ & F_SEAL_SEAL) != 0) return Errno(EPERM);
  if ((seals & kWriteSeals) != 0) TRY(store_->registry()->seal((seals & F_SEAL_WRITE) == 0));
  seals_ |= seals;
  return {};
}

void TmpfsFile::set_mapped_path(std::string path) {
  MutexLock lock(mu_);
  if (store_) store_->set_path(std::move(path));
}

void TmpfsFile::set_seals(uint32_t seals) {
  MutexLock lock(mu_);
  seals_ = seals;
}

}  // namespace caisson
