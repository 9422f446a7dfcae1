// LockRank: the order in which locks are taken, outermost first. docs/lock_order.md is printed from
// this enum.
//
// A thread may take a lock only if its rank is greater than every rank it holds; several of one
// rank only through the guards that say so (MutexLockSameRank). Debug and sanitizer builds abort
// otherwise.
#pragma once

#include <cstdint>

namespace caisson {

enum class LockRank : uint8_t {
  kContainerTable,   // runtime: outermost, taken with nothing held
  kMemoryKiller,     // kernel: the choice of a process to kill; taken with nothing held
  kRename,           // vfs: renames between directories; before any Dentry
  kMountTree,        // vfs: mount table; before any Dentry
  kFsContext,        // vfs: root, cwd and umask of a task
  kEpoll,            // vfs: epoll's links, then outer, then inner epolls; before the polled files
  kDentry,           // vfs: a directory's children; several at once: parent before child
  kFileDescription,  // vfs: offset and flags of one open file
  kInode,            // fs: one file's data and attributes; two at once: directory before child
  kFdTable,          // vfs: descriptor numbers
  kTaskSet,          // kernel: pids, thread groups, process groups, sessions, the task tree
  kThreadGroup,      // kernel: exit and job-control state of one process
  kSignalHandlers,   // kernel/signal: dispositions and pending signals; several at once only while
                     // kTaskSet is held
  kTask,             // kernel: one task's shared fields
  kFutexBucket,      // kernel/futex: address order among buckets; guest words are read under it
  kPipe,             // fs: one pipe or socket pair buffer; copies guest memory under it
  kMmMappings,       // mm: vmas and pmas; two at once: fork, parent before child
  kPageIndex,     // fs, mm: which memory-file ranges hold a file's data (Mappable); taken under mm
  kMemoryFile,    // mm: the page allocator
  kWaitQueue,     // kernel/waiter: the waiters of one object
  kTimers,        // kernel/time: the timer heap
  kRunQueue,      // kernel: tasks that are ready to run
  kAddressSpace,  // platform: one stub process, its orders and threads
  kPlatform,      // platform: pool, slots, registered files
  kEventLoop,     // host: watched descriptors and deadlines
  kLog,           // base: log sink
  kLeaf,          // nothing may be taken under it
};

const char* lock_rank_name(LockRank rank);

}  // namespace caisson
