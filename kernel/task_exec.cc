#include "kernel/task_exec.h"

#include <optional>
#include <utility>

#include "kernel/current_task.h"
#include "kernel/kernel.h"
#include "kernel/process_timers.h"
#include "kernel/signals.h"
#include "vfs/path_walk.h"

namespace caisson {
namespace {

constexpr uint32_t kAddrNoRandomize = 0x0040000;
// What a set-id program must not inherit: PER_CLEAR_ON_SETID.
constexpr uint32_t kClearedForSetId =
    Task::kReadImpliesExec | kAddrNoRandomize | 0x0200000 | 0x0100000;

}  // namespace

MemoryLimits memory_limits_of(const ResourceLimits::Array& limits) {
  MemoryLimits result;
  result.address_space = limits[RLIMIT_AS].soft;
  result.data = limits[RLIMIT_DATA].soft;
  result.stack = limits[RLIMIT_STACK].soft;
  result.locked = limits[RLIMIT_MEMLOCK].soft;
  return result;
}

Result<ExecImage, LoadError> load_image(Kernel& kernel, const Caller& caller, const Path& place,
                                        ExecRequest request, const ResourceLimits::Array& limits,
                                        bool no_new_privileges, uint32_t personality) {
  Result<Ref<OpenedExecutable>> opened = OpenedExecutable::open(caller, place);
  if (!opened.ok()) return LoadError{opened.error(), false};
  Ref<OpenedExecutable> file = opened.value();
  std::optional<ExecCredentials> credentials;
  CallerProgramOpener opener(caller);
  ProgramRequest program{
      .file = file,
      .filename = std::move(request.filename),
      .arguments = std::move(request.arguments),
      .environment = std::move(request.environment),
      .opener = opener,
      .limits = memory_limits_of(limits),
      .choose_ids =
          [&](ProgramRequest& request) {
            // All files of the loader are ours.
            auto& program = static_cast<OpenedExecutable&>(*request.file);
            credentials = credentials_for_exec(caller.credentials.data(),
                                               program.privileges(no_new_privileges));
            request.uid = credentials->data.ruid;
            request.euid = credentials->data.euid;
            request.gid = credentials->data.rgid;
            request.egid = credentials->data.egid;
            request.secure = credentials->secure;
          },
      .randomize = (personality & kAddrNoRandomize) == 0,
  };
  Result<LoadedProgram, LoadError> loaded =
      load_program(kernel.platform(), kernel.memory(), std::move(program));
  if (!loaded.ok()) return loaded.error();
  // A script's executable is its interpreter.
  auto& executable = static_cast<OpenedExecutable&>(*loaded.value().file);
  bool is_dumpable = !credentials->ids_changed && executable.is_readable_by(caller.credentials);
  std::string path = executable.file().path().dentry->name();
  return ExecImage{std::move(loaded).value(), *std::move(credentials), std::move(path),
                   is_dumpable};
}

void install_image(Task& task, ExecImage image) {
  LoadedProgram& program = image.program;
  task.set_mm(program.mm.or_null());
  task.context->attach(RefOrNull<platform::AddressSpace>(&program.mm->address_space()));
  task.context->reset_vector_state();
  Registers& regs = task.context->regs();
  regs = Registers{};
  regs.rip = program.entry;
  regs.rsp = program.stack_pointer;
  regs.cs = kUserCs;
  regs.ss = kUserSs;
  regs.eflags = 0x202;
  regs.orig_rax = ~0ull;
  task.set_name(std::move(program.command_name));
  task.set_executable(program.file.or_null(), std::move(image.path));
  task.set_credentials(make_ref<Credentials>(std::move(image.credentials.data)));
  task.group.dumpable.store(image.is_dumpable);
  task.signal_stack = SignalStack{};
  task.signal_stack.flags = kSsDisable;
  task.robust_list = 0;
  task.clear_child_tid = 0;
  task.restart_block = nullptr;
  task.saved_mask.reset();
  // A 64-bit program does not get it from its parent, nor from its PT_GNU_STACK.
  task.personality &= ~Task::kReadImpliesExec;
  if (image.credentials.secure) task.personality &= ~kClearedForSetId;
  if (image.credentials.ids_changed) task.parent_death_signal.store(0);
}

Result<void> ExecOperation::begin(Task& task) {
  ThreadGroup& group = task.group;
  MutexLock lock(group.mu);
  if (group.is_exiting || group.exec_task != nullptr) return Errno(EAGAIN);
  group.exec_task = &task;
  // A stop that is under way is given up: its threads die.
  group.is_stopping = group.is_stopped = false;
  group.stopped_tasks = 0;
  for (Task* other : group.tasks) {
    other->assert_group_locked();
    other->must_stop = other->is_stopped = false;
    if (other == &task || other->has_begun_exit) continue;
    other->is_killed = true;
    other->call_attention();
  }
  return {};
}

bool ExecOperation::is_alone(Task& task) {
  ThreadGroup& group = task.group;
  MutexLock lock(group.mu);
  if (group.live_tasks > 1) return false;
  for (Task* other : group.tasks)
    if (other != &task && !other->is_dead()) return false;
  return group.tasks.size() <= 2;
}

StepResult ExecOperation::step(CurrentTask& current) {
  Task& task = current.task();
  if (!has_begun_) {
    Result<void> begun = begin(task);
    if (!begun.ok()) return begun.error();
    has_begun_ = true;
  }
  if (!is_alone(task)) return MustWait{};
  commit(current);
  return uint64_t{0};
}

void ExecOperation::arm(CurrentTask& current, Waiter& waiter) {
  group_ = &current.group();
  entry_.waiter = &waiter;
  entry_.mask = kEventIn;
  group_->child_changes.add(entry_);
}

void ExecOperation::disarm() { group_->child_changes.remove(entry_); }

void ExecOperation::commit(CurrentTask& current) {
  Task& task = current.task();
  ThreadGroup& group = task.group;
  task.take_over_leadership();

  // Before descriptors are closed: their end is how others learn that the exec went through.
  {
    MutexLock tree(task_tree_mu);
    group.assert_tree_locked();
    group.has_execed = true;
    group.exit_signal = SIGCHLD;
  }
  // Handlers and descriptors that other processes share stay theirs.
  {
    MutexLock lock(group.mu);
    if (group.handlers->ref_count() > 1) group.handlers = group.handlers->copy();
    group.handlers->reset_for_exec();
    group.exec_task = nullptr;
  }
  RefOrNull<FdTable> files = task.files_ref();
  if (files->ref_count() > 2) {
    files = files->copy().or_null();
    task.set_files(files);
  }
  files->remove_close_on_exec();
  group.timers->remove_posix_timers();

  task.give_up_address_space();
  install_image(task, std::move(image_));
}

// The other threads are gone; if the leader was another one, it left its number and its place.
void Task::take_over_leadership() {
  MutexLock tree(task_tree_mu);
  group.assert_tree_locked();
  if (group.leader == this) return;
  Ref<Task> former(*group.leader);
  {
    MutexLock lock(group.mu);
    std::erase(group.tasks, former.get());
    group.dead_cpu_ns += former->cpu_time_ns();
  }
  kernel.tasks().remove_task(*former);
  kernel.tasks().rename_task(*this, group.id);
  group.leader = this;
  // The process keeps the age that it had.
  start_time_ns.store(former->start_time_ns.load());
  for (ThreadGroup* child = group.children.front(); child != nullptr;
       child = group.children.next(*child)) {
    child->assert_tree_locked();
    if (child->parent_task == former.get()) child->parent_task = this;
  }
}

void Task::give_up_address_space() { leave_address_space(true); }

}  // namespace caisson
