#include "kernel/job_control.h"

#include "kernel/signals.h"
#include "kernel/task.h"

namespace caisson {

void report_job_control(ThreadGroup& group, int code) {
  MutexLock tree(task_tree_mu);
  ThreadGroup* parent = group.parent;
  if (parent == nullptr || group.leader == nullptr) return;
  SigInfo info;
  info.signo = SIGCHLD;
  info.code = code;
  info.child.pid = group.id;
  info.child.uid = group.leader->credentials_ref()->ruid;
  {
    MutexLock lock(group.mu);
    info.child.status = code == CLD_STOPPED ? group.stop_signal : SIGCONT;
  }
  bool wants_signal = false;
  {
    MutexLock lock(parent->mu);
    SigAction action = parent->handlers->get(SIGCHLD);
    wants_signal = action.handler != kSigIgnore && (action.flags & SA_NOCLDSTOP) == 0;
  }
  if (wants_signal) (void)send_signal(*parent, info);
  parent->child_changes.notify(kEventIn);
}

bool ProcessGroup::is_orphaned(const ThreadGroup* ignoring) const {
  for (const ThreadGroup* member : members) {
    member->assert_tree_locked();
    if (member == ignoring || member->is_zombie) continue;
    const ThreadGroup* parent = member->parent;
    if (parent == nullptr || parent->is_kernel_init) continue;
    parent->assert_tree_locked();
    if (parent->process_group.get() != this && parent->process_group &&
        parent->process_group->session == session)
      return false;
  }
  return true;
}

bool ProcessGroup::has_stopped_member() const {
  for (const ThreadGroup* member : members) {
    MutexLock lock(member->mu);
    if (member->is_stopped || member->is_stopping) return true;
  }
  return false;
}

bool is_in_orphaned_process_group(ThreadGroup& group) {
  MutexLock tree(task_tree_mu);
  return !group.process_group || group.process_group->is_orphaned();
}

void hang_up_orphaned_group(ThreadGroup& leaver, ThreadGroup* old_parent) {
  ThreadGroup* parent = old_parent != nullptr ? old_parent : leaver.parent;
  ProcessGroup* target = leaver.process_group.get();
  if (target == nullptr || parent == nullptr || !parent->process_group) return;
  // Only a parent in the same session and another process group kept it from being orphaned.
  if (parent->process_group.get() == target || !(parent->process_group->session == target->session))
    return;
  if (!target->is_orphaned(old_parent == nullptr ? &leaver : nullptr)) return;
  if (!target->has_stopped_member()) return;
  (void)signal_process_group(*target, kernel_signal_info(SIGHUP));
  (void)signal_process_group(*target, kernel_signal_info(SIGCONT));
}

}  // namespace caisson
