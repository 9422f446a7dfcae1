// Memory calls: thin over mm. Linux: mm/mmap.c, mm/mprotect.c, mm/madvise.c, mm/mlock.c.
#include "syscalls/sys_memory.h"

#include <linux/mman.h>
#include <linux/mount.h>

#include "kernel/task.h"
#include "vfs/mount.h"

namespace caisson {

SyscallResult sys_mmap(CurrentTask& task, uint64_t addr, uint64_t length, int prot, int flags,
                       int fd, uint64_t offset) {
  if (!is_page_aligned(offset)) return Errno(EINVAL);
  MmapRequest request;
  request.addr = addr;
  request.length = length;
  request.prot = prot;
  request.flags = flags;
  request.offset = offset;
  request.caller = task.regs().rip;
  request.may_lock = task.credentials().has(Capability::kIpcLock);
  if ((flags & MAP_ANONYMOUS) == 0) {
    Ref<FileDescription> file = TRY(task.files().get(fd));
    // Linux checks the arguments before it asks the file.
    if (length == 0) return Errno(EINVAL);
    if (!file->is_readable()) return Errno(EACCES);
    request.no_exec = (file->path().mount_flags() & MS_NOEXEC) != 0;
    request.file_readable = file->is_readable();
    request.file_writable = file->is_writable();
    request.file_is_written = file->path().inode().is_open_for_writing();
    request.file = file->mappable();
    if (!request.file)  // Linux asks the mount first
      return Errno(request.no_exec && (prot & PROT_EXEC) != 0 ? EPERM : ENODEV);
  }
  if ((prot & PROT_READ) != 0 && task.task().read_implies_exec() && !request.no_exec)
    request.prot |= PROT_EXEC;
  return task.mm().mmap(request);
}

SyscallResult sys_munmap(CurrentTask& task, uint64_t addr, uint64_t length) {
  return task.mm().munmap(addr, length);
}

SyscallResult sys_mprotect(CurrentTask& task, uint64_t addr, uint64_t length, int prot) {
  return task.mm().mprotect(addr, length, prot, task.task().read_implies_exec());
}

// Without protection keys only "no key" is right.
SyscallResult sys_pkey_mprotect(CurrentTask& task, uint64_t addr, uint64_t length, int prot,
                                int key) {
  if (key != -1) return Errno(EINVAL);
  return task.mm().mprotect(addr, length, prot, task.task().read_implies_exec());
}

SyscallResult sys_mremap(CurrentTask& task, uint64_t old_addr, uint64_t old_length,
                         uint64_t new_length, int flags, uint64_t new_addr) {
  return task.mm().mremap(old_addr, old_length, new_length, flags, new_addr);
}

SyscallResult sys_madvise(CurrentTask& task, uint64_t addr, uint64_t length, int advice) {
  return task.mm().madvise(addr, length, advice);
}

SyscallResult sys_brk(CurrentTask& task, uint64_t addr) {
  return task.mm().brk(addr, task.task().read_implies_exec());
}

SyscallResult sys_msync(CurrentTask& task, uint64_t addr, uint64_t length, int flags) {
  return task.mm().msync(addr, length, flags);
}

SyscallResult sys_mincore(CurrentTask& task, uint64_t addr, uint64_t length,
                          UserOut<uint8_t> pages) {
  return task.mm().mincore(addr, length, pages.addr());
}

SyscallResult sys_mlock(CurrentTask& task, uint64_t addr, uint64_t length) {
  return task.mm().mlock(addr, length, false, task.credentials().has(Capability::kIpcLock));
}

SyscallResult sys_mlock2(CurrentTask& task, uint64_t addr, uint64_t length, int flags) {
  constexpr int kOnFault = 1;
  if ((flags & ~kOnFault) != 0) return Errno(EINVAL);
  return task.mm().mlock(addr, length, flags != 0, task.credentials().has(Capability::kIpcLock));
}

SyscallResult sys_munlock(CurrentTask& task, uint64_t addr, uint64_t length) {
  return task.mm().munlock(addr, length);
}

SyscallResult sys_mlockall(CurrentTask& task, int flags) {
  return task.mm().mlockall(flags, task.credentials().has(Capability::kIpcLock));
}

SyscallResult sys_munlockall(CurrentTask& task) { return task.mm().munlockall(); }

// One memory node, the default policy.
SyscallResult sys_get_mempolicy(CurrentTask& task, UserOut<int> policy, UserOut<uint64_t> nodes,
                                uint64_t max_node, uint64_t addr, uint64_t flags) {
  constexpr uint64_t kNode = 1, kAddr = 2, kMemsAllowed = 4;
  if ((flags & ~(kNode | kAddr | kMemsAllowed)) != 0) return Errno(EINVAL);
  if ((flags & kMemsAllowed) != 0 && (flags & (kNode | kAddr)) != 0) return Errno(EINVAL);
  if ((flags & kAddr) == 0 && addr != 0) return Errno(EINVAL);
  if ((flags & kAddr) != 0 && !task.mm().is_mapped(addr)) return Errno(EFAULT);
  if (!nodes.is_null() && max_node < 1) return Errno(EINVAL);
  if (!policy.is_null()) TRY(task.copy_out(policy, 0));
  if (!nodes.is_null()) {
    uint64_t only = (flags & kMemsAllowed) != 0 ? 1 : 0;
    TRY(task.copy_out(nodes, only));
  }
  return 0;
}

}  // namespace caisson
