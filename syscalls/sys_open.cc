// Opening and closing: open(2), openat2(2), close(2), close_range(2), memfd_create(2). Linux:
// fs/open.c, fs/file.c, mm/memfd.c.
#include "syscalls/sys_open.h"

#include <linux/close_range.h>
#include <linux/memfd.h>
#include <sys/resource.h>

#include "fs/tmpfs/tmpfs.h"
#include "fs/tmpfs/tmpfs_file.h"
#include "kernel/kernel.h"
#include "kernel/run_operation.h"
#include "kernel/task.h"
#include "syscalls/path_at.h"
#include "vfs/open_file.h"
#include "vfs/regular_file.h"

namespace caisson {
namespace {

Result<int> install(CurrentTask& task, Ref<FileDescription> file, uint32_t flags) {
  return task.files().install(std::move(file),
                              {(flags & O_CLOEXEC) != 0, 0, task.limit(RLIMIT_NOFILE)});
}

// A FIFO's open waits for the other end; the descriptor is made when it is there.
class FifoOpenOperation final : public Operation {
 public:
  FifoOpenOperation(Ref<FileDescription> file, uint32_t flags)
      : file_(std::move(file)), flags_(flags) {}
  FifoOpenOperation(FifoOpenOperation&& other) noexcept
      : file_(other.file_), flags_(other.flags_) {}

  StepResult step(CurrentTask& task) override {
    if (!file_->is_open_complete()) return MustWait{};
    Result<int> fd = install(task, file_, flags_);
    if (!fd.ok()) return fd.error();
    return static_cast<uint64_t>(fd.value());
  }
  void arm(CurrentTask&, Waiter& waiter) override {
    entry_.waiter = &waiter;
    entry_.mask = kEventInternal;
    file_->add_waiter(entry_);
  }
  void disarm() override { file_->remove_waiter(entry_); }
  const char* name() const override { return "wait_for_partner"; }

 private:
  Ref<FileDescription> file_;
  const uint32_t flags_;
  WaitEntry entry_;
};

SyscallResult open_at(CurrentTask& task, int dirfd, UserCString path, const OpenRequest& request) {
  std::string text = TRY(task.copy_in_path(path));
  TaskCaller caller(task);
  Path at = TRY(directory_at(task, caller, dirfd, text));
  Ref<FileDescription> file = TRY(open_file(caller.caller(), at, text, request));
  if (file->is_open_complete()) return install(task, std::move(file), request.flags);
  return run(task, FifoOpenOperation(std::move(file), request.flags));
}

}  // namespace

SyscallResult sys_openat(CurrentTask& task, int dirfd, UserCString path, int flags, uint32_t mode) {
  OpenRequest request =
      TRY(check_open_request(static_cast<uint32_t>(flags) | abi::kOLargeFile, mode, 0, false));
  return open_at(task, dirfd, path, request);
}

SyscallResult sys_open(CurrentTask& task, UserCString path, int flags, uint32_t mode) {
  return sys_openat(task, AT_FDCWD, path, flags, mode);
}

SyscallResult sys_creat(CurrentTask& task, UserCString path, uint32_t mode) {
  return sys_openat(task, AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

SyscallResult sys_openat2(CurrentTask& task, int dirfd, UserCString path, UserIn<abi::OpenHow> how,
                          size_t size) {
  // copy_struct_from_user(): larger structures of newer programs must hold zeros beyond ours.
  if (size < sizeof(abi::OpenHow)) return Errno(EINVAL);
  if (size > 4096) return Errno(E2BIG);
  abi::OpenHow request{};
  std::vector<uint8_t> all = TRY(task.copy_in_array(UserIn<uint8_t>(how.addr()), size));
  for (size_t i = sizeof request; i < all.size(); ++i) {
    if (all[i] != 0) return Errno(E2BIG);
  }
  std::copy_n(all.begin(), sizeof request, reinterpret_cast<uint8_t*>(&request));
  return open_at(task, dirfd, path,
                 TRY(check_open_request(request.flags, request.mode, request.resolve, true)));
}

SyscallResult sys_close(CurrentTask& task, int fd) {
  TRY(task.files().remove(fd));
  return 0;
}

SyscallResult sys_close_range(CurrentTask& task, uint32_t first, uint32_t last, uint32_t flags) {
  if ((flags & ~uint32_t{CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC}) != 0) return Errno(EINVAL);
  if (first > last) return Errno(EINVAL);
  if ((flags & CLOSE_RANGE_UNSHARE) != 0) task.task().set_files(task.files().copy().or_null());
  task.files().remove_range(first, last, (flags & CLOSE_RANGE_CLOEXEC) != 0);
  return 0;
}

SyscallResult sys_memfd_create(CurrentTask& task, UserCString name, uint32_t flags) {
  constexpr uint32_t kKnown =
      MFD_CLOEXEC | MFD_ALLOW_SEALING | 0x8 /* MFD_NOEXEC_SEAL */ | 0x10 /* MFD_EXEC */;
  if ((flags & ~kKnown) != 0) return Errno(EINVAL);  // MFD_HUGETLB: none here
  if ((flags & 0x18) == 0x18) return Errno(EINVAL);
  constexpr size_t kMaxName = 249;  // NAME_MAX less "memfd:"
  Result<std::string> text = task.copy_in_string(name, kMaxName + 1);
  if (!text.ok()) return text.error() == Errno(ENAMETOOLONG) ? Errno(EINVAL) : text.error();
  static const Ref<Tmpfs> filesystem = Tmpfs::create(task.kernel().memory());
  NewFile file;
  const bool noexec = (flags & 0x8) != 0;
  file.mode = S_IFREG | (noexec ? 0666 : 0777);
  file.uid = task.credentials().fsuid;
  file.gid = task.credentials().fsgid;
  Ref<Inode> inode = TRY(filesystem->make_unnamed(file));
  auto& data = static_cast<TmpfsFile&>(*inode);
  uint32_t seals = (flags & (MFD_ALLOW_SEALING | 0x8)) != 0 ? 0 : F_SEAL_SEAL;
  if (noexec) seals |= 0x20;  // F_SEAL_EXEC
  data.set_seals(seals);
  std::string shown = "/memfd:" + text.value() + " (deleted)";
  data.set_mapped_path(shown);
  Path place = make_anonymous_path(std::move(shown), std::move(inode));
  Ref<FileDescription> opened = RegularFile::create(std::move(place), O_RDWR | abi::kOLargeFile);
  TRY(opened->count_as_writer());
  return install(task, std::move(opened), (flags & MFD_CLOEXEC) != 0 ? O_CLOEXEC : 0);
}

}  // namespace caisson
