// Job control: what parents learn of stops, and orphaned process groups. Linux: kernel/signal.c,
// do_notify_parent_cldstop(); kernel/exit.c, will_become_orphaned_pgrp().
#pragma once

#include "kernel/thread_group.h"

namespace caisson {

// CLD_STOPPED or CLD_CONTINUED: SIGCHLD (unless SA_NOCLDSTOP) and wake the waiting parent.
void report_job_control(ThreadGroup& group, int code) EXCLUDES(task_tree_mu);

bool is_in_orphaned_process_group(ThreadGroup& group) EXCLUDES(task_tree_mu);

// `leaver` ends or gets a new parent: SIGHUP and SIGCONT to its process group if that orphans it
// while a member is stopped. `old_parent` is null at the exit of `leaver` itself.
void hang_up_orphaned_group(ThreadGroup& leaver, ThreadGroup* old_parent) REQUIRES(task_tree_mu);

}  // namespace caisson
