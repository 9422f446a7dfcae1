// Workers: how kernel workers learn of requests, and when they poll or sleep.
//
// A stub thread that makes a request looks at `hot` on the control page. If a worker polls, it will
// see the request; otherwise the stub rings the worker of its own CPU. A worker that goes to sleep
// first sets its `asleep` flag (or takes back `hot`), then looks at every running slot once more,
// so no request is missed; a stub repeats a wake-up that woke nobody until the flag is gone. At
// most one worker polls; none does on one CPU, when guest threads could use every CPU, or on the
// CPU of the thread that it would poll for; polling ends soon after the last request, and is tried
// less often when it gains nothing. docs/design.md, "Who polls, and for how long".
#pragma once

#include <sched.h>

#include <array>
#include <atomic>
#include <memory>
#include <vector>

#include "base/mutex.h"
#include "base/ref.h"
#include "platform/platform.h"
#include "platform/systrap/shared_memory.h"
#include "platform/systrap/stub_process.h"

namespace caisson::systrap {

class Workers {
 public:
  explicit Workers(SharedMemory& memory);
  ~Workers();

  // Whether this thread is a worker, of any platform.
  static bool is_worker();
  int count() const { return static_cast<int>(cpus_.size()); }
  void bind(int worker);
  platform::Context* next_event(int worker, const platform::WorkSource& source);
  void ring();
  // ring(), but only from a thread that is not a worker: a worker looks for itself.
  void ring_if_foreign();
  // This worker wakes a thread, perhaps one that `begins`. If it has nothing else to do
  // it looks for requests next: the thread, which may take this CPU at once, needs to ring nobody.
  // `by_mapper`: the mapper will wake it.
  static void lets_go(bool begins, bool by_mapper);

  // Where what this worker lets begin runs best: on any CPU but the one that it polls on. Null:
  // where it is, because this worker will not poll.
  const cpu_set_t* elsewhere();
  // `thread` and its mapper were put there: until its first request, or until this worker sleeps.
  void placed(StubThread& thread, Ref<StubProcess> process);

  void register_thread(StubThread& thread) { threads_[thread.id()].store(&thread); }
  void add_running(StubThread& thread);
  void remove_running(StubThread& thread);
  // An event without a stub's request.
  void post(SystrapContext& context) EXCLUDES(mu_);
  void watch_acks(Ref<StubProcess> process) EXCLUDES(mu_);

 private:
  struct WorkerState {
    bool hot = false;
    std::atomic<bool> invited{false};  // by another: to poll
    uint32_t streak = 0;               // turns in a row after which the thread went on here
    uint32_t scan_from = 0;
    StubThread* last = nullptr;  // whose request was the last
    // Kept off this CPU when it began, and its phase then.
    StubThread* placed = nullptr;
    uint64_t placed_phase = 0;
    int placed_tid = 0;
    RefOrNull<StubProcess> placed_process;
    int busy = 0;  // threads in the guest that did not wait when last looked at
  };

  WorkerState* own_state();
  platform::Context* take(WorkerState& state, bool all);
  platform::Context* claim(WorkerState& state, StubThread& thread);
  static bool asks(StubThread& thread);
  platform::Context* scan(WorkerState& state, bool all);
  platform::Context* find_event(WorkerState& state, const platform::WorkSource& source);
  platform::Context* poll(WorkerState& state, const platform::WorkSource& source, bool& work);
  bool may_poll(const WorkerState& state) const;
  bool may_begin(WorkerState& state);
  bool shares_cpu(const WorkerState& state) const;
  void notice_sharing(WorkerState& state);
  static bool has_young();
  bool skips();
  uint32_t number(const WorkerState& state) const {
    return static_cast<uint32_t>(&state - workers_.data());
  }
  Sleeper& sleeper(const WorkerState& state) { return memory_.control().sleepers[number(state)]; }
  void invite(const WorkerState& from);
  bool heat_up(WorkerState& state);
  void cool_down(WorkerState& state);
  bool yield_cpu(WorkerState& state);
  void release_placed(WorkerState& state);
  bool wake(int worker, bool invites = false);

  SharedMemory& memory_;
  std::vector<int> cpus_;  // of each worker; immutable
  cpu_set_t set_;          // the same; immutable
  std::unique_ptr<std::atomic<StubThread*>[]> threads_;
  // Bits of threads that may make a request: from go() until the task waits in the kernel or
  // leaves.
  std::unique_ptr<std::atomic<uint64_t>[]> running_;
  // Of those, the ones that were seen to wait by themselves (Slot::waiting): looked at less often.
  std::unique_ptr<std::atomic<uint64_t>[]> dozing_;
  std::atomic<uint32_t> running_words_{0};                // words of running_ that were ever used
  std::array<WorkerState, CONTROL_MAX_WORKERS> workers_;  // each its worker's own
  std::atomic<int> bound_{0};                             // workers that came
  std::atomic<uint32_t> skip_{0};      // opportunities to poll that are still to be skipped
  std::atomic<uint32_t> failures_{0};  // polls in a row that gained nothing

  Mutex<LockRank::kPlatform> mu_;
  std::atomic<int> posted_count_{0};
  std::vector<SystrapContext*> posted_ GUARDED_BY(mu_);
  std::atomic<int> ack_count_{0};
  std::vector<Ref<StubProcess>> ack_list_ GUARDED_BY(mu_);
};

}  // namespace caisson::systrap
