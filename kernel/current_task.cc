#include "kernel/current_task.h"

#include "kernel/kernel.h"
#include "kernel/signals.h"
#include "kernel/task.h"
#include "mm/memory_manager.h"

namespace caisson {

ThreadGroup& CurrentTask::group() { return task_.group; }
Kernel& CurrentTask::kernel() { return task_.kernel; }
Registers& CurrentTask::regs() { return task_.context->regs(); }
MemoryManager& CurrentTask::mm() { return *task_.mm_; }
Ref<MemoryManager> CurrentTask::mm_ref() { return Ref<MemoryManager>(*task_.mm_); }
FdTable& CurrentTask::files() { return *task_.files_; }
Ref<FdTable> CurrentTask::files_ref() { return Ref<FdTable>(*task_.files_); }
FsContext& CurrentTask::fs() { return *task_.fs_; }
Ref<FsContext> CurrentTask::fs_ref() { return Ref<FsContext>(*task_.fs_); }
const Credentials& CurrentTask::credentials() { return *task_.credentials_; }
Ref<Credentials> CurrentTask::credentials_ref() { return Ref<Credentials>(*task_.credentials_); }
bool CurrentTask::signal_pending() const { return task_.signal_pending(); }
uint64_t CurrentTask::limit(int resource) { return task_.group.limits.soft(resource); }
int32_t CurrentTask::process_id() { return task_.tgid(); }
int32_t CurrentTask::thread_id() { return task_.tid(); }

void CurrentTask::raise(int signo) { send_signal_to_self(*this, signo); }

void CurrentTask::set_mask_until_return(uint64_t mask) {
  SignalSet before = set_blocked_signals(task_, SignalSet(mask));
  if (!task_.saved_mask) task_.saved_mask = before;
}

Result<void> CurrentTask::copy_in_bytes(void* to, GuestAddr from, size_t length) {
  return mm().copy_in(to, from, length).result();
}

Result<void> CurrentTask::copy_out_bytes(GuestAddr to, const void* from, size_t length) {
  return mm().copy_out(to, from, length).result();
}

Result<std::string> CurrentTask::copy_in_string(UserCString from, size_t max) {
  return mm().copy_in_string(from, max);
}

}  // namespace caisson
