#include "kernel/kernel.h"

#include <linux/futex.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "abi/process.h"
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
    : config_(config),
      call_patcher_(config.platform, config.patch_calls_after),
      run_queue_(config.platform),
      uts_(config.hostname) {}

Result<std::unique_ptr<Kernel>> Kernel::create(const KernelConfig& config) {
  std::unique_ptr<Kernel> kernel(new Kernel(config));
  kernel->boot_id_ = TRY(make_boot_id());
  kernel->boot_time_ns_ = boot_clock_ns();
  CPU_ZERO(&kernel->allowed_cpus_);
  long bytes = TRY(host::raw_syscall(SYS_sched_getaffinity, 0, sizeof kernel->allowed_cpus_,
                                     host::raw_arg(&kernel->allowed_cpus_))
                       .result());
  kernel->host_cpus_ = static_cast<size_t>(bytes) * 8;
  constexpr int kPrioProcess = 0;
  kernel->caller_nice_ =
      20 - static_cast<int>(TRY(host::raw_syscall(SYS_getpriority, kPrioProcess, 0).result()));
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
  Caller caller{
      *spec.credentials, spec.fs->mounts(), root, working_directory, spec.fs->umask(), 2, 2};
  Path place = TRY(resolve_path(caller, working_directory, spec.path));
  ExecRequest request{spec.path, std::move(spec.arguments), std::move(spec.environment)};
  Result<ExecImage, LoadError> image =
      load_image(*this, caller, place, std::move(request), spec.limits, false, 0);
  if (!image.ok()) return image.error().error;
  return start_image(std::move(image).value(), std::move(spec));
}

Result<void> Kernel::start_image(ExecImage image, ProgramSpec spec) {
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
    task->affinity = allowed_cpus_;
    task->scheduling.nice = caller_nice_;
  }
  install_image(*task, std::move(image));
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
  if (config_.memory.limit() != 0) memory_watch_.start();
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

// Waits until finish_events_ is not `seen` any more, at most for `limit_ns` (0: for ever).
void Kernel::wait_for_event(uint32_t seen, uint64_t limit_ns) {
  TimeSpec limit = to_timespec(limit_ns);
  host::raw_syscall(SYS_futex, host::raw_arg(&finish_events_), FUTEX_WAIT_PRIVATE, seen,
                    limit_ns == 0 ? 0 : host::raw_arg(&limit))
      .ignore();
}

void Kernel::task_gone() {
  finish_events_.fetch_add(1);
  if (!is_finishing_.load()) return;
  host::raw_syscall(SYS_futex, host::raw_arg(&finish_events_), FUTEX_WAKE_PRIVATE, INT32_MAX)
      .ignore();
}

int Kernel::wait_finished() {
  for (;;) {
    uint32_t seen = finish_events_.load(std::memory_order_acquire);
    if (program_status_.load(std::memory_order_acquire) >= 0) return program_status_.load();
    wait_for_event(seen, 0);
  }
}

void Kernel::program_ended(int wait_status) {
  program_status_.store(wait_status, std::memory_order_release);
  is_finishing_.store(true);
  task_gone();
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
  is_finishing_.store(true);
  if (!workers_.empty()) {
    auto only_init_is_left = [this] {
      MutexLock tree(task_tree_mu);
      return tasks_.task_count() <= 1;
    };
    constexpr uint64_t kPatienceNs = 5'000'000'000, kLookAgainNs = 20'000'000;
    uint64_t deadline = host::monotonic_ns() + kPatienceNs;
    // New processes may appear until all that could fork are gone: look again after each end.
    for (;;) {
      uint32_t seen = finish_events_.load(std::memory_order_acquire);
      if (only_init_is_left() || host::monotonic_ns() >= deadline) break;
      kill_everyone();
      wait_for_event(seen, kLookAgainNs);
    }
    if (!only_init_is_left()) LOG_WARNING("tasks are left at shutdown");
  }
  memory_watch_.stop();
  run_queue_.close();
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
}

MemoryStatus Kernel::memory_status() const {
  SystemInfo host;
  host::raw_syscall(SYS_sysinfo, host::raw_arg(&host)).ignore();
  uint64_t host_total = host.total_ram * host.memory_unit;
  uint64_t host_free = (host.free_ram + host.buffer_ram) * host.memory_unit;
  MemoryStatus status;
  status.total_bytes = config_.memory_limit != 0 ? config_.memory_limit : host_total;
  uint64_t used = config_.memory.resident_bytes();
  uint64_t allowed = status.total_bytes > used ? status.total_bytes - used : 0;
  status.free_bytes = std::min(allowed, host_free);
  return status;
}

}  // namespace caisson
