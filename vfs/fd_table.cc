#include "vfs/fd_table.h"

#include <algorithm>

#include "vfs/file_locks.h"

namespace caisson {

Ref<FdTable> FdTable::create() { return adopt_ref(new FdTable()); }

FdTable::~FdTable() { remove_all(); }

Ref<FdTable> FdTable::copy() const {
  Ref<FdTable> other = create();
  MutexLock lock(mu_);
  // Not a second lock of our own: nobody else knows `other` yet.
  MutexLockSameRank other_lock(other->mu_);
  other->slots_ = slots_;
  other->first_free_ = first_free_;
  while (!other->slots_.empty() && !other->slots_.back().file) other->slots_.pop_back();
  return other;
}

Result<Ref<FileDescription>> FdTable::get_any(int fd) const {
  MutexLock lock(mu_);
  if (fd < 0 || static_cast<size_t>(fd) >= slots_.size()) return Errno(EBADF);
  const Slot& slot = slots_[static_cast<size_t>(fd)];
  if (!slot.file) return Errno(EBADF);
  return Ref<FileDescription>::from(slot.file);
}

Result<Ref<FileDescription>> FdTable::get(int fd) const {
  Ref<FileDescription> file = TRY(get_any(fd));
  if (file->is_path_only()) return Errno(EBADF);
  return file;
}

Result<int> FdTable::find_free(int lowest, uint64_t limit) {
  limit = std::min(limit, kMaxDescriptors);
  size_t fd = static_cast<size_t>(std::max(lowest, first_free_));
  while (fd < slots_.size() && slots_[fd].file) ++fd;
  if (lowest <= first_free_) first_free_ = static_cast<int>(fd);
  if (fd >= limit) return Errno(EMFILE);
  return static_cast<int>(fd);
}

void FdTable::put(int fd, Ref<FileDescription> file, bool close_on_exec) {
  size_t index = static_cast<size_t>(fd);
  if (index >= slots_.size()) slots_.resize(index + 1);
  slots_[index] = Slot{std::move(file).or_null(), close_on_exec};
}

Result<int> FdTable::install(Ref<FileDescription> file, FdOptions options) {
  MutexLock lock(mu_);
  int fd = TRY(find_free(options.lowest, options.limit));
  put(fd, std::move(file), options.close_on_exec);
  return fd;
}

Result<void> FdTable::install_two(Ref<FileDescription> a, Ref<FileDescription> b, FdOptions options,
                                  int (&fds)[2]) {
  MutexLock lock(mu_);
  int first = TRY(find_free(options.lowest, options.limit));
  int second = TRY(find_free(first + 1, options.limit));
  put(first, std::move(a), options.close_on_exec);
  put(second, std::move(b), options.close_on_exec);
  fds[0] = first;
  fds[1] = second;
  return {};
}

Result<void> FdTable::install_at(int fd, Ref<FileDescription> file, FdOptions options) {
  RefOrNull<FileDescription> before;
  if (fd < 0 || static_cast<uint64_t>(fd) >= std::min(options.limit, kMaxDescriptors))
    return Errno(EBADF);
  {
    MutexLock lock(mu_);
    if (static_cast<size_t>(fd) < slots_.size())
      before = std::move(slots_[static_cast<size_t>(fd)].file);
    put(fd, std::move(file), options.close_on_exec);
  }
  if (before) released(Ref<FileDescription>::from(std::move(before)));
  return {};
}

void FdTable::released(const Ref<FileDescription>& file) {
  // POSIX record locks go with any descriptor of the file that the process closes.
  if (FileLocks* locks = file->inode().locks_or_null()) locks->remove_posix(this);
}

Result<Ref<FileDescription>> FdTable::remove(int fd) {
  RefOrNull<FileDescription> file;
  {
    MutexLock lock(mu_);
    if (fd < 0 || static_cast<size_t>(fd) >= slots_.size()) return Errno(EBADF);
    file = std::move(slots_[static_cast<size_t>(fd)].file);
    if (!file) return Errno(EBADF);
    first_free_ = std::min(first_free_, fd);
  }
  Ref<FileDescription> kept = Ref<FileDescription>::from(std::move(file));
  released(kept);
  return kept;
}

void FdTable::remove_range(uint32_t first, uint32_t last, bool set_close_on_exec) {
  std::vector<Ref<FileDescription>> gone;
  {
    MutexLock lock(mu_);
    size_t end = std::min<size_t>(static_cast<size_t>(last) + 1, slots_.size());
    for (size_t fd = first; fd < end; ++fd) {
      if (!slots_[fd].file) continue;
      if (set_close_on_exec) {
        slots_[fd].close_on_exec = true;
        continue;
      }
      gone.push_back(Ref<FileDescription>::from(std::move(slots_[fd].file)));
      first_free_ = std::min(first_free_, static_cast<int>(fd));
    }
  }
  for (const Ref<FileDescription>& file : gone) released(file);
}

void FdTable::remove_close_on_exec() {
  std::vector<Ref<FileDescription>> gone;
  {
    MutexLock lock(mu_);
    for (size_t fd = 0; fd < slots_.size(); ++fd) {
      if (!slots_[fd].file || !slots_[fd].close_on_exec) continue;
      gone.push_back(Ref<FileDescription>::from(std::move(slots_[fd].file)));
      first_free_ = std::min(first_free_, static_cast<int>(fd));
    }
  }
  for (const Ref<FileDescription>& file : gone) released(file);
}

void FdTable::remove_all() { remove_range(0, ~0u, false); }

Result<bool> FdTable::close_on_exec(int fd) const {
  MutexLock lock(mu_);
  if (fd < 0 || static_cast<size_t>(fd) >= slots_.size() || !slots_[static_cast<size_t>(fd)].file)
    return Errno(EBADF);
  return slots_[static_cast<size_t>(fd)].close_on_exec;
}

Result<void> FdTable::set_close_on_exec(int fd, bool value) {
  MutexLock lock(mu_);
  if (fd < 0 || static_cast<size_t>(fd) >= slots_.size() || !slots_[static_cast<size_t>(fd)].file)
    return Errno(EBADF);
  slots_[static_cast<size_t>(fd)].close_on_exec = value;
  return {};
}

std::vector<int> FdTable::numbers() const {
  std::vector<int> numbers;
  MutexLock lock(mu_);
  for (size_t fd = 0; fd < slots_.size(); ++fd) {
    if (slots_[fd].file) numbers.push_back(static_cast<int>(fd));
  }
  return numbers;
}

}  // namespace caisson
