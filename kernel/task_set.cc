#include "kernel/task_set.h"

#include <algorithm>

#include "kernel/task.h"

namespace caisson {

Mutex<LockRank::kTaskSet> task_tree_mu;

Result<ProcessId> TaskSet::allocate_id() {
  constexpr ProcessId kFirstAfterWrap = 300;  // Linux: RESERVED_PIDS
  if (tasks_.size() >= static_cast<size_t>(kMaxProcessId) / 2) return Errno(EAGAIN);
  ProcessId id = last_;
  for (ProcessId tried = 0; tried < kMaxProcessId; ++tried) {
    id = id + 1 >= kMaxProcessId ? kFirstAfterWrap : id + 1;
    if (is_taken(id)) continue;
    last_ = id;
    return id;
  }
  return Errno(EAGAIN);
}

bool TaskSet::is_taken(ProcessId id) const {
  return tasks_.contains(id) || process_groups_.contains(id) || session_exists(id);
}

bool TaskSet::session_exists(ProcessId id) const {
  for (const auto& [number, group] : process_groups_)
    if (group->session->id == id) return true;
  return false;
}

void TaskSet::add_task(Task& task) { tasks_.emplace(task.tid(), Ref<Task>(task)); }

void TaskSet::remove_task(Task& task) {
  auto it = tasks_.find(task.tid());
  if (it != tasks_.end() && it->second.get() == &task) tasks_.erase(it);
}

void TaskSet::rename_task(Task& task, ProcessId id) {
  Ref<Task> keep(task);
  remove_task(task);
  task.id.store(id, std::memory_order_relaxed);
  tasks_.insert_or_assign(id, keep);
}

Task* TaskSet::find_task_locked(ProcessId tid) {
  auto it = tasks_.find(tid);
  return it == tasks_.end() ? nullptr : it->second.get();
}

ThreadGroup* TaskSet::find_group_locked(ProcessId tgid) {
  Task* task = find_task_locked(tgid);
  return task != nullptr && task->group.id == tgid ? &task->group : nullptr;
}

ProcessGroup* TaskSet::find_process_group_locked(ProcessId id) {
  auto it = process_groups_.find(id);
  return it == process_groups_.end() ? nullptr : it->second.get();
}

RefOrNull<Task> TaskSet::find_task(ProcessId tid) {
  MutexLock lock(task_tree_mu);
  return RefOrNull<Task>(find_task_locked(tid));
}

RefOrNull<ThreadGroup> TaskSet::find_group(ProcessId tgid) {
  MutexLock lock(task_tree_mu);
  return RefOrNull<ThreadGroup>(find_group_locked(tgid));
}

Ref<ProcessGroup> TaskSet::make_process_group(ProcessId id, Ref<Session> session) {
  auto group = make_ref<ProcessGroup>(id, std::move(session));
  process_groups_.insert_or_assign(id, group);
  return group;
}

void TaskSet::join_process_group(ThreadGroup& group, Ref<ProcessGroup> target) {
  group.assert_tree_locked();
  leave_process_group(group);
  target->members.push_back(&group);
  group.process_group = std::move(target).or_null();
}

void TaskSet::leave_process_group(ThreadGroup& group) {
  group.assert_tree_locked();
  if (!group.process_group) return;
  std::erase(group.process_group->members, &group);
  if (group.process_group->members.empty()) process_groups_.erase(group.process_group->id);
  group.process_group = nullptr;
}

size_t TaskSet::count_of_user(uint32_t uid) {
  size_t count = 0;
  for (const auto& [id, task] : tasks_)
    if (task->credentials_ref()->ruid == uid) ++count;
  return count;
}

std::vector<Ref<ThreadGroup>> TaskSet::groups() {
  std::vector<Ref<ThreadGroup>> result;
  {
    MutexLock lock(task_tree_mu);
    for (const auto& [id, task] : tasks_)
      if (task->group.id == id) result.push_back(task->group_ref);
  }
  std::sort(result.begin(), result.end(),
            [](const auto& a, const auto& b) { return a->id < b->id; });
  return result;
}

}  // namespace caisson
