// ProcessTree: parents, children and zombies. Linux: kernel/exit.c, forget_original_parent(),
// do_notify_parent(), release_task().
//
// A view made on the stack while task_tree_mu is held; it has no state of its own.
#pragma once

#include "kernel/task_set.h"
#include "kernel/thread_group.h"

namespace caisson {

class Kernel;
class Task;

class ProcessTree {
 public:
  explicit ProcessTree(Kernel& kernel) : kernel_(kernel) {}

  // `task` ends: its children go to another thread of its process, or to the nearest subreaper.
  void give_children_away(Task& task, bool group_is_empty) REQUIRES(task_tree_mu);
  // The process has ended: tell the parent; reaps at once if the parent does not care.
  void become_zombie(ThreadGroup& group) REQUIRES(task_tree_mu);
  // Takes a zombie out of the tree; its number is free afterwards.
  void release(ThreadGroup& group) REQUIRES(task_tree_mu);

 private:
  ThreadGroup& reaper_for(ThreadGroup& group) REQUIRES(task_tree_mu);
  // Sends the exit signal; true if the parent wants no zombie.
  bool notify_parent(ThreadGroup& group) REQUIRES(task_tree_mu);

  Kernel& kernel_;
};

// How a process ended, for SIGCHLD and waitid: CLD_EXITED, CLD_KILLED, CLD_DUMPED and si_status.
void set_exit_code_and_status(SigInfo& info, int wait_status);

}  // namespace caisson
