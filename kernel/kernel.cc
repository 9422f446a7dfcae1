#include "kernel/kernel.h"

#include <sched.h>

#include <chrono>
#include <cstdio>
#include <utility>

#include "base/log.h"
#include "host/raw_syscall.h"
#include "kernel/process_tree.h"
#include "kernel/signals.h"
#include "kernel/task.h"
#include "kernel/task_exec.h"
#include "kernel/time/clock.h"
#include "vfs/path_walk.h"

namespace caisson {
namespace {

Result<std::string> make_boot_id() {
  unsigned char bytes[16];
  TRY(host::raw_syscall(SYS_getrandom, host::raw_arg(bytes), sizeof bytes, 0).result());
  bytes[6] = static_cast<unsigned char>((bytes[6] & 0x0f) | 0x40);
  bytes[8] = static_cast<unsigned char>((bytes[8] & 0x3f) | 0x80);
  char text[40];
  std::snprintf(text, sizeof text,
                "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", bytes[0],
                bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7], bytes[8],
                bytes[9], bytes[10], bytes[11], bytes[12], bytes[13], bytes[14], bytes[15]);
  return std::string(text);
}

}  // namespace

Kernel::Kernel(const KernelConfig& config)
    : config_(config), run_queue_(config.platform), uts_(config.hostname) {}

Result<std::unique_ptr<Kernel>> Kernel::create(const KernelConfig& config) {
  std::unique_ptr<Kernel> kernel(new Kernel(config));
  kernel->boot_id_ = TRY(make_boot_id());
  kernel->boot_time_ns_ = boot_clock_ns();
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  TRY(host::raw_syscall(SYS_sched_getaffinity, 0, sizeof cpus, host::raw_arg(&cpus)).result());
  kernel->cpu_count_ = CPU_COUNT(&cpus);
  TRY(kernel->make_init());
  return kernel;
}

Kernel::~Kernel() {
  shutdown();
  if (!init_) return;
  MutexLock tree(task_tree_mu);
  ProcessTree(*this).release(init_->group);
}

// pid 1: a process without guest code. It reaps at once and no signal reaches it.
Result<void> Kernel::make_init() {
  auto group = make_ref<ThreadGroup>(*this, make_ref<SignalHandlers>(), 0);
  group->is_kernel_init = true;
  MutexLock tree(task_tree_mu);
  group->assert_tree_locked();
  group->id = TRY(tasks_.allocate_id());
  auto task = make_ref<Task>(*this, group, group->id, nullptr, Credentials::root());
  task->set_name("init");
  task->make_inert();
  group->leader = task.get();
  group->start_time_ns = boot_time_ns_;
  {
    MutexLock lock(group->mu);
    group->tasks.push_back(task.get());
    group->live_tasks = 1;
  }
  tasks_.add_task(*task);
  tasks_.join_process_group(*group,
                            tasks_.make_process_group(group->id, make_ref<Session>(group->id)));
  init_ = task.or_null();
  return {};
}

Result<void> Kernel::start_program(ProgramSpec spec) {
  Path root = spec.fs->root();
  Path working_directory = spec.fs->working_directory();
  Caller caller{*spec.credentials, root, working_directory, spec.fs->umask(), 2, 2};
  Path place = TRY(resolve_path(caller, working_directory, spec.path));
  ExecRequest request{spec.path, std::move(spec.arguments), std::move(spec.environment)};
  Result<ExecImage, LoadError> image =
      load_image(*this, caller, place, std::move(request), spec.limits, false, 0);
  if (!image.ok()) return image.error().error;

  auto group = make_ref<ThreadGroup>(*this, make_ref<SignalHandlers>(), SIGCHLD);
  group->is_program = true;
  group->limits.set_all(spec.limits);
  std::unique_ptr<platform::Context> context = TRY(config_.platform.new_context());
  auto task = make_ref<Task>(*this, group, 0, std::move(context), spec.credentials);
  task->set_files(spec.files.or_null());
  task->set_fs(spec.fs.or_null());
  task->start_time_ns.store(boot_clock_ns());
  group->start_time_ns = task->start_time_ns.load();
  {
    MutexLock lock(task->mu);
    host::raw_syscall(SYS_sched_getaffinity, 0, sizeof task->affinity,
                      host::raw_arg(&task->affinity))
        .ignore();
  }
  install_image(*task, std::move(image).value());
  {
    MutexLock tree(task_tree_mu);
    group->assert_tree_locked();
    task->id.store(TRY(tasks_.allocate_id()));
    group->id = task->tid();
    group->leader = task.get();
    group->parent = &init_->group;
    group->parent_task = init_.get();
    init_->group.assert_tree_locked();
    init_->group.children.push_back(*group);
    {
      MutexLock lock(group->mu);
      group->tasks.push_back(task.get());
      group->live_tasks = 1;
    }
    tasks_.add_task(*task);
    // A session of its own: the sandbox's terminal, if any, is its controlling one.
    tasks_.join_process_group(*group,
                              tasks_.make_process_group(group->id, make_ref<Session>(group->id)));
  }
  task->start();
  return {};
}

