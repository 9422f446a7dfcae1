#include "fs/hostfs/host_filesystem.h"

#include <fcntl.h>
#include <sys/statfs.h>

#include "abi/file.h"
#include "fs/hostfs/host_inode.h"
#include "host/raw_syscall.h"

namespace caisson {

Result<Ref<HostFilesystem>> HostFilesystem::create(UniqueFd root, platform::Platform* platform,
                                                   HostFilesystemOptions options) {
  return adopt_ref(new HostFilesystem(std::move(root), platform, options));
}

Result<Ref<Inode>> HostFilesystem::make_root() {
  Ref<Inode> root = TRY(HostInode::make(*this, nullptr, root_.get(), "", ""));
  if (!root->is_directory()) return Errno(ENOTDIR);
  return root;
}

Result<FilesystemStat> HostFilesystem::stat() {
  struct statfs host;
  TRY(host::raw_syscall(SYS_fstatfs, root_.get(), host::raw_arg(&host)).result());
  FilesystemStat stat;
  stat.magic = static_cast<uint64_t>(host.f_type);
  stat.block_size = static_cast<uint32_t>(host.f_bsize);
  stat.blocks = host.f_blocks;
  stat.files = host.f_files;
  return stat;
}

Result<HostFilesystem::SharedFd> HostFilesystem::open_shared(const void* owner,
                                                             const std::string& path,
                                                             bool directory,
                                                             const FileStat* expected) {
  {
    MutexLock lock(mu_);
    auto it = by_owner_.find(owner);
    if (it != by_owner_.end()) {
      recent_.splice(recent_.begin(), recent_, it->second);
      return it->second->fd;
    }
  }
  abi::OpenHow how{};
  how.flags = O_CLOEXEC | O_NOFOLLOW |
              (directory ? O_PATH | O_DIRECTORY : O_RDONLY | O_NONBLOCK | O_NOCTTY);
  how.resolve = abi::kResolveBeneath | abi::kResolveNoMagicLinks | abi::kResolveNoSymlinks;
  const char* name = path.empty() ? "." : path.c_str();
  long fd = TRY(host::raw_syscall(SYS_openat2, root_.get(), host::raw_arg(name),
                                  host::raw_arg(&how), sizeof how)
                    .result());
  SharedFd shared = std::make_shared<UniqueFd>(static_cast<int>(fd));
  if (expected != nullptr) {
    FileStat now = TRY(host_stat(shared->get(), "", options_));
    if (now.ino != expected->ino || now.device != expected->device ||
        (now.mode & S_IFMT) != (expected->mode & S_IFMT))
      return Errno(ESTALE);
  }
  std::list<Open> dropped;  // closed after the lock
  MutexLock lock(mu_);
  if (!by_owner_.contains(owner)) {
    recent_.push_front(Open{owner, shared});
    by_owner_[owner] = recent_.begin();
    if (recent_.size() > kMaxOpen) {
      by_owner_.erase(recent_.back().owner);
      dropped.splice(dropped.begin(), recent_, std::prev(recent_.end()));
    }
  }
  return shared;
}

void HostFilesystem::forget(const void* owner) {
  std::list<Open> dropped;
  MutexLock lock(mu_);
  auto it = by_owner_.find(owner);
  if (it == by_owner_.end()) return;
  dropped.splice(dropped.begin(), recent_, it->second);
  by_owner_.erase(it);
}

}  // namespace caisson
