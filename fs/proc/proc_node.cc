#include "fs/proc/proc_node.h"

#include <linux/magic.h>

#include <algorithm>
#include <charconv>

#include "mm/mappable.h"
#include "mm/user_buffer.h"
#include "vfs/regular_file.h"

namespace caisson {
namespace {

// An open text: made at the first read and whenever it is read from the beginning, so that what is
// read piece by piece belongs together. Linux: fs/seq_file.c. Made with no lock held: it may show
// anything of the sandbox, whatever its lock's rank.
class ProcTextFile final : public FileDescription {
 public:
  ProcTextFile(Path path, uint32_t flags, const Credentials& opener)
      : FileDescription(std::move(path), flags), opener_(opener) {}

  Result<size_t> read(UserBuffer& to, IoFlags) override {
    {
      MutexLock lock(mu_);
      if (made_ && offset_ != 0) return advance_locked(to);
    }
    std::string text = TRY(node().read());
    MutexLock lock(mu_);
    // Another read of the same open file may have been first.
    if (!made_ || offset_ == 0) keep_locked(std::move(text));
    return advance_locked(to);
  }
  Result<size_t> pread(UserBuffer& to, uint64_t offset, IoFlags) override {
    {
      MutexLock lock(mu_);
      if (made_ && offset != 0) return copy_locked(to, offset);
    }
    std::string text = TRY(node().read());
    MutexLock lock(mu_);
    keep_locked(std::move(text));
    return copy_locked(to, offset);
  }
  Result<size_t> write(UserBuffer& from, IoFlags) override {
    constexpr size_t kMaxWrite = 4096;
    std::string text(std::min<uint64_t>(from.remaining(), kMaxWrite), '\0');
    if (TRY(from.read(text.data(), text.size())) != text.size()) return Errno(EFAULT);
    TRY(node().write(text, *opener_));
    return text.size();
  }
  Result<size_t> pwrite(UserBuffer& from, uint64_t, IoFlags flags) override {
    return write(from, flags);
  }
  Result<uint64_t> lseek(int64_t offset, int whence) override {
    if (whence != SEEK_SET && whence != SEEK_CUR) return Errno(EINVAL);
    MutexLock lock(mu_);
    offset_ = TRY(seek_offset(inode(), offset_, offset, whence));
    return offset_;
  }

 private:
  const ProcText& node() const { return static_cast<ProcText&>(inode()); }
  void keep_locked(std::string text) REQUIRES(mu_) {
    text_ = std::move(text);
    made_ = true;
  }
  Result<size_t> copy_locked(UserBuffer& to, uint64_t offset) REQUIRES(mu_) {
    if (offset >= text_.size()) return 0;
    return to.write(text_.data() + offset,
                    std::min<uint64_t>(text_.size() - offset, to.remaining()));
  }
  Result<size_t> advance_locked(UserBuffer& to) REQUIRES(mu_) {
    size_t done = TRY(copy_locked(to, offset_));
    offset_ += done;
    return done;
  }
  const Ref<const Credentials> opener_;
  Mutex<LockRank::kFileDescription> mu_;
  std::string text_ GUARDED_BY(mu_);
  bool made_ GUARDED_BY(mu_) = false;
  uint64_t offset_ GUARDED_BY(mu_) = 0;
};

}  // namespace

Result<FilesystemStat> ProcFilesystem::stat() {
  FilesystemStat stat;
  stat.magic = PROC_SUPER_MAGIC;
  return stat;
}

uint64_t ProcPlace::ino() const {
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (char c : path) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return (hash >> 16) | 1;
}

Result<FileStat> ProcNode::stat() {
  FileStat stat;
  stat.device = filesystem().device();
  stat.ino = ino();
  stat.mode = mode();
  stat.link_count = is_directory() ? 2 : 1;
  stat.uid = uid();
  stat.gid = gid();
  stat.block_size = 1024;
  stat.accessed = stat.modified = stat.changed = file_time_now();
  return stat;
}

Result<Ref<FileDescription>> ProcText::open(const Path& path, uint32_t flags,
                                            const Caller& caller) {
  if (may_open_ && !may_open_(caller)) return Errno(EACCES);
  return Ref<FileDescription>(make_ref<ProcTextFile>(path, flags, caller.credentials));
}

Result<void> ProcText::write(std::string_view text, const Credentials& opener) const {
  if (!write_) return Errno(EIO);
  return write_(text, opener);
}

Result<DirectoryListing> ProcDirectory::list() {
  return DirectoryListing(std::make_shared<const std::vector<DirectoryEntry>>(TRY(list_())));
}

RefOrNull<Inode> lookup_static(const ProcPlace& directory, std::span<const ProcChild> children,
                               std::string_view name) {
  for (const ProcChild& child : children) {
    if (child.name == name) return child.make(directory.child(name)).or_null();
  }
  return nullptr;
}

void list_static(const ProcPlace& directory, std::span<const ProcChild> children,
                 std::vector<DirectoryEntry>& entries) {
  for (const ProcChild& child : children) {
    entries.push_back(DirectoryEntry{std::string(child.name), directory.child(child.name).ino(),
                                     dirent_type(child.type)});
  }
}

Ref<Inode> make_static_directory(const ProcPlace& place, std::span<const ProcChild> children) {
  return make_ref<ProcDirectory>(
      place,
      [place, children](std::string_view name) -> Result<RefOrNull<Inode>> {
        return lookup_static(place, children, name);
      },
      [place, children]() -> Result<std::vector<DirectoryEntry>> {
        std::vector<DirectoryEntry> entries;
        list_static(place, children, entries);
        return entries;
      });
}

std::optional<int32_t> parse_number(std::string_view text) {
  int32_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) return std::nullopt;
  if (value < 0 || (text[0] == '0' && text.size() > 1) || text[0] == '-') return std::nullopt;
  return value;
}

}  // namespace caisson
