// System V shared memory: thin over kernel/ipc. Linux: ipc/shm.c.
#include "syscalls/sys_shm.h"

#include <linux/mman.h>
#include <sys/resource.h>

#include "base/cleanup.h"
#include "kernel/ipc/shm.h"
#include "kernel/kernel.h"
#include "mm/memory_manager.h"

namespace caisson {
namespace {

IpcCaller ipc_caller(CurrentTask& task) { return {task.credentials(), task.process_id()}; }

}  // namespace

SyscallResult sys_shmget(CurrentTask& task, int key, uint64_t size, int flags) {
  return TRY(task.kernel().shared_memory().get(ipc_caller(task), key, size, flags));
}

SyscallResult sys_shmat(CurrentTask& task, int id, uint64_t addr, int flags) {
  if (id < 0) return Errno(EINVAL);
  MmapRequest request;
  request.flags = MAP_SHARED;
  if (addr != 0) {
    if (!is_page_aligned(addr)) {
      if ((flags & kShmRound) == 0) return Errno(EINVAL);
      addr = page_down(addr);
      if (addr == 0 && (flags & kShmRemap) != 0) return Errno(EINVAL);
    }
    request.flags |= (flags & kShmRemap) != 0 ? MAP_FIXED : MAP_FIXED_NOREPLACE;
  } else if ((flags & kShmRemap) != 0) {
    return Errno(EINVAL);
  }
  bool read_only = (flags & kShmReadOnly) != 0;
  uint32_t wanted = read_only ? 0444 : 0666;
  request.prot = read_only ? PROT_READ : PROT_READ | PROT_WRITE;
  if ((flags & kShmExec) != 0) {
    request.prot |= PROT_EXEC;
    wanted |= 0111;
  }
  if (task.task().read_implies_exec()) request.prot |= PROT_EXEC;
  ShmTable& table = task.kernel().shared_memory();
  Ref<ShmSegment> segment = TRY(table.begin_attach(ipc_caller(task), id, wanted));
  Cleanup attached([&] { table.end_attach(*segment); });
  request.addr = addr;
  request.length = page_up(segment->size());
  request.file = RefOrNull<Mappable>(&*segment);
  request.file_writable = !read_only;
  request.may_lock = task.credentials().has(Capability::kIpcLock);
  if (addr != 0 && addr + request.length < addr) return Errno(EINVAL);
  Result<GuestAddr> mapped = task.mm().mmap(request);
  if (!mapped.ok()) return mapped.error() == Errno(EEXIST) ? Errno(EINVAL) : mapped.error();
  return mapped.value();
}

SyscallResult sys_shmdt(CurrentTask& task, uint64_t addr) {
  Ref<Mappable> file = TRY(task.mm().detach(addr));
  // Only segments are attached.
  task.kernel().shared_memory().note_detach(static_cast<ShmSegment&>(*file), task.process_id());
  return 0;
}

SyscallResult sys_shmctl(CurrentTask& task, int id, int command, uint64_t buffer) {
  if (command < 0 || id < 0) return Errno(EINVAL);
  ShmTable& table = task.kernel().shared_memory();
  IpcCaller caller = ipc_caller(task);
  switch (command) {
    case kIpcInfo: {
      ShmLimits limits{kShmMaxBytes, 1, kShmMaxSegments, kShmMaxSegments, kShmMaxPages, {}};
      TRY(task.copy_out(UserOut<ShmLimits>(buffer), limits));
      return table.highest_index();
    }
    case kShmInfo:
      TRY(task.copy_out(UserOut<ShmUse>(buffer), table.use()));
      return table.highest_index();
    case kIpcStat:
      TRY(task.copy_out(UserOut<ShmStatus>(buffer), TRY(table.stat(caller, id))));
      return 0;
    case kShmStat:
    case kShmStatAny: {
      auto [status, found] = TRY(table.stat_at(caller, id, command == kShmStat));
      TRY(task.copy_out(UserOut<ShmStatus>(buffer), status));
      return found;
    }
    case kIpcSet: {
      ShmStatus wanted = TRY(task.copy_in(UserIn<ShmStatus>(buffer)));
      TRY(table.set(caller, id, wanted.permissions));
      return 0;
    }
    case kIpcRemove:
      TRY(table.remove(caller, id));
      return 0;
    case kShmLock:
    case kShmUnlock:
      TRY(table.lock(caller, id, command == kShmLock, task.limit(RLIMIT_MEMLOCK)));
      return 0;
    default:
      return Errno(EINVAL);
  }
}

}  // namespace caisson
