#include "kernel/task.h"

#include <utility>

#include "kernel/kernel.h"
#include "kernel/run_queue.h"

namespace caisson {

Task::Task(Kernel& kernel, Ref<ThreadGroup> owner_group, ProcessId id,
           std::unique_ptr<platform::Context> context, Ref<Credentials> credentials)
    : kernel(kernel),
      group_ref(std::move(owner_group)),
      group(*group_ref),
      id(id),
      context(std::move(context)),
      credentials_(std::move(credentials).or_null()) {
  if (this->context) this->context->set_owner(this);
  CPU_ZERO(&affinity);
}

Task::~Task() = default;

void Task::notify() {
  switch (sched_.notify()) {
    case SchedWord::Effect::kNothing:
      break;
    case SchedWord::Effect::kQueue:
      kernel.run_queue().push(*this);
      break;
    case SchedWord::Effect::kInterrupt:
      context->interrupt();
      break;
  }
}

void Task::schedule_on_host_locked() {
  if (context) context->set_scheduling({affinity, scheduling.nice});
}

void Task::expired(uint64_t armed_at) {
  if (deadline_.load(std::memory_order_acquire) == armed_at) notify();
}

void Task::start() {
  sched_.set_queued();
  kernel.run_queue().push(*this);
}

RefOrNull<MemoryManager> Task::mm_ref() const {
  MutexLock lock(mu);
  return mm_;
}

RefOrNull<FdTable> Task::files_ref() const {
  MutexLock lock(mu);
  return files_;
}

RefOrNull<FsContext> Task::fs_ref() const {
  MutexLock lock(mu);
  return fs_;
}

Ref<Credentials> Task::credentials_ref() const {
  MutexLock lock(mu);
  return Ref<Credentials>::from(credentials_);
}

RefOrNull<ExecutableFile> Task::executable() const {
  MutexLock lock(mu);
  return executable_;
}

std::string Task::executable_path() const {
  MutexLock lock(mu);
  return executable_path_;
}

std::string Task::name() const {
  MutexLock lock(mu);
  return name_;
}

// The former object is released after the lock: its end may do anything.
void Task::set_mm(RefOrNull<MemoryManager> mm) {
  RefOrNull<MemoryManager> former = std::move(mm);
  MutexLock lock(mu);
  std::swap(mm_, former);
}

void Task::set_files(RefOrNull<FdTable> files) {
  RefOrNull<FdTable> former = std::move(files);
  MutexLock lock(mu);
  std::swap(files_, former);
}

void Task::set_fs(RefOrNull<FsContext> fs) {
  RefOrNull<FsContext> former = std::move(fs);
  MutexLock lock(mu);
  std::swap(fs_, former);
}

void Task::set_credentials(Ref<Credentials> credentials) {
  RefOrNull<Credentials> former = std::move(credentials).or_null();
  MutexLock lock(mu);
  std::swap(credentials_, former);
}

void Task::set_executable(RefOrNull<ExecutableFile> file, std::string path) {
  RefOrNull<ExecutableFile> former = std::move(file);
  MutexLock lock(mu);
  std::swap(executable_, former);
  executable_path_ = std::move(path);
}

void Task::set_name(std::string name) {
  if (name.size() > 15) name.resize(15);
  MutexLock lock(mu);
  name_ = std::move(name);
}

uint64_t Task::cpu_time_ns() const {
  if (!context) return 0;
  return earlier_cpu_ns_.load(std::memory_order_relaxed) + context->cpu_time_ns();
}

char Task::state_letter() const {
  if (sched_.is_dead()) return 'Z';
  if (sched_.is_parked()) {
    MutexLock lock(group.mu);
    return is_stopped ? 'T' : 'S';
  }
  return context && context->is_waiting() ? 'S' : 'R';
}

const char* Task::wait_name() const {
  const char* name = wait_name_.load(std::memory_order_relaxed);
  return name == nullptr ? "0" : name;
}

bool Task::has_work_pending_locked() const {
  if (is_killed || group.is_exiting || must_stop || group.notify_parent != 0) return true;
  SignalSet all = pending.set() | group.shared_pending.set();
  return !(all & ~blocked).empty();
}

bool Task::signal_pending() const {
  if (!attention()) return false;
  MutexLock lock(group.mu);
  return has_work_pending_locked();
}

bool Task::must_end() const {
  if (!attention()) return false;
  MutexLock lock(group.mu);
  return is_killed || group.is_exiting;
}

}  // namespace caisson
