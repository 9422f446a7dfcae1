// Kernel: everything that one sandbox's guests share. One per kernel process; made and owned by the
// runtime.
//
// Life: create(), start_program(), start_workers(), wait_finished(), shutdown(). The first process
// (pid 1) is the kernel's own init: it has no guest code and reaps orphans. The program is pid 2;
// when it ends, the sandbox ends.
#pragma once

#include <sched.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "host/event_loop.h"
#include "kernel/auth/credentials.h"
#include "kernel/call_patcher.h"
#include "kernel/futex/futex_table.h"
#include "kernel/ipc/shm.h"
#include "kernel/memory_killer.h"
#include "kernel/memory_watch.h"
#include "kernel/resource_limits.h"
#include "kernel/run_queue.h"
#include "kernel/syscall_table.h"
#include "kernel/task_set.h"
#include "kernel/uts.h"
#include "platform/platform.h"

namespace caisson {

struct ExecImage;
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
  uint64_t memory_limit = 0;                                // bytes; 0: what the host has
  uint32_t patch_calls_after = CallPatcher::kDefaultAfter;  // trapped calls of a file; 0: never
};

struct MemoryStatus {
  uint64_t total_bytes = 0;
  uint64_t free_bytes = 0;
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
  // The second half: an image that is loaded already.
  Result<void> start_image(ExecImage image, ProgramSpec spec);
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
  CallPatcher& call_patcher() { return call_patcher_; }
  SyscallObserver* observer() const { return config_.observer; }
  RunQueue& run_queue() { return run_queue_; }
  TaskSet& tasks() { return tasks_; }
  FutexTable& futexes() { return futexes_; }
  UtsNames& uts() { return uts_; }
  ShmTable& shared_memory() { return shared_memory_; }
  ThreadGroup& init_group() { return init_->group; }
  // The CPUs that guests may use, and how many numbers the host's masks have.
  int cpu_count() const { return CPU_COUNT(&allowed_cpus_); }
  void get_allowed_cpus(cpu_set_t& set) const { set = allowed_cpus_; }
  // Of who has started the sandbox, and so of its first task.
  int caller_nice() const { return caller_nice_; }
  size_t host_cpus() const { return host_cpus_; }
  const std::string& boot_id() const { return boot_id_; }
  // CLOCK_BOOTTIME when the sandbox began: /proc/uptime and start times count from it.
  uint64_t boot_time_ns() const { return boot_time_ns_; }
  uint64_t forks() const { return forks_.load(std::memory_order_relaxed); }
  void count_fork() { forks_.fetch_add(1, std::memory_order_relaxed); }

  // The memory that guests may use, for sysinfo(2) and /proc/meminfo.
  MemoryStatus memory_status() const;
  MemoryKiller& memory_killer() { return memory_killer_; }

  // From task_exit: a task is gone; the program (pid 2) ended with this wait status.
  void task_gone();
  void program_ended(int wait_status);

 private:
  explicit Kernel(const KernelConfig& config);
  Result<void> make_init();
  void run_worker(int worker);
  void kill_everyone();
  void wait_for_event(uint32_t seen, uint64_t limit_ns);

  const KernelConfig config_;
  CallPatcher call_patcher_;
  ShmTable shared_memory_{config_.memory};  // outlives the tasks
  RunQueue run_queue_;
  TaskSet tasks_;
  FutexTable futexes_;
  UtsNames uts_;
  MemoryKiller memory_killer_{*this};
  RefOrNull<Task> init_;    // set once before start
  cpu_set_t allowed_cpus_;  // set once before start
  int caller_nice_ = 0;     // set once before start
  size_t host_cpus_ = 64;   // set once before start
  std::string boot_id_;     // set once before start
  uint64_t boot_time_ns_ = 0;
  std::atomic<uint64_t> forks_{0};
  std::vector<std::thread> workers_;
  MemoryWatch memory_watch_{*this};

  // For wait_finished() and shutdown(), whose threads are not workers: a host futex that counts
  // ends.
  std::atomic<uint32_t> finish_events_{0};
  std::atomic<bool> is_finishing_{false};  // somebody waits for the ends of tasks
  std::atomic<int> program_status_{-1};
};

}  // namespace caisson
