// FdTable: descriptor numbers of a process, shared by CLONE_FILES. Linux: struct files_struct.
//
// Lock: mu_, rank kFdTable; files are released after it is dropped, since the last reference to a
// file may do anything.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "base/mutex.h"
#include "base/ref.h"
#include "base/result.h"
#include "vfs/file_description.h"

namespace caisson {

inline constexpr uint64_t kMaxDescriptors = 1u << 20;  // /proc/sys/fs/nr_open

struct FdOptions {
  bool close_on_exec = false;
  int lowest = 0;
  uint64_t limit = kMaxDescriptors;  // RLIMIT_NOFILE
};

class FdTable : public RefCounted<FdTable> {
 public:
  static Ref<FdTable> create();
  ~FdTable();

  // For clone without CLONE_FILES.
  Ref<FdTable> copy() const EXCLUDES(mu_);

  // EBADF if not open. get() refuses O_PATH descriptors, get_any() does not.
  Result<Ref<FileDescription>> get(int fd) const EXCLUDES(mu_);
  Result<Ref<FileDescription>> get_any(int fd) const EXCLUDES(mu_);
  // The lowest free number from options.lowest: EMFILE at the limit.
  Result<int> install(Ref<FileDescription> file, FdOptions options = {}) EXCLUDES(mu_);
  // Two numbers or none (pipe, socketpair).
  Result<void> install_two(Ref<FileDescription> a, Ref<FileDescription> b, FdOptions options,
                           int (&fds)[2]) EXCLUDES(mu_);
  // At exactly `fd`; what was there is closed (dup2): EBADF beyond the limit.
  Result<void> install_at(int fd, Ref<FileDescription> file, FdOptions options) EXCLUDES(mu_);

  // Frees the number; gives what was there, after dropping this process's POSIX locks on it.
  Result<Ref<FileDescription>> remove(int fd) EXCLUDES(mu_);
  // close_range(2): closes, or with `set_close_on_exec` only marks.
  void remove_range(uint32_t first, uint32_t last, bool set_close_on_exec) EXCLUDES(mu_);
  void remove_close_on_exec() EXCLUDES(mu_);
  // At exit of the last user; the destructor does it too.
  void remove_all() EXCLUDES(mu_);

  Result<bool> close_on_exec(int fd) const EXCLUDES(mu_);
  Result<void> set_close_on_exec(int fd, bool value) EXCLUDES(mu_);
  // The open numbers, ascending, for /proc/PID/fd.
  std::vector<int> numbers() const EXCLUDES(mu_);

 private:
  FdTable() = default;
  struct Slot {
    RefOrNull<FileDescription> file;
    bool close_on_exec = false;
  };
  Result<int> find_free(int lowest, uint64_t limit) REQUIRES(mu_);
  void put(int fd, Ref<FileDescription> file, bool close_on_exec) REQUIRES(mu_);
  void released(const Ref<FileDescription>& file) EXCLUDES(mu_);

  mutable Mutex<LockRank::kFdTable> mu_;
  std::vector<Slot> slots_ GUARDED_BY(mu_);
  int first_free_ GUARDED_BY(mu_) = 0;  // no free number is below
};

}  // namespace caisson
