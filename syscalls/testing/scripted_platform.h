// ScriptedPlatform: guests whose code is C++ functions of the test, for unit tests of the kernel.
//
// Each guest task is a host thread that runs between resume() and the next event. Addresses of
// "guest code" are numbers that stand for functions: a new task, a signal handler or a new program
// starts at one. Guest memory is the MemoryManager's, reached through copies.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "kernel/current_task.h"
#include "kernel/kernel.h"
#include "kernel/task.h"
#include "kernel/task_exec.h"
#include "mm/testing/fake_platform.h"

namespace caisson::testing {

class Guest;
class ScriptedPlatform;
using GuestCode = std::function<void(Guest&)>;

class ScriptedContext final : public platform::Context {
 public:
  explicit ScriptedContext(ScriptedPlatform& platform) : platform_(platform) {
    syscall_arch_ = 0xc000003e;  // AUDIT_ARCH_X86_64
  }
  ~ScriptedContext() override;

  void attach(RefOrNull<platform::AddressSpace> space) override;
  void resume() override;
  void interrupt() override;
  void kill() override { interrupt(); }
  bool has_vector_state() const override { return has_vector_; }
  void fetch_vector_state() override;
  void read_vector_state(std::span<std::byte> out) const override;
  void write_vector_state(std::span<const std::byte> in) override;
  void reset_vector_state() override { vector_.assign(vector_.size(), std::byte{0}); }
  void set_scheduling(const platform::Scheduling&) override {}
  uint64_t cpu_time_ns() const override { return cpu_ns.load(); }

  std::atomic<uint64_t> cpu_ns{0};
  Task& task() const { return *static_cast<Task*>(owner_); }

 private:
  friend class Guest;
  struct Ended {};       // the context is gone
  struct NewProgram {};  // exec
  void run();
  void wait_until_resumed();
  void post(platform::EventKind kind);

  ScriptedPlatform& platform_;
  std::mutex mu_;
  std::condition_variable changed_;
  bool running_ = false;
  bool ended_ = false;
  bool interrupted_ = false;  // sticky
  bool new_program_ = true;
  bool has_vector_ = false;
  std::vector<std::byte> vector_ = std::vector<std::byte>(2688);
  std::thread thread_;
};

class ScriptedPlatform final : public FakePlatform {
 public:
  static constexpr uint64_t kFirstCode = 0x40'0000, kCodeStep = 0x1000;

  Result<std::unique_ptr<platform::Context>> new_context() override {
    return std::unique_ptr<platform::Context>(std::make_unique<ScriptedContext>(*this));
  }
  int worker_count() const override { return 2; }
  platform::Context* next_event(int, const platform::WorkSource& source) override;
  void ring() override;

  // The address that stands for this function from now on.
  uint64_t add_code(GuestCode code);
  GuestCode* code_at(uint64_t address);
  void push(platform::Context& context);

 private:
  std::mutex mu_;
  std::condition_variable changed_;
  std::deque<platform::Context*> events_;
  std::deque<GuestCode> code_;
};

// What guest code sees.
class Guest {
 public:
  Guest(ScriptedContext& context, ScriptedPlatform& platform)
      : context_(context), platform_(platform) {}

  // The raw result: -errno on failure. Handlers of signals run inside, restarts too.
  int64_t sys(int number, uint64_t a = 0, uint64_t b = 0, uint64_t c = 0, uint64_t d = 0,
              uint64_t e = 0, uint64_t f = 0);
  // A child that begins at `code`.
  int64_t clone(uint64_t flags, GuestCode code, uint64_t parent_tid = 0, uint64_t child_tid = 0);
  int64_t fork(GuestCode code) { return clone(SIGCHLD, std::move(code)); }
  [[noreturn]] void exit_group(int status);
  [[noreturn]] void exit(int status);
  // In the guest, without calls, until interrupted by a signal with a handler, or for ever.
  void spin();
  // A fault at this address, as of a load.
  void fault(uint64_t address);

  // sigaction: `code` runs with the signal's number in regs().rdi.
  int64_t handle(int signo, GuestCode code, uint64_t flags = 0, uint64_t mask = 0);
  int64_t ignore(int signo) { return set_action(signo, kSigIgnore, 0, 0); }
  int64_t set_action(int signo, uint64_t handler, uint64_t flags, uint64_t mask);

  // Scratch memory: every program has 1 MiB of it at kMemory. A task's own part.
  static constexpr uint64_t kMemory = 0x1000'0000;
  uint64_t scratch() {
    return kMemory + 0x1000 + static_cast<uint64_t>(task().tid()) % 64 * 0x2000;
  }
  template <typename T>
  T load(uint64_t address) {
    return MUST(task().mm_ref()->copy_in(UserIn<T>(address)));
  }
  template <typename T>
  void store(uint64_t address, const T& value) {
    MUST(task().mm_ref()->copy_out(UserOut<T>(address), value));
  }

  Task& task() { return context_.task(); }
  Registers& regs() { return context_.regs(); }

 private:
  // Back from the kernel: runs handlers until the task is where it was to continue.
  void settle(uint64_t expected);

  ScriptedContext& context_;
  ScriptedPlatform& platform_;
};

// A kernel with one program that is guest code.
class KernelHarness {
 public:
  KernelHarness();
  ~KernelHarness();
  // Runs the program to its end; its wait status.
  int run(GuestCode program);

  ScriptedPlatform platform;
  std::unique_ptr<MemoryFile> memory;
  std::unique_ptr<host::EventLoop> events;
  SyscallTable table;
  std::unique_ptr<Kernel> kernel;
};

}  // namespace caisson::testing
