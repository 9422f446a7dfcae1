#include "kernel/task_clone.h"

#include <utility>
#include <vector>

#include "kernel/current_task.h"
#include "kernel/kernel.h"
#include "kernel/pid_file.h"
#include "kernel/rseq.h"
#include "kernel/signals.h"
#include "kernel/time/clock.h"

namespace caisson {
namespace {

constexpr uint64_t kNamespaceFlags = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER |
                                     CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWCGROUP | CLONE_NEWTIME;

Result<void> check_flags(const CloneRequest& request) {
  uint64_t flags = request.flags;
  if ((flags & CLONE_FS) != 0 && (flags & (CLONE_NEWNS | CLONE_NEWUSER)) != 0) return Errno(EINVAL);
  if ((flags & CLONE_THREAD) != 0 && (flags & CLONE_SIGHAND) == 0) return Errno(EINVAL);
  if ((flags & CLONE_SIGHAND) != 0 && (flags & CLONE_VM) == 0) return Errno(EINVAL);
  if ((flags & CLONE_THREAD) != 0 && (flags & (CLONE_NEWUSER | CLONE_NEWPID)) != 0)
    return Errno(EINVAL);
  if ((flags & CLONE_PIDFD) != 0 && (flags & CLONE_DETACHED) != 0) return Errno(EINVAL);
  if ((flags & CLONE_SIGHAND) != 0 && (flags & CLONE_CLEAR_SIGHAND) != 0) return Errno(EINVAL);
  return {};
}

// RLIMIT_NPROC, for everybody but root. Linux: copy_creds() and is_ucounts_overlimit().
bool is_at_process_limit(Kernel& kernel, ThreadGroup& group, const Credentials& credentials)
    REQUIRES(task_tree_mu) {
  uint64_t limit = group.limits.soft(RLIMIT_NPROC);
  if (limit == ~0ull || credentials.ruid == 0) return false;
  if (credentials.has(Capability::kSysResource) || credentials.has(Capability::kSysAdmin))
    return false;
  return kernel.tasks().count_of_user(credentials.ruid) >= limit;
}

Ref<ThreadGroup> make_group(CurrentTask& current, const CloneRequest& request) {
  ThreadGroup& parent = current.group();
  Ref<SignalHandlers> handlers =
      (request.flags & CLONE_SIGHAND) != 0 ? parent.handlers : parent.handlers->copy();
  if ((request.flags & CLONE_CLEAR_SIGHAND) != 0) handlers->clear_handlers();
  auto group = make_ref<ThreadGroup>(current.kernel(), std::move(handlers), request.exit_signal);
  group->limits.set_all(parent.limits.all());
  group->dumpable.store(parent.dumpable.load());
  group->oom_score_adj.store(parent.oom_score_adj.load());
  group->oom_score_adj_min.store(parent.oom_score_adj_min.load());
  return group;
}

void copy_task_state(CurrentTask& current, Task& child, const CloneRequest& request) {
  Task& parent = current.task();
  uint64_t flags = request.flags;
  child.set_name(parent.name());
  child.set_executable(parent.executable(), parent.executable_path());
  child.no_new_privileges.store(parent.no_new_privileges.load());
  child.personality = parent.personality;
  child.timer_slack_ns = parent.timer_slack_ns;
  child.io_priority.store(parent.io_priority.load());
  child.start_time_ns.store(boot_clock_ns());
  // A new thread has no alternate stack; a copy of the address space has a copy of the stack.
  if ((flags & CLONE_VM) == 0 || (flags & CLONE_VFORK) != 0)
    child.signal_stack = parent.signal_stack;
  else
    child.signal_stack.flags = kSsDisable;
  if ((flags & CLONE_CHILD_CLEARTID) != 0) child.clear_child_tid = request.child_tid;
  SchedulingPolicy scheduling;
  cpu_set_t affinity;
  {
    MutexLock lock(parent.mu);
    scheduling = parent.scheduling;
    affinity = parent.affinity;
  }
  if (scheduling.reset_on_fork) {
    scheduling.reset_on_fork = false;
    if (scheduling.policy == SCHED_FIFO || scheduling.policy == SCHED_RR)
      scheduling = SchedulingPolicy{};
    if (scheduling.nice < 0) scheduling.nice = 0;
  }
  MutexLock lock(child.mu);
  child.scheduling = scheduling;
  child.affinity = affinity;
  cpu_set_t all;
  child.kernel.get_allowed_cpus(all);
  if (scheduling.nice != child.kernel.caller_nice() || !CPU_EQUAL(&affinity, &all))
    child.schedule_on_host_locked();
}

// Puts the child into the tree. ERESTARTNOINTR: a signal must be handled first, so that nothing
// that was sent to the whole process or its group misses the child.
Result<void> link_child(CurrentTask& current, Task& child, const CloneRequest& request)
    EXCLUDES(task_tree_mu) {
  Task& parent = current.task();
  Kernel& kernel = current.kernel();
  MutexLock tree(task_tree_mu);
  ThreadGroup& own = parent.group;
  ThreadGroup& group = child.group;
  own.assert_tree_locked();
  group.assert_tree_locked();
  if (is_at_process_limit(kernel, own, current.credentials())) return Errno(EAGAIN);
  SignalSet blocked;
  {
    MutexLock lock(own.mu);
    parent.assert_group_locked();
    if (parent.has_work_pending_locked()) return Errno(kERESTARTNOINTR);
    blocked = parent.blocked;
  }
  child.id.store(TRY(kernel.tasks().allocate_id()), std::memory_order_relaxed);
  if ((request.flags & CLONE_THREAD) == 0) {
    group.id = child.tid();
    group.leader = &child;
    group.start_time_ns = child.start_time_ns.load();
    bool is_sibling = (request.flags & CLONE_PARENT) != 0;
    group.parent = is_sibling ? own.parent : &own;
    group.parent_task = is_sibling ? own.parent_task : &parent;
    if (is_sibling) group.exit_signal = own.exit_signal;
    group.parent->assert_tree_locked();
    group.parent->children.push_back(group);
    group.has_child_subreaper = own.has_child_subreaper || own.is_child_subreaper;
    if (own.process_group)
      kernel.tasks().join_process_group(group, Ref<ProcessGroup>::from(own.process_group));
  }
  {
    MutexLock lock(group.mu);
    child.assert_group_locked();
    child.blocked = blocked;
    group.tasks.push_back(&child);
    ++group.live_tasks;
  }
  kernel.tasks().add_task(child);
  kernel.count_fork();
  return {};
}

class StartChild final : public platform::Deferred {
 public:
  explicit StartChild(Ref<Task> child) : child_(std::move(child)) {}
  void run() override { child_->start(); }

