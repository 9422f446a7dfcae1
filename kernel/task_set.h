// TaskSet: the tree of all tasks, thread groups, process groups and sessions, and their numbers.
// Linux: tasklist_lock, struct pid, kernel/pid.c.
//
// One per Kernel. task_tree_mu guards the links between these objects; it is one lock for the whole
// kernel process (there is one Kernel in it), named globally so that the fields of many classes can
// say that it guards them. Rank kTaskSet: taken before ThreadGroup's lock.
//
// A number stays taken as long as anything uses it: a task, a process group or a session.
#pragma once

#include <map>
#include <unordered_map>
#include <vector>

#include "base/mutex.h"
#include "base/ref.h"
#include "base/result.h"

namespace caisson {

class ProcessGroup;
class Session;
class Task;
class ThreadGroup;

extern Mutex<LockRank::kTaskSet> task_tree_mu;

using ProcessId = int32_t;
inline constexpr ProcessId kMaxProcessId = 1 << 22;

class Session final : public RefCounted<Session> {
 public:
  explicit Session(ProcessId id) : id(id) {}
  const ProcessId id;
};

class ProcessGroup final : public RefCounted<ProcessGroup> {
 public:
  ProcessGroup(ProcessId id, Ref<Session> session) : id(id), session(std::move(session)) {}
  const ProcessId id;
  const Ref<Session> session;
  // Zombies included. Not references: a group leaves before it goes.
  std::vector<ThreadGroup*> members GUARDED_BY(task_tree_mu);
  // No member has a parent in the same session but another process group: setpgid(2), job control.
  bool is_orphaned(const ThreadGroup* ignoring = nullptr) const REQUIRES(task_tree_mu);
  bool has_stopped_member() const REQUIRES(task_tree_mu);
};

class TaskSet {
 public:
  TaskSet() = default;
  TaskSet(const TaskSet&) = delete;
  TaskSet& operator=(const TaskSet&) = delete;

  // EAGAIN when all numbers up to the limit are taken.
  Result<ProcessId> allocate_id() REQUIRES(task_tree_mu);

  void add_task(Task& task) REQUIRES(task_tree_mu);
  void remove_task(Task& task) REQUIRES(task_tree_mu);
  // exec from a thread that is not the leader: it takes over the leader's number.
  void rename_task(Task& task, ProcessId id) REQUIRES(task_tree_mu);

  Task* find_task_locked(ProcessId tid) REQUIRES(task_tree_mu);
  ThreadGroup* find_group_locked(ProcessId tgid) REQUIRES(task_tree_mu);
  ProcessGroup* find_process_group_locked(ProcessId id) REQUIRES(task_tree_mu);
  RefOrNull<Task> find_task(ProcessId tid) EXCLUDES(task_tree_mu);
  RefOrNull<ThreadGroup> find_group(ProcessId tgid) EXCLUDES(task_tree_mu);

  Ref<ProcessGroup> make_process_group(ProcessId id, Ref<Session> session) REQUIRES(task_tree_mu);
  void join_process_group(ThreadGroup& group, Ref<ProcessGroup> target) REQUIRES(task_tree_mu);
  void leave_process_group(ThreadGroup& group) REQUIRES(task_tree_mu);
  bool session_exists(ProcessId id) const REQUIRES(task_tree_mu);

  // Thread groups with a leader in the table (zombies too), ascending.
  std::vector<Ref<ThreadGroup>> groups() EXCLUDES(task_tree_mu);
  // Tasks with this real user id: RLIMIT_NPROC.
  size_t count_of_user(uint32_t uid) REQUIRES(task_tree_mu);
  size_t task_count() const REQUIRES(task_tree_mu) { return tasks_.size(); }

 private:
  bool is_taken(ProcessId id) const REQUIRES(task_tree_mu);

  std::unordered_map<ProcessId, Ref<Task>> tasks_ GUARDED_BY(task_tree_mu);
  std::map<ProcessId, Ref<ProcessGroup>> process_groups_ GUARDED_BY(task_tree_mu);
  ProcessId last_ GUARDED_BY(task_tree_mu) = 0;
};

}  // namespace caisson
