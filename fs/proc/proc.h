// proc(5), the part that programs read. Linux: fs/proc/.
//
// The directories of processes and threads are made from Kernel's tasks at each look-up; whoever
// may not trace a process does not see through its links. Numbers that we do not keep (faults,
// context switches, CPU time of the whole machine) are 0.
#pragma once

#include "base/result.h"
#include "fs/proc/proc_node.h"
#include "vfs/mount.h"

namespace caisson {

class Kernel;
class MemoryManager;
class Task;

// To be mounted on /proc. `kernel` outlives the mount.
Ref<Mount> make_proc_mount(Kernel& kernel);

// proc_task.cc: the directory of a process (thread = false) or of one of its threads.
Ref<Inode> make_task_directory(const ProcPlace& place, Task& task, bool thread);
// proc_pagemap.cc. `open_memory`: the process' address space, if the caller may see it.
using OpenMemory = std::function<Result<RefOrNull<MemoryManager>>(const Caller&)>;
Ref<Inode> make_pagemap(const ProcPlace& place, OpenMemory open_memory);
// proc_status.cc
std::string status_text(Task& task);
std::string stat_text(Task& task, bool thread);
std::string statm_text(Task& task);
std::string limits_text(Task& task);
// proc_mounts.cc: as seen from `task`'s root.
std::string mounts_text(Task& task);
std::string mountinfo_text(Task& task);
// proc_system.cc: everything below /proc that does not belong to a process.
std::span<const ProcChild> system_children();

}  // namespace caisson