 private:
  Ref<Task> child_;
};

}  // namespace

Result<Cloned> clone_task(CurrentTask& current, const CloneRequest& request) {
  uint64_t flags = request.flags;
  TRY(check_flags(request));
  if ((flags & kNamespaceFlags) != 0) {
    if ((flags & CLONE_NEWUSER) == 0) TRY(current.credentials().require(Capability::kSysAdmin));
    return Errno(EINVAL);  // as a kernel that was built without them
  }
  Task& parent = current.task();
  Kernel& kernel = current.kernel();
  if (current.signal_pending()) return Errno(kERESTARTNOINTR);
  platform::Platform& platform = kernel.platform();

  Ref<MemoryManager> mm =
      (flags & CLONE_VM) != 0 ? current.mm_ref() : TRY(current.mm().fork(current.regs().rsp));
  std::unique_ptr<platform::Context> context = TRY(platform.new_context());
  Ref<ThreadGroup> group =
      (flags & CLONE_THREAD) != 0 ? parent.group_ref : make_group(current, request);
  auto child = make_ref<Task>(kernel, group, 0, std::move(context), current.credentials_ref());
  copy_task_state(current, *child, request);
  Ref<FdTable> files = (flags & CLONE_FILES) != 0 ? current.files_ref() : current.files().copy();
  child->set_files(std::move(files).or_null());
  Ref<FsContext> fs = (flags & CLONE_FS) != 0 ? current.fs_ref() : current.fs().copy();
  child->set_fs(std::move(fs).or_null());
  child->set_mm(mm.or_null());
  RefOrNull<VforkDone> vfork;
  if ((flags & CLONE_VFORK) != 0) child->vfork_done = vfork = make_ref<VforkDone>().or_null();

  platform::Context& child_context = *child->context;
  Registers& regs = child_context.regs();
  regs = current.regs();
  regs.rax = 0;
  regs.orig_rax = ~0ull;
  if (request.stack != 0) regs.rsp = request.stack;
  if ((flags & CLONE_SETTLS) != 0) {
    if (request.tls >= platform.max_user_address()) return Errno(EPERM);
    regs.fs_base = request.tls;
  }
  std::vector<std::byte> vector_state(platform.vector_state_size());
  parent.context->read_vector_state(vector_state);
  child_context.write_vector_state(vector_state);

  int pidfd = -1;
  RefOrNull<PidFile> pid_file;
  if ((flags & CLONE_PIDFD) != 0) {
    pid_file = PidFile::create(*group, 0).or_null();
    FdOptions options{.close_on_exec = true, .limit = parent.group.limits.soft(RLIMIT_NOFILE)};
    pidfd = TRY(current.files().install(Ref<FileDescription>(*pid_file), options));
    if (Result<void> stored = current.copy_out(UserOut<int>(request.pidfd), pidfd); !stored.ok()) {
      (void)current.files().remove(pidfd);
      return stored.error();
    }
  }
  if (Result<void> linked = link_child(current, *child, request); !linked.ok()) {
    if (pidfd >= 0) (void)current.files().remove(pidfd);
    return linked.error();
  }
  ProcessId id = child->tid();
  // Linux ignores failures of both.
  if ((flags & CLONE_PARENT_SETTID) != 0)
    (void)current.copy_out(UserOut<int>(request.parent_tid), id);
  if ((flags & CLONE_CHILD_SETTID) != 0) (void)mm->copy_out(UserOut<int>(request.child_tid), id);
  child_context.attach(RefOrNull<platform::AddressSpace>(&mm->address_space()));
  if ((flags & CLONE_VM) == 0) inherit_rseq(current, *child);
  if ((flags & CLONE_VM) != 0)
    child->start();
  else
    current.mm().run_when_settled(std::make_unique<StartChild>(child));
  return Cloned{id, std::move(vfork)};
}

}  // namespace caisson
