// Scheduling calls, sched(7). The host schedules the stub threads as its own: affinity and nice
// values are passed on to it; policies and priorities are kept as data. Linux:
// kernel/sched/syscalls.c.
#include "syscalls/sys_sched.h"

#include <sched.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "abi/limits.h"
#include "kernel/kernel.h"
#include "kernel/task.h"

namespace caisson {
namespace {

constexpr int kIdlePolicy = SCHED_IDLE, kDeadlinePolicy = 6;

bool is_real_time_policy(int policy) { return policy == SCHED_FIFO || policy == SCHED_RR; }
bool is_known_policy(int policy) {
  return is_real_time_policy(policy) || policy == SCHED_OTHER || policy == SCHED_BATCH ||
         policy == kIdlePolicy;
}

// EINVAL for a negative pid.
Result<Ref<Task>> find(CurrentTask& task, int pid) {
  if (pid < 0) return Errno(EINVAL);
  if (pid == 0) return Ref<Task>(task.task());
  RefOrNull<Task> found = task.kernel().tasks().find_task(pid);
  if (!found) return Errno(ESRCH);
  return Ref<Task>::from(std::move(found));
}

// The target's owner, or CAP_SYS_NICE.
Result<void> may_schedule(CurrentTask& task, Task& target) {
  Ref<Credentials> other = target.credentials_ref();
  const Credentials& own = task.credentials();
  if (own.euid == other->euid || own.euid == other->ruid) return {};
  return own.require(Capability::kSysNice);
}

// 20 - nice may be as large as RLIMIT_NICE.
bool may_set_nice(CurrentTask& task, Task& target, int nice) {
  uint64_t rank = static_cast<uint64_t>(20 - nice);
  return rank <= target.group.limits.soft(RLIMIT_NICE) ||
         task.credentials().has(Capability::kSysNice);
}

// A thread that runs guest code comes by for what its task has for the host.
void fetch(CurrentTask& task, Task& target) {
  if (&target != &task.task()) target.notify();
}

Result<void> set_policy(CurrentTask& task, Task& target, SchedulingPolicy wanted) {
  if (!is_known_policy(wanted.policy)) return Errno(EINVAL);
  if (is_real_time_policy(wanted.policy) ? wanted.priority < 1 || wanted.priority > 99
                                         : wanted.priority != 0)
    return Errno(EINVAL);
  TRY(may_schedule(task, target));
  SchedulingPolicy before;
  {
    MutexLock lock(target.mu);
    before = target.scheduling;
  }
  bool may_all = task.credentials().has(Capability::kSysNice);
  if (!may_all) {
    if (is_real_time_policy(wanted.policy)) {
      uint64_t limit = target.group.limits.soft(RLIMIT_RTPRIO);
      if (wanted.policy != before.policy && limit == 0) return Errno(EPERM);
      if (wanted.priority > before.priority && static_cast<uint64_t>(wanted.priority) > limit)
        return Errno(EPERM);
    }
    if (before.policy == kIdlePolicy && wanted.policy != kIdlePolicy &&
        !may_set_nice(task, target, before.nice))
      return Errno(EPERM);
    if (wanted.nice < before.nice && !may_set_nice(task, target, wanted.nice)) return Errno(EPERM);
    if (before.reset_on_fork && !wanted.reset_on_fork) return Errno(EPERM);
  }
  {
    MutexLock lock(target.mu);
    target.scheduling = wanted;
    target.schedule_on_host_locked();
  }
  fetch(task, target);
  return {};
}

SchedulingPolicy policy_of(Task& target) {
  MutexLock lock(target.mu);
  return target.scheduling;
}

// Whom getpriority and setpriority are about.
Result<std::vector<Ref<Task>>> find_by_priority_target(CurrentTask& task, int which, int who) {
  std::vector<Ref<Task>> result;
  TaskSet& tasks = task.kernel().tasks();
  if (which == PRIO_PROCESS) {
    if (who == 0) who = task.thread_id();
    if (RefOrNull<Task> found = tasks.find_task(who)) result.emplace_back(*found);
    return result;
  }
  if (which != PRIO_PGRP && which != PRIO_USER) return Errno(EINVAL);
  uint32_t user = who == 0 ? task.credentials().ruid : static_cast<uint32_t>(who);
  std::vector<Ref<ThreadGroup>> groups = tasks.groups();
  MutexLock tree(task_tree_mu);
  task.group().assert_tree_locked();
  ProcessId number = who;
  if (which == PRIO_PGRP && who == 0)
    number = task.group().process_group ? task.group().process_group->id : 0;
  for (const Ref<ThreadGroup>& group : groups) {
    group->assert_tree_locked();
    if (which == PRIO_PGRP && (!group->process_group || group->process_group->id != number))
      continue;
    MutexLock lock(group->mu);
    for (Task* member : group->tasks)
      if (which == PRIO_PGRP || member->credentials_ref()->ruid == user)
        result.emplace_back(*member);
  }
  return result;
}

size_t mask_bytes(CurrentTask& task) { return (task.kernel().host_cpus() + 63) / 64 * 8; }

}  // namespace

SyscallResult sys_sched_yield(CurrentTask& task) {
  // The trap has given the CPU away where it is contended. The host's own call would make way for
  // the worker's neighbours, not for the guest's.
  return 0;
}

SyscallResult sys_sched_getaffinity(CurrentTask& task, int pid, uint32_t length,
                                    UserOut<uint8_t> mask) {
  size_t needed = mask_bytes(task);
  if (length < needed || length % sizeof(uint64_t) != 0) return Errno(EINVAL);
  Ref<Task> target = TRY(find(task, pid));
  cpu_set_t set;
  {
    MutexLock lock(target->mu);
    set = target->affinity;
  }
  TRY(task.copy_out_bytes(mask.addr(), &set, needed));
  return needed;
}

SyscallResult sys_sched_setaffinity(CurrentTask& task, int pid, uint32_t length,
                                    UserIn<uint8_t> mask) {
  cpu_set_t wanted, allowed;
  CPU_ZERO(&wanted);
  TRY(task.copy_in_bytes(&wanted, mask.addr(), std::min<size_t>(length, sizeof wanted)));
  Ref<Task> target = TRY(find(task, pid));
  TRY(may_schedule(task, *target));
  task.kernel().get_allowed_cpus(allowed);
  CPU_AND(&wanted, &wanted, &allowed);
  if (CPU_COUNT(&wanted) == 0) return Errno(EINVAL);
  {
    MutexLock lock(target->mu);
    target->affinity = wanted;
    target->schedule_on_host_locked();
  }
  fetch(task, *target);
  return 0;
}

SyscallResult sys_sched_getscheduler(CurrentTask& task, int pid) {
  Ref<Task> target = TRY(find(task, pid));
  SchedulingPolicy policy = policy_of(*target);
  return policy.policy | (policy.reset_on_fork ? SCHED_RESET_ON_FORK : 0);
}

SyscallResult sys_sched_setscheduler(CurrentTask& task, int pid, int policy,
                                     UserIn<int> parameters) {
  if (policy < 0 || parameters.is_null()) return Errno(EINVAL);
  int priority = TRY(task.copy_in(parameters));
  Ref<Task> target = TRY(find(task, pid));
  SchedulingPolicy wanted = policy_of(*target);
  wanted.policy = policy & ~SCHED_RESET_ON_FORK;
  wanted.reset_on_fork = (policy & SCHED_RESET_ON_FORK) != 0;
  wanted.priority = priority;
  return set_policy(task, *target, wanted);
}

SyscallResult sys_sched_getparam(CurrentTask& task, int pid, UserOut<int> parameters) {
  if (parameters.is_null()) return Errno(EINVAL);
  Ref<Task> target = TRY(find(task, pid));
  return task.copy_out(parameters, policy_of(*target).priority);
}

SyscallResult sys_sched_setparam(CurrentTask& task, int pid, UserIn<int> parameters) {
  if (parameters.is_null()) return Errno(EINVAL);
  int priority = TRY(task.copy_in(parameters));
  Ref<Task> target = TRY(find(task, pid));
  SchedulingPolicy wanted = policy_of(*target);
  wanted.priority = priority;
  return set_policy(task, *target, wanted);
}

SyscallResult sys_sched_get_priority_max(CurrentTask& task, int policy) {
  if (is_real_time_policy(policy)) return 99;
  return is_known_policy(policy) || policy == kDeadlinePolicy ? SyscallResult(0) : Errno(EINVAL);
}

SyscallResult sys_sched_get_priority_min(CurrentTask& task, int policy) {
  if (is_real_time_policy(policy)) return 1;
  return is_known_policy(policy) || policy == kDeadlinePolicy ? SyscallResult(0) : Errno(EINVAL);
}

SyscallResult sys_sched_rr_get_interval(CurrentTask& task, int pid, UserOut<TimeSpec> interval) {
  Ref<Task> target = TRY(find(task, pid));
  int policy = policy_of(*target).policy;
  TimeSpec result{0, policy == SCHED_RR ? 100'000'000 : policy == SCHED_FIFO ? 0 : 3'000'000};
  return task.copy_out(interval, result);
}

SyscallResult sys_sched_getattr(CurrentTask& task, int pid, UserOut<SchedAttributes> user,
                                uint32_t size, uint32_t flags) {
  constexpr uint32_t kSize0 = 48;
  if (user.is_null() || size < kSize0 || size > 4096 || flags != 0) return Errno(EINVAL);
  Ref<Task> target = TRY(find(task, pid));
  SchedulingPolicy policy = policy_of(*target);
  SchedAttributes result;
  result.size = std::min<uint32_t>(size, sizeof result);
  result.policy = static_cast<uint32_t>(policy.policy);
  result.flags = policy.reset_on_fork ? 1 : 0;
  if (is_real_time_policy(policy.policy))
    result.priority = static_cast<uint32_t>(policy.priority);
  else
    result.nice = policy.nice;
  result.util_max = 1024;
  return task.copy_out_bytes(user.addr(), &result, result.size);
}

SyscallResult sys_sched_setattr(CurrentTask& task, int pid, UserInOut<SchedAttributes> user,
                                uint32_t flags) {
  constexpr uint32_t kSize0 = 48;
  if (user.is_null() || flags != 0) return Errno(EINVAL);
  uint32_t size = TRY(task.copy_in(UserIn<uint32_t>(user.addr())));
  if (size == 0) size = kSize0;
  if (size < kSize0 || size > 4096) {
    TRY(task.copy_out_bytes(user.addr(), "\x38\0\0\0", 4));
    return Errno(E2BIG);
  }
  SchedAttributes wanted;
  std::vector<uint8_t> bytes = TRY(task.copy_in_array(UserIn<uint8_t>(user.addr()), size));
  std::memcpy(&wanted, bytes.data(), std::min<size_t>(size, sizeof wanted));
  for (size_t i = sizeof wanted; i < size; ++i)
    if (bytes[i] != 0) return Errno(E2BIG);
  constexpr uint64_t kResetOnFork = 1, kKeepPolicy = 8, kKeepParameters = 0x10;
  if ((wanted.flags & ~(kResetOnFork | kKeepPolicy | kKeepParameters)) != 0) return Errno(EINVAL);
  Ref<Task> target = TRY(find(task, pid));
  SchedulingPolicy policy = policy_of(*target);
  if ((wanted.flags & kKeepPolicy) == 0) policy.policy = static_cast<int>(wanted.policy);
  policy.reset_on_fork = (wanted.flags & kResetOnFork) != 0;
  if ((wanted.flags & kKeepParameters) == 0) {
    policy.priority = static_cast<int>(wanted.priority);
    if (!is_real_time_policy(policy.policy)) policy.nice = std::clamp(wanted.nice, -20, 19);
  }
  return set_policy(task, *target, policy);
}

// The answer is 20 - nice, so that it is never negative.
SyscallResult sys_getpriority(CurrentTask& task, int which, int who) {
  if (which < PRIO_PROCESS || which > PRIO_USER) return Errno(EINVAL);
  std::vector<Ref<Task>> targets = TRY(find_by_priority_target(task, which, who));
  if (targets.empty()) return Errno(ESRCH);
  int best = 0;
  for (const Ref<Task>& target : targets) best = std::max(best, 20 - policy_of(*target).nice);
  return best;
}

SyscallResult sys_setpriority(CurrentTask& task, int which, int who, int nice) {
  if (which < PRIO_PROCESS || which > PRIO_USER) return Errno(EINVAL);
  nice = std::clamp(nice, -20, 19);
  std::vector<Ref<Task>> targets = TRY(find_by_priority_target(task, which, who));
  if (targets.empty()) return Errno(ESRCH);
  Result<void> result;
  for (const Ref<Task>& target : targets) {
    if (Result<void> allowed = may_schedule(task, *target); !allowed.ok()) {
      result = Errno(EPERM);
      continue;
    }
    if (nice < policy_of(*target).nice && !may_set_nice(task, *target, nice)) {
      result = Errno(EACCES);
      continue;
    }
    {
      MutexLock lock(target->mu);
      target->scheduling.nice = nice;
      target->schedule_on_host_locked();
    }
    fetch(task, *target);
  }
  return result;
}

SyscallResult sys_ioprio_get(CurrentTask& task, int which, int who) {
  if (which < 1 || which > 3) return Errno(EINVAL);
  if (which != 1) return 0;
  Ref<Task> target = TRY(find(task, who));
  return target->io_priority.load(std::memory_order_relaxed);
}

SyscallResult sys_ioprio_set(CurrentTask& task, int which, int who, int priority) {
  int level = priority >> 13;
  if (level < 0 || level > 3 || (level == 0 && (priority & 0x1fff) != 0)) return Errno(EINVAL);
  if (level != 0 && level != 3 && (priority & 7) > 7) return Errno(EINVAL);
  if (level == 1) TRY(task.credentials().require(Capability::kSysNice));
  if (which < 1 || which > 3) return Errno(EINVAL);
  if (which != 1) return 0;
  Ref<Task> target = TRY(find(task, who));
  TRY(may_schedule(task, *target));
  target->io_priority.store(static_cast<uint32_t>(priority), std::memory_order_relaxed);
  return 0;
}

}  // namespace caisson