void Kernel::start_workers() {
  for (int worker = 0; worker < config_.platform.worker_count(); ++worker)
    workers_.emplace_back([this, worker] { run_worker(worker); });
}

void Kernel::run_worker(int worker) {
  config_.platform.bind_worker(worker);
  constexpr int kTurnsBetweenEvents = 16;  // so that neither source starves the other
  while (!run_queue_.is_closed()) {
    for (int turn = 0; turn < kTurnsBetweenEvents; ++turn) {
      RefOrNull<Task> task = run_queue_.pop();
      if (!task) break;
      task->run_turn();
    }
    platform::Context* context = config_.platform.next_event(worker, run_queue_);
    if (context != nullptr) static_cast<Task*>(context->owner())->run_event();
  }
}

int Kernel::wait_finished() {
  std::unique_lock lock(finish_mu_);
  finish_changed_.wait(lock, [this] { return program_status_.has_value(); });
  return *program_status_;
}

void Kernel::program_ended(int wait_status) {
  std::lock_guard lock(finish_mu_);
  program_status_ = wait_status;
  finish_changed_.notify_all();
}

void Kernel::task_gone() {
  std::lock_guard lock(finish_mu_);
  finish_changed_.notify_all();
}

void Kernel::signal_program(int signo) {
  RefOrNull<ThreadGroup> group = tasks_.find_group(2);
  if (group) (void)send_signal(*group, user_signal_info(signo, SI_USER, 0, 0));
}

void Kernel::kill_everyone() {
  for (const Ref<ThreadGroup>& group : tasks_.groups())
    if (!group->is_kernel_init) begin_group_exit(*group, SIGKILL);
}

void Kernel::shutdown() {
  if (run_queue_.is_closed()) return;
  if (!workers_.empty()) {
    auto only_init_is_left = [this] {
      MutexLock tree(task_tree_mu);
      return tasks_.task_count() <= 1;
    };
    auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
    // New processes may appear until all that could fork are gone: look again after each end.
    while (!only_init_is_left() && std::chrono::steady_clock::now() < deadline) {
      kill_everyone();
      std::unique_lock lock(finish_mu_);
      finish_changed_.wait_for(lock, std::chrono::milliseconds(20));
    }
    if (!only_init_is_left()) LOG_WARNING("tasks are left at shutdown");
  }
  run_queue_.close();
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
}

void Kernel::kill_for_memory() {
  RefOrNull<ThreadGroup> largest;
  uint64_t most = 0;
  for (const Ref<ThreadGroup>& group : tasks_.groups()) {
    RefOrNull<Task> leader = tasks_.find_task(group->id);
    RefOrNull<MemoryManager> mm = leader ? leader->mm_ref() : nullptr;
    if (!mm) continue;
    uint64_t used = mm->usage().resident;
    if (used < most) continue;
    most = used;
    largest = group.or_null();
  }
  if (!largest) return;
  LOG_WARNING("out of memory: process %d is killed (%llu kB)", largest->id,
              static_cast<unsigned long long>(most / 1024));
  begin_group_exit(*largest, SIGKILL);
}

}  // namespace caisson
