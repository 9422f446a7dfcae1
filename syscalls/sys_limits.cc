// Resource limits and use: getrlimit(2), prlimit(2), getrusage(2). Linux: kernel/sys.c.
#include "syscalls/sys_limits.h"

#include "abi/limits.h"
#include "kernel/kernel.h"
#include "kernel/process_timers.h"
#include "kernel/task.h"
#include "kernel/task_clock.h"
#include "kernel/task_exec.h"
#include "syscalls/resource_usage.h"

namespace caisson {
namespace {

constexpr uint64_t kNsPerSecond = 1'000'000'000;

// What a new limit means at once.
void apply_limit(Task& target, int resource) {
  ThreadGroup& group = target.group;
  switch (resource) {
    case RLIMIT_AS:
    case RLIMIT_DATA:
    case RLIMIT_STACK:
    case RLIMIT_MEMLOCK:
      if (RefOrNull<MemoryManager> mm = target.mm_ref())
        mm->set_limits(memory_limits_of(group.limits.all()));
      break;
    case RLIMIT_CPU: {
      uint64_t soft = group.limits.soft(RLIMIT_CPU);
      RefOrNull<CpuTimers> cpu = soft == ~0ull ? group.timers->cpu_if_any() : group.timers->cpu();
      if (!cpu) break;
      // SIGXCPU at the soft limit and each second after it, as Linux.
      uint64_t at = soft == ~0ull ? 0 : std::max<uint64_t>(soft, 1) * kNsPerSecond;
      cpu->set(CpuTimers::kLimit, {at, kNsPerSecond});
      break;
    }
    default:
      break;
  }
}

Result<void> change_limit(CurrentTask& task, Task& target, int resource, ResourceLimit wanted) {
  constexpr uint64_t kMaxDescriptorLimit = 1 << 20;  // /proc/sys/fs/nr_open
  if (wanted.soft > wanted.hard) return Errno(EINVAL);
  ResourceLimit before = target.group.limits.get(resource);
  if (wanted.hard > before.hard) TRY(task.credentials().require(Capability::kSysResource));
  if (resource == RLIMIT_NOFILE && wanted.hard > kMaxDescriptorLimit) return Errno(EPERM);
  target.group.limits.set(resource, wanted);
  apply_limit(target, resource);
  return {};
}

// The same ids throughout, or CAP_SYS_RESOURCE.
Result<void> may_change_limits(CurrentTask& task, Task& target) {
  if (&target.group == &task.group()) return {};
  const Credentials& own = task.credentials();
  Ref<Credentials> other = target.credentials_ref();
  bool same = own.ruid == other->euid && own.ruid == other->suid && own.ruid == other->ruid &&
              own.rgid == other->egid && own.rgid == other->sgid && own.rgid == other->rgid;
  if (same) return {};
  return own.require(Capability::kSysResource);
}

}  // namespace

Result<void> may_inspect(CurrentTask& task, Task& target) {
  if (&target.group == &task.group()) return {};
  const Credentials& own = task.credentials();
  Ref<Credentials> other = target.credentials_ref();
  bool same = own.ruid == other->euid && own.ruid == other->suid && own.ruid == other->ruid &&
              own.rgid == other->egid && own.rgid == other->sgid && own.rgid == other->rgid;
  if (own.has(Capability::kSysPtrace)) return {};
  if (!same || !target.group.dumpable.load()) return Errno(EPERM);
  if (!other->permitted.is_subset_of(own.permitted)) return Errno(EPERM);
  return {};
}

SyscallResult sys_getrlimit(CurrentTask& task, uint32_t resource, UserOut<ResourceLimit> limit) {
  if (resource >= kResourceLimitCount) return Errno(EINVAL);
  return task.copy_out(limit, task.group().limits.get(static_cast<int>(resource)));
}

SyscallResult sys_setrlimit(CurrentTask& task, uint32_t resource, UserIn<ResourceLimit> limit) {
  ResourceLimit wanted = TRY(task.copy_in(limit));
  if (resource >= kResourceLimitCount) return Errno(EINVAL);
  return change_limit(task, task.task(), static_cast<int>(resource), wanted);
}

SyscallResult sys_prlimit64(CurrentTask& task, int pid, uint32_t resource,
                            UserIn<ResourceLimit> limit, UserOut<ResourceLimit> old_limit) {
  ResourceLimit wanted;
  if (resource >= kResourceLimitCount) return Errno(EINVAL);
  if (!limit.is_null()) wanted = TRY(task.copy_in(limit));
  RefOrNull<Task> target(&task.task());
  if (pid != 0) target = task.kernel().tasks().find_task(pid);
  if (!target) return Errno(ESRCH);
  TRY(may_change_limits(task, *target));
  ResourceLimit before = target->group.limits.get(static_cast<int>(resource));
  if (!limit.is_null()) TRY(change_limit(task, *target, static_cast<int>(resource), wanted));
  if (!old_limit.is_null()) TRY(task.copy_out(old_limit, before));
  return 0;
}

SyscallResult sys_getrusage(CurrentTask& task, int who, UserOut<ResourceUsage> usage) {
  ResourceUse use;
  switch (who) {
    case RUSAGE_SELF: {
      use.cpu_ns = process_cpu_ns(task.group());
      MutexLock lock(task.group().mu);
      use.max_resident_bytes = task.group().peak_resident_bytes;
      break;
    }
    case RUSAGE_THREAD:
      use.cpu_ns = task.task().cpu_time_ns();
      break;
    case RUSAGE_CHILDREN: {
      MutexLock tree(task_tree_mu);
      task.group().assert_tree_locked();
      use = task.group().children_use;
      break;
    }
    default:
      return Errno(EINVAL);
  }
  if (who != RUSAGE_CHILDREN)
    use.max_resident_bytes = std::max(use.max_resident_bytes, task.mm().usage().peak_resident);
  return task.copy_out(usage, to_resource_usage(use));
}

}  // namespace caisson
