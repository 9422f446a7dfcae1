// CurrentTask: the task that this worker is running now; what system call handlers see.
//
// Registers, guest memory, waiting and the end of the task exist only here, so "only the task
// itself may do this" is compiled. Neither copyable nor storable: it lives on the worker's stack
// for one turn. Everybody else uses Task, under its locks. Linux: `current`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "abi/registers.h"
#include "abi/user_ptr.h"
#include "base/result.h"
#include "kernel/auth/credentials.h"

namespace caisson {

class FdTable;
class FsContext;
class Kernel;
class MemoryManager;
class Task;
class ThreadGroup;

class CurrentTask {
 public:
  // For the kernel's run loop, which has taken the task from its queue or from the platform.
  explicit CurrentTask(Task& task) : task_(task) {}
  CurrentTask(const CurrentTask&) = delete;
  CurrentTask& operator=(const CurrentTask&) = delete;

  Task& task() { return task_; }
  ThreadGroup& group();
  Kernel& kernel();
  Registers& regs();

  // What the task uses now. References stay valid during the call; keep a Ref in an operation.
  MemoryManager& mm();
  Ref<MemoryManager> mm_ref();
  FdTable& files();
  Ref<FdTable> files_ref();
  FsContext& fs();
  Ref<FsContext> fs_ref();
  const Credentials& credentials();
  Ref<Credentials> credentials_ref();

  // A signal is to be handled: an operation that has done something may return what it has.
  bool signal_pending() const;

  // Sends a signal to this task: SIGPIPE, SIGXFSZ.
  void raise(int signo);
  // ppoll, pselect, epoll_pwait, sigsuspend: this mask until the call returns, or until the handler
  // that ends it has run.
  void set_mask_until_return(uint64_t mask);

  // The soft limit, RLIMIT_*; ~0 is RLIM_INFINITY.
  uint64_t limit(int resource);
  int32_t process_id();
  int32_t thread_id();

  // Guest memory: all or EFAULT. What was transferred before a fault stays.
  Result<void> copy_in_bytes(void* to, GuestAddr from, size_t length);
  Result<void> copy_out_bytes(GuestAddr to, const void* from, size_t length);
  // Without the final NUL. ENAMETOOLONG when there is none within `max` bytes (PATH_MAX counts it).
  Result<std::string> copy_in_string(UserCString from, size_t max);
  Result<std::string> copy_in_path(UserCString from) { return copy_in_string(from, 4096); }

  template <typename T>
  Result<T> copy_in(UserIn<T> from) {
    T value;
    TRY(copy_in_bytes(&value, from.addr(), sizeof value));
    return value;
  }
  template <typename T>
  Result<T> copy_in(UserInOut<T> from) {
    return copy_in(UserIn<T>(from.addr()));
  }
  template <typename T>
  Result<void> copy_out(UserOut<T> to, const T& value) {
    return copy_out_bytes(to.addr(), &value, sizeof value);
  }
  template <typename T>
  Result<void> copy_out(UserInOut<T> to, const T& value) {
    return copy_out_bytes(to.addr(), &value, sizeof value);
  }
  // The caller bounds `count` first: it sizes an allocation.
  template <typename T>
  Result<std::vector<T>> copy_in_array(UserIn<T> from, size_t count) {
    std::vector<T> values(count);
    TRY(copy_in_bytes(values.data(), from.addr(), count * sizeof(T)));
    return values;
  }
  template <typename T>
  Result<void> copy_out_array(UserOut<T> to, std::span<const T> values) {
    return copy_out_bytes(to.addr(), values.data(), values.size_bytes());
  }

 private:
  Task& task_;
};

}  // namespace caisson
