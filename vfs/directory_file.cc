#include "vfs/directory_file.h"

#include <dirent.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "mm/user_buffer.h"

namespace caisson {

Ref<DirectoryFile> DirectoryFile::create(Path path, uint32_t flags) {
  return adopt_ref(new DirectoryFile(std::move(path), flags));
}

Result<size_t> DirectoryFile::getdents(UserBuffer& to) {
  MutexLock lock(mu_);
  if (path().dentry->is_removed()) return Errno(ENOENT);
  if (listing_ == nullptr) listing_ = TRY(inode().list());

  // Records are built here and copied in one piece.
  size_t room = std::min<uint64_t>(to.remaining(), 64 * 1024);
  std::vector<std::byte> records;
  records.reserve(std::min<size_t>(room, 32 + listing_->size() * 40));
  uint64_t position = position_;
  for (;; ++position) {
    std::string_view name;
    uint64_t ino;
    uint8_t type = DT_DIR;
    if (position == 0) {
      name = ".";
      ino = inode().ino();
    } else if (position == 1) {
      name = "..";
      ino = path().dentry->parent()->inode().ino();
    } else if (position - 2 < listing_->size()) {
      const DirectoryEntry& entry = (*listing_)[position - 2];
      name = entry.name;
      ino = entry.ino;
      type = entry.type;
    } else {
      break;
    }
    size_t length = (sizeof(abi::DirentHeader) + name.size() + 1 + 7) & ~size_t{7};
    if (records.size() + length > room) {
      if (records.empty()) return Errno(EINVAL);  // not even one fits
      break;
    }
    abi::DirentHeader header{ino, static_cast<int64_t>(position + 1), static_cast<uint16_t>(length),
                             type};
    size_t at = records.size();
    records.resize(at + length);  // zeros: the NUL and the padding
    std::memcpy(&records[at], &header, sizeof header);
    std::memcpy(&records[at + sizeof header], name.data(), name.size());
  }
  if (records.empty()) return 0;
  if (TRY(to.write(records.data(), records.size())) != records.size()) return Errno(EFAULT);
  position_ = position;
  return records.size();
}

Result<uint64_t> DirectoryFile::lseek(int64_t offset, int whence) {
  MutexLock lock(mu_);
  switch (whence) {
    case SEEK_SET:
      break;
    case SEEK_CUR:
      if (__builtin_add_overflow(offset, static_cast<int64_t>(position_), &offset))
        return Errno(EINVAL);
      break;
    default:
      return Errno(EINVAL);
  }
  if (offset < 0) return Errno(EINVAL);
  position_ = static_cast<uint64_t>(offset);
  if (position_ == 0) listing_ = nullptr;  // rewinddir(3) sees what is there now
  return position_;
}

}  // namespace caisson
