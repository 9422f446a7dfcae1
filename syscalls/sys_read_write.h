#pragma once

#include "abi/user_ptr.h"
#include "kernel/current_task.h"
#include "kernel/syscall_result.h"

struct iovec;

namespace caisson {

SyscallResult sys_read(CurrentTask& task, int fd, UserOut<std::byte> buffer, size_t count);
SyscallResult sys_write(CurrentTask& task, int fd, UserIn<std::byte> buffer, size_t count);
SyscallResult sys_pread64(CurrentTask& task, int fd, UserOut<std::byte> buffer, size_t count,
                          int64_t offset);
SyscallResult sys_pwrite64(CurrentTask& task, int fd, UserIn<std::byte> buffer, size_t count,
                           int64_t offset);
SyscallResult sys_readv(CurrentTask& task, uint64_t fd, UserIn<uint64_t> vector, uint64_t count);
SyscallResult sys_writev(CurrentTask& task, uint64_t fd, UserIn<uint64_t> vector, uint64_t count);
SyscallResult sys_preadv(CurrentTask& task, uint64_t fd, UserIn<uint64_t> vector, uint64_t count,
                         uint64_t offset_low, uint64_t offset_high);
SyscallResult sys_pwritev(CurrentTask& task, uint64_t fd, UserIn<uint64_t> vector, uint64_t count,
                          uint64_t offset_low, uint64_t offset_high);
SyscallResult sys_preadv2(CurrentTask& task, uint64_t fd, UserIn<uint64_t> vector, uint64_t count,
                          uint64_t offset_low, uint64_t offset_high, int flags);
SyscallResult sys_pwritev2(CurrentTask& task, uint64_t fd, UserIn<uint64_t> vector, uint64_t count,
                           uint64_t offset_low, uint64_t offset_high, int flags);
SyscallResult sys_lseek(CurrentTask& task, int fd, int64_t offset, uint32_t whence);
SyscallResult sys_sendfile(CurrentTask& task, int out_fd, int in_fd, UserInOut<int64_t> offset,
                           size_t count);
SyscallResult sys_copy_file_range(CurrentTask& task, int in_fd, UserInOut<int64_t> in_offset,
                                  int out_fd, UserInOut<int64_t> out_offset, size_t count,
                                  uint32_t flags);
SyscallResult sys_fsync(CurrentTask& task, int fd);
SyscallResult sys_fdatasync(CurrentTask& task, int fd);
SyscallResult sys_sync(CurrentTask& task);
SyscallResult sys_syncfs(CurrentTask& task, int fd);
SyscallResult sys_sync_file_range(CurrentTask& task, int fd, int64_t offset, int64_t length,
                                  uint32_t flags);
SyscallResult sys_ftruncate(CurrentTask& task, int fd, int64_t length);
SyscallResult sys_fallocate(CurrentTask& task, int fd, int mode, int64_t offset, int64_t length);
SyscallResult sys_fadvise64(CurrentTask& task, int fd, int64_t offset, int64_t length, int advice);

}  // namespace caisson
