#pragma once

#include <time.h>

#include "abi/user_ptr.h"
#include "kernel/current_task.h"
#include "kernel/syscall_result.h"

namespace caisson {

SyscallResult sys_getdents64(CurrentTask& task, uint32_t fd, UserOut<std::byte> buffer,
                             uint32_t size);
SyscallResult sys_mkdir(CurrentTask& task, UserCString path, uint32_t mode);
SyscallResult sys_mkdirat(CurrentTask& task, int dirfd, UserCString path, uint32_t mode);
SyscallResult sys_mknod(CurrentTask& task, UserCString path, uint32_t mode, uint32_t device);
SyscallResult sys_mknodat(CurrentTask& task, int dirfd, UserCString path, uint32_t mode,
                          uint32_t device);
SyscallResult sys_rmdir(CurrentTask& task, UserCString path);
SyscallResult sys_unlink(CurrentTask& task, UserCString path);
SyscallResult sys_unlinkat(CurrentTask& task, int dirfd, UserCString path, int flags);
SyscallResult sys_symlink(CurrentTask& task, UserCString target, UserCString path);
SyscallResult sys_symlinkat(CurrentTask& task, UserCString target, int dirfd, UserCString path);
SyscallResult sys_link(CurrentTask& task, UserCString old_path, UserCString new_path);
SyscallResult sys_linkat(CurrentTask& task, int old_dirfd, UserCString old_path, int new_dirfd,
                         UserCString new_path, int flags);
SyscallResult sys_rename(CurrentTask& task, UserCString old_path, UserCString new_path);
SyscallResult sys_renameat(CurrentTask& task, int old_dirfd, UserCString old_path, int new_dirfd,
                           UserCString new_path);
SyscallResult sys_renameat2(CurrentTask& task, int old_dirfd, UserCString old_path, int new_dirfd,
                            UserCString new_path, uint32_t flags);
SyscallResult sys_chdir(CurrentTask& task, UserCString path);
SyscallResult sys_fchdir(CurrentTask& task, int fd);
SyscallResult sys_chroot(CurrentTask& task, UserCString path);
SyscallResult sys_getcwd(CurrentTask& task, UserOut<char> buffer, uint64_t size);
SyscallResult sys_umask(CurrentTask& task, int mask);
SyscallResult sys_chmod(CurrentTask& task, UserCString path, uint32_t mode);
SyscallResult sys_fchmod(CurrentTask& task, int fd, uint32_t mode);
SyscallResult sys_fchmodat(CurrentTask& task, int dirfd, UserCString path, uint32_t mode);
SyscallResult sys_fchmodat2(CurrentTask& task, int dirfd, UserCString path, uint32_t mode,
                            int flags);
SyscallResult sys_chown(CurrentTask& task, UserCString path, uint32_t uid, uint32_t gid);
SyscallResult sys_lchown(CurrentTask& task, UserCString path, uint32_t uid, uint32_t gid);
SyscallResult sys_fchown(CurrentTask& task, int fd, uint32_t uid, uint32_t gid);
SyscallResult sys_fchownat(CurrentTask& task, int dirfd, UserCString path, uint32_t uid,
                           uint32_t gid, int flags);
SyscallResult sys_truncate(CurrentTask& task, UserCString path, int64_t length);
SyscallResult sys_utimensat(CurrentTask& task, int dirfd, UserCString path, UserIn<timespec> times,
                            int flags);
SyscallResult sys_futimesat(CurrentTask& task, int dirfd, UserCString path, UserIn<timeval> times);
SyscallResult sys_utimes(CurrentTask& task, UserCString path, UserIn<timeval> times);
SyscallResult sys_utime(CurrentTask& task, UserCString path, UserIn<int64_t> times);

}  // namespace caisson
