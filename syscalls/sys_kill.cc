// Sending signals: kill(2), tkill(2), tgkill(2), rt_sigqueueinfo(2). Linux: kernel/signal.c.
#include <vector>

#include "kernel/kernel.h"
#include "kernel/signals.h"
#include "kernel/task.h"
#include "syscalls/sys_signal.h"

namespace caisson {
namespace {

// Signal 0 only checks. EPERM unless the caller may.
Result<void> check_and_send(CurrentTask& task, ThreadGroup& target, const SigInfo& info)
    REQUIRES(task_tree_mu) {
  target.assert_tree_locked();
  task.group().assert_tree_locked();
  if (info.signo != 0 && !is_valid_signal(info.signo)) return Errno(EINVAL);
  if (target.leader == nullptr) return Errno(ESRCH);
  ProcessId session =
      task.group().process_group ? task.group().process_group->session->id : ProcessId{0};
  if (&target != &task.group() &&
      !may_signal(task.credentials(), session, *target.leader, info.signo))
    return Errno(EPERM);
  if (info.signo == 0) return {};
  Result<Sent> sent = send_signal(target, info);
  if (!sent.ok()) return sent.error();
  return {};
}

// Success if one could be sent, else the last error.
Result<void> send_to_all(CurrentTask& task, const std::vector<ThreadGroup*>& targets,
                         const SigInfo& info) REQUIRES(task_tree_mu) {
  Result<void> last = Errno(ESRCH);
  bool has_success = false;
  for (ThreadGroup* target : targets) {
    last = check_and_send(task, *target, info);
    if (last.ok()) has_success = true;
  }
  if (has_success) return {};
  return last;
}

Result<void> send_to_thread(CurrentTask& task, int tgid, int tid, const SigInfo& info) {
  MutexLock tree(task_tree_mu);
  task.group().assert_tree_locked();
  Task* target = task.kernel().tasks().find_task_locked(tid);
  if (target == nullptr || (tgid > 0 && target->group.id != tgid)) return Errno(ESRCH);
  if (info.signo != 0 && !is_valid_signal(info.signo)) return Errno(EINVAL);
  ProcessId session =
      task.group().process_group ? task.group().process_group->session->id : ProcessId{0};
  if (&target->group != &task.group() &&
      !may_signal(task.credentials(), session, *target, info.signo))
    return Errno(EPERM);
  if (info.signo == 0) return {};
  Result<Sent> sent = send_signal(*target, info);
  if (!sent.ok()) return sent.error();
  return {};
}

SigInfo info_from(CurrentTask& task, int signo, int code) {
  return user_signal_info(signo, code, task.process_id(), task.credentials().ruid);
}

// Only the process itself may claim that a signal comes from the kernel or from kill(2).
bool is_forged(const SigInfo& info, bool to_self) {
  return (info.code >= 0 || info.code == SI_TKILL) && !to_self;
}

}  // namespace

SyscallResult sys_kill(CurrentTask& task, int pid, int signo) {
  SigInfo info = info_from(task, signo, SI_USER);
  TaskSet& tasks = task.kernel().tasks();
  if (pid == INT32_MIN) return Errno(ESRCH);
  std::vector<Ref<ThreadGroup>> everyone;
  if (pid == -1) everyone = tasks.groups();
  MutexLock tree(task_tree_mu);
  task.group().assert_tree_locked();
  if (pid > 0) {
    // A thread's number names its process.
    Task* target = tasks.find_task_locked(pid);
    if (target == nullptr) return Errno(ESRCH);
    return check_and_send(task, target->group, info);
  }
  if (pid == -1) {
    std::vector<ThreadGroup*> targets;
    for (const Ref<ThreadGroup>& group : everyone)
      if (!group->is_kernel_init && group.get() != &task.group()) targets.push_back(group.get());
    return send_to_all(task, targets, info);
  }
  ProcessGroup* group =
      pid == 0 ? task.group().process_group.get() : tasks.find_process_group_locked(-pid);
  if (group == nullptr) return Errno(ESRCH);
  return send_to_all(task, group->members, info);
}

SyscallResult sys_tkill(CurrentTask& task, int tid, int signo) {
  if (tid <= 0) return Errno(EINVAL);
  return send_to_thread(task, 0, tid, info_from(task, signo, SI_TKILL));
}

SyscallResult sys_tgkill(CurrentTask& task, int tgid, int tid, int signo) {
  if (tgid <= 0 || tid <= 0) return Errno(EINVAL);
  return send_to_thread(task, tgid, tid, info_from(task, signo, SI_TKILL));
}

SyscallResult sys_rt_sigqueueinfo(CurrentTask& task, int pid, int signo, UserIn<SigInfo> user) {
  SigInfo info = TRY(task.copy_in(user));
  info.signo = signo;
  if (is_forged(info, pid == task.process_id())) return Errno(EPERM);
  MutexLock tree(task_tree_mu);
  Task* target = task.kernel().tasks().find_task_locked(pid);
  if (target == nullptr) return Errno(ESRCH);
  return check_and_send(task, target->group, info);
}

SyscallResult sys_rt_tgsigqueueinfo(CurrentTask& task, int tgid, int tid, int signo,
                                    UserIn<SigInfo> user) {
  SigInfo info = TRY(task.copy_in(user));
  info.signo = signo;
  if (tgid <= 0 || tid <= 0) return Errno(EINVAL);
  if (is_forged(info, tid == task.thread_id())) return Errno(EPERM);
  return send_to_thread(task, tgid, tid, info);
}

}  // namespace caisson
