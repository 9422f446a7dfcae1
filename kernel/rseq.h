// rseq(2): restartable sequences. Linux: kernel/rseq.c.
//
// The host does the work: a task's stub thread, which alone runs it, registers the guest's struct
// rseq with the host, and so preemption, migration and signals are noticed where they happen. Kept
// here is what is registered (Task::rseq), for the errors that Linux gives, for fork and for exec.
// The host writes to guest memory by the stub's mapping, so that must be writable at any time
// (MemoryManager::keep_writable).
#pragma once

#include "kernel/syscall_result.h"
#include "platform/platform.h"

namespace caisson {

class CurrentTask;
class Task;

// The flags are a call's.
SyscallResult change_rseq(CurrentTask& current, const platform::RseqArea& area, int flags);
// The task leaves its address space.
void forget_rseq(Task& task);
// Whether what the task has in its struct rseq, or that it can't be written, has ended its stub
// thread: a SIGSEGV that nobody can handle.
bool host_refuses_rseq(CurrentTask& current);
// `child` has a copy of the caller's address space, and is attached to it.
void inherit_rseq(CurrentTask& current, Task& child);

}  // namespace caisson
