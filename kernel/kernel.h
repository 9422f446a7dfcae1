// Kernel: everything that one sandbox's guests share. One per kernel process; made and owned by the
// runtime.
//
// Life: create(), start_program(), start_workers(), wait_finished(), shutdown(). The first process
// (pid 1) is the kernel's own init: it has no guest code and reaps orphans. The program is pid 2;
// when it ends, the sandbox ends.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "host/event_loop.h"
#include "kernel/auth/credentials.h"
#include "kernel/futex/futex_table.h"
#include "kernel/resource_limits.h"
#include "kernel/run_queue.h"
#include "kernel/syscall_table.h"
#include "kernel/task_set.h"
#include "kernel/uts.h"
#include "platform/platform.h"

namespace caisson {

class FdTable;
class FsContext;
class MemoryFile;

struct KernelConfig {
  platform::Platform& platform;
  MemoryFile& memory;
  host::EventLoop& events;
  SyscallTable& syscalls;
  SyscallObserver* observer = nullptr;  // outlives the kernel
  std::string hostname = "caisson";
};

struct ProgramSpec {
  std::string path;  // as given to execve(2)
  std::vector<std::string> arguments;
  std::vector<std::string> environment;
  Ref<Credentials> credentials;
  Ref<FdTable> files;
  Ref<FsContext> fs;
  ResourceLimits::Array limits = ResourceLimits::defaults();
};

class Kernel {
 public:
  static Result<std::unique_ptr<Kernel>> create(const KernelConfig& config);
  ~Kernel();
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;

  // Loads the program as pid 2, ready to run. Errors are execve(2)'s.
  Result<void> start_program(ProgramSpec spec);
  void start_workers();
  // Waits for the end of the program; its wait status.
  int wait_finished();
  // A signal from outside for the program, as the launcher forwards them.
  void signal_program(int signo);
  // Ends every task and the workers. Tasks that do not end in time are left to the platform.
  void shutdown();

  platform::Platform& platform() const { return config_.platform; }
  MemoryFile& memory() const { return config_.memory; }
  host::EventLoop& events() const { return config_.events; }
  SyscallTable& syscalls() const { return config_.syscalls; }
  SyscallObserver* observer() const { return config_.observer; }
  RunQueue& run_queue() { return run_queue_; }
  TaskSet& tasks() { return tasks_; }
  FutexTable& futexes() { return futexes_; }
  UtsNames& uts() { return uts_; }
  ThreadGroup& init_group() { return init_->group; }
  int cpu_count() const { return cpu_count_; }
  const std::string& boot_id() const { return boot_id_; }
  // CLOCK_BOOTTIME when the sandbox began: /proc/uptime and start times count from it.
  uint64_t boot_time_ns() const { return boot_time_ns_; }
  uint64_t forks() const { return forks_.load(std::memory_order_relaxed); }
  void count_fork() { forks_.fetch_add(1, std::memory_order_relaxed); }

  // Linux's out-of-memory killer: ends the process that uses most.
  void kill_for_memory();

  // From task_exit: a task is gone; the program (pid 2) ended with this wait status.
  void task_gone();
  void program_ended(int wait_status);

 private:
  explicit Kernel(const KernelConfig& config);
  Result<void> make_init();
  void run_worker(int worker);
  void kill_everyone();

  const KernelConfig config_;
  RunQueue run_queue_;
  TaskSet tasks_;
  FutexTable futexes_;
  UtsNames uts_;
  RefOrNull<Task> init_;  // set once before start
  int cpu_count_ = 1;     // set once before start
  std::string boot_id_;   // set once before start
  uint64_t boot_time_ns_ = 0;
  std::atomic<uint64_t> forks_{0};
  std::vector<std::thread> workers_;

  // For wait_finished() and shutdown(), which are the runtime's threads, not workers.
  std::mutex finish_mu_;
  std::condition_variable finish_changed_;
  std::optional<int> program_status_;
};

}  // namespace caisson
