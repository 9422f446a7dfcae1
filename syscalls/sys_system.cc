// About the machine and the kernel: uname(2), sysinfo(2), getrandom(2), getcpu(2), and small calls
// that have no better place.
#include "syscalls/sys_system.h"

#include <linux/kcmp.h>
#include <linux/membarrier.h>
#include <linux/random.h>
#include <linux/sched.h>
#include <sched.h>

#include <algorithm>
#include <cstring>

#include "host/raw_syscall.h"
#include "kernel/kernel.h"
#include "kernel/rseq.h"
#include "kernel/task.h"
#include "kernel/time/clock.h"
#include "mm/memory_file.h"
#include "syscalls/resource_usage.h"

namespace caisson {
namespace {

Result<std::string> copy_in_name(CurrentTask& task, UserIn<char> name, int length) {
  TRY(task.credentials().require(Capability::kSysAdmin));
  if (length < 0 || length > static_cast<int>(UtsNames::kMaxName)) return Errno(EINVAL);
  std::string text(static_cast<size_t>(length), '\0');
  TRY(task.copy_in_bytes(text.data(), name.addr(), text.size()));
  text.resize(std::strlen(text.c_str()));
  return text;
}

const SignalHandlers* handlers_of(ThreadGroup& group) {
  MutexLock lock(group.mu);
  return group.handlers.get();
}

}  // namespace

SyscallResult sys_uname(CurrentTask& task, UserOut<UtsName> name) {
  UtsName result{};
  auto set = [](char(&field)[65], const std::string& text) {
    std::memcpy(field, text.data(), std::min(text.size(), sizeof field - 1));
  };
  UtsNames& uts = task.kernel().uts();
  set(result.system, UtsNames::kSystem);
  set(result.node, uts.host());
  set(result.release, UtsNames::kRelease);
  set(result.version, UtsNames::kVersion);
  set(result.machine, UtsNames::kMachine);
  set(result.domain, uts.domain());
  return task.copy_out(name, result);
}

SyscallResult sys_sethostname(CurrentTask& task, UserIn<char> name, int length) {
  task.kernel().uts().set_host(TRY(copy_in_name(task, name, length)));
  return 0;
}

SyscallResult sys_setdomainname(CurrentTask& task, UserIn<char> name, int length) {
  task.kernel().uts().set_domain(TRY(copy_in_name(task, name, length)));
  return 0;
}

SyscallResult sys_sysinfo(CurrentTask& task, UserOut<SystemInfo> info) {
  SystemInfo result;
  Kernel& kernel = task.kernel();
  MemoryStatus memory = kernel.memory_status();
  result.uptime = static_cast<int64_t>((boot_clock_ns() - kernel.boot_time_ns()) / kNsPerSecond);
  result.total_ram = memory.total_bytes;
  result.free_ram = memory.free_bytes;
  result.memory_unit = 1;
  {
    MutexLock tree(task_tree_mu);
    result.processes = static_cast<uint16_t>(std::min<size_t>(kernel.tasks().task_count(), 65535));
  }
  return task.copy_out(info, result);
}

SyscallResult sys_getrandom(CurrentTask& task, UserOut<uint8_t> buffer, size_t length,
                            uint32_t flags) {
  constexpr uint32_t kInsecure = 4;  // GRND_INSECURE
  if ((flags & ~(GRND_NONBLOCK | GRND_RANDOM | kInsecure)) != 0) return Errno(EINVAL);
  if ((flags & kInsecure) != 0 && (flags & GRND_RANDOM) != 0) return Errno(EINVAL);
  length = std::min<size_t>(length, 0x7ffff000);
  size_t done = 0;
  uint8_t bytes[1024];
  while (done < length) {
    size_t part = std::min(length - done, sizeof bytes);
    long got =
        TRY(host::raw_syscall(SYS_getrandom, host::raw_arg(bytes), static_cast<long>(part), 0)
                .result());
    CopyResult copied = task.mm().copy_out(buffer.addr() + done, bytes, static_cast<size_t>(got));
    done += copied.done;
    if (!copied.ok()) {
      if (done == 0) return copied.error;
      break;
    }
    if (done < length && task.signal_pending()) break;
  }
  return done;
}

// The worker that was woken runs on the caller's CPU; one that polls may not. The caller's affinity
// is never contradicted.
SyscallResult sys_getcpu(CurrentTask& task, UserOut<uint32_t> cpu, UserOut<uint32_t> node) {
  int host_cpu = sched_getcpu();
  {
    MutexLock lock(task.task().mu);
    const cpu_set_t& allowed = task.task().affinity;
    if (host_cpu < 0 || !CPU_ISSET(host_cpu, &allowed)) {
      host_cpu = 0;
      while (host_cpu < CPU_SETSIZE - 1 && !CPU_ISSET(host_cpu, &allowed)) ++host_cpu;
    }
  }
  if (!cpu.is_null()) TRY(task.copy_out(cpu, static_cast<uint32_t>(std::max(host_cpu, 0))));
  if (!node.is_null()) TRY(task.copy_out(node, uint32_t{0}));
  return 0;
}

// An empty log.
SyscallResult sys_syslog(CurrentTask& task, int type, UserOut<char> buffer, int length) {
  constexpr int kReadAll = 3, kSizeUnread = 9, kSizeBuffer = 10, kLast = 10;
  if (type < 0 || type > kLast) return Errno(EINVAL);
  if (type == kReadAll || type == 2 || type == 4) {
    if (buffer.is_null() || length < 0) return Errno(EINVAL);
    return 0;
  }
  if (type == kSizeBuffer) return 1 << 17;
  if (type == kSizeUnread) return 0;
  TRY(task.credentials().require(Capability::kSyslog));
  return 0;
}

// Every return from the kernel to a stub thread is a full barrier, but threads that stay in the
// guest are not reached: only what needs none of that is offered.
SyscallResult sys_membarrier(CurrentTask& task, int command, uint32_t flags, int cpu) {
  if (command == MEMBARRIER_CMD_QUERY) return flags == 0 ? SyscallResult(0) : Errno(EINVAL);
  return Errno(EINVAL);
}

// rseq(2)
SyscallResult sys_rseq(CurrentTask& task, uint64_t area, uint32_t length, int flags,
                       uint32_t signature) {
  return change_rseq(task, {area, length, signature}, flags);
}

SyscallResult sys_personality(CurrentTask& task, uint32_t persona) {
  constexpr uint32_t kQuery = 0xffffffff;
  uint32_t before = task.task().personality;
  if (persona != kQuery) task.task().personality = persona;
  return before;
}

SyscallResult sys_unshare(CurrentTask& task, uint64_t flags) {
  constexpr uint64_t kNamespaces = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER |
                                   CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWCGROUP | CLONE_NEWTIME;
  constexpr uint64_t kKnown = kNamespaces | CLONE_THREAD | CLONE_FS | CLONE_SIGHAND | CLONE_VM |
                              CLONE_FILES | CLONE_SYSVSEM;
  if ((flags & ~kKnown) != 0) return Errno(EINVAL);
  if ((flags & (CLONE_THREAD | CLONE_SIGHAND | CLONE_VM)) != 0) {
    MutexLock lock(task.group().mu);
    if (task.group().tasks.size() > 1) return Errno(EINVAL);
    if ((flags & (CLONE_SIGHAND | CLONE_VM)) != 0 && task.group().handlers->ref_count() > 1)
      return Errno(EINVAL);
  }
  if ((flags & kNamespaces) != 0) {
    if ((flags & CLONE_NEWUSER) == 0) TRY(task.credentials().require(Capability::kSysAdmin));
    return Errno(EINVAL);  // as a kernel that was built without them
  }
  if ((flags & CLONE_FS) != 0) task.task().set_fs(task.fs().copy().or_null());
  if ((flags & CLONE_FILES) != 0) task.task().set_files(task.files().copy().or_null());
  return 0;
}

SyscallResult sys_setns(CurrentTask& task, int fd, int type) {
  (void)TRY(task.files().get(fd));
  return Errno(EINVAL);  // no descriptor here refers to a namespace
}

SyscallResult sys_kcmp(CurrentTask& task, int pid1, int pid2, int type, uint64_t index1,
                       uint64_t index2) {
  RefOrNull<Task> first = task.kernel().tasks().find_task(pid1);
  RefOrNull<Task> second = task.kernel().tasks().find_task(pid2);
  if (!first || !second) return Errno(ESRCH);
  TRY(may_inspect(task, *first));
  TRY(may_inspect(task, *second));
  // 0 equal, 1 less, 2 greater. The order is that of addresses; it must not tell them, so only
  // equality is exact and everything else is "not equal, no order": 3.
  auto compare = [](const void* a, const void* b) { return a == b ? 0 : 3; };
  switch (type) {
    case KCMP_FILE: {
      RefOrNull<FdTable> a = first->files_ref(), b = second->files_ref();
      if (!a || !b) return Errno(EBADF);
      Ref<FileDescription> file_a = TRY(a->get_any(static_cast<int>(index1)));
      Ref<FileDescription> file_b = TRY(b->get_any(static_cast<int>(index2)));
      return compare(file_a.get(), file_b.get());
    }
    case KCMP_VM:
      return compare(first->mm_ref().get(), second->mm_ref().get());
    case KCMP_FILES:
      return compare(first->files_ref().get(), second->files_ref().get());
    case KCMP_FS:
      return compare(first->fs_ref().get(), second->fs_ref().get());
    case KCMP_SIGHAND:
      return compare(handlers_of(first->group), handlers_of(second->group));
    case KCMP_IO:
    case KCMP_SYSVSEM:
      return compare(&first->group, &second->group);
    default:
      return Errno(EINVAL);
  }
}

}  // namespace caisson
