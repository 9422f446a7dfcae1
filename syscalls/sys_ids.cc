// Numbers of tasks, process groups and sessions: getpid(2), setpgid(2), setsid(2). Linux:
// kernel/sys.c.
#include "syscalls/sys_ids.h"

#include "kernel/kernel.h"
#include "kernel/task.h"

namespace caisson {
namespace {

// `pid` 0 is the caller. ESRCH.
Result<ThreadGroup*> find_process(CurrentTask& task, int pid) REQUIRES(task_tree_mu) {
  if (pid == 0) return &task.group();
  Task* found = task.kernel().tasks().find_task_locked(pid);
  if (found == nullptr) return Errno(ESRCH);
  return &found->group;
}

}  // namespace

SyscallResult sys_getpid(CurrentTask& task) { return task.process_id(); }
SyscallResult sys_gettid(CurrentTask& task) { return task.thread_id(); }

SyscallResult sys_getppid(CurrentTask& task) {
  MutexLock tree(task_tree_mu);
  task.group().assert_tree_locked();
  ThreadGroup* parent = task.group().parent;
  return parent == nullptr ? 0 : parent->id;
}

SyscallResult sys_getpgid(CurrentTask& task, int pid) {
  MutexLock tree(task_tree_mu);
  ThreadGroup* group = TRY(find_process(task, pid));
  group->assert_tree_locked();
  if (!group->process_group) return Errno(ESRCH);
  return group->process_group->id;
}

SyscallResult sys_getpgrp(CurrentTask& task) { return sys_getpgid(task, 0); }

SyscallResult sys_getsid(CurrentTask& task, int pid) {
  MutexLock tree(task_tree_mu);
  ThreadGroup* group = TRY(find_process(task, pid));
  group->assert_tree_locked();
  if (!group->process_group) return Errno(ESRCH);
  return group->process_group->session->id;
}

SyscallResult sys_setpgid(CurrentTask& task, int pid, int pgid) {
  if (pgid < 0) return Errno(EINVAL);
  TaskSet& tasks = task.kernel().tasks();
  MutexLock tree(task_tree_mu);
  ThreadGroup& own = task.group();
  own.assert_tree_locked();
  ThreadGroup* target = pid == 0 ? &own : nullptr;
  if (target == nullptr) {
    Task* found = tasks.find_task_locked(pid);
    if (found == nullptr) return Errno(ESRCH);
    if (found->group.id != pid) return Errno(EINVAL);  // a thread that is not the leader
    target = &found->group;
  }
  target->assert_tree_locked();
  if (pgid == 0) pgid = target->id;
  if (target == &own) {
  } else if (target->parent == &own) {
    if (!(target->process_group->session == own.process_group->session)) return Errno(EPERM);
    if (target->has_execed) return Errno(EACCES);
  } else {
    return Errno(ESRCH);
  }
  Ref<Session> session = target->process_group->session;
  if (session->id == target->id) return Errno(EPERM);  // a session leader
  if (target->process_group->id == pgid) return 0;
  ProcessGroup* group = tasks.find_process_group_locked(pgid);
  if (group == nullptr) {
    if (pgid != target->id) return Errno(EPERM);
    tasks.join_process_group(*target, tasks.make_process_group(pgid, session));
    return 0;
  }
  if (!(group->session == session)) return Errno(EPERM);
  tasks.join_process_group(*target, Ref<ProcessGroup>(*group));
  return 0;
}

SyscallResult sys_setsid(CurrentTask& task) {
  TaskSet& tasks = task.kernel().tasks();
  MutexLock tree(task_tree_mu);
  ThreadGroup& own = task.group();
  own.assert_tree_locked();
  if (tasks.find_process_group_locked(own.id) != nullptr) return Errno(EPERM);
  if (own.process_group && own.process_group->session->id == own.id) return Errno(EPERM);
  tasks.join_process_group(own, tasks.make_process_group(own.id, make_ref<Session>(own.id)));
  return own.id;
}

}  // namespace caisson
