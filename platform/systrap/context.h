// SystrapContext: one guest task on this platform: its registers, and the stub thread it runs on.
//
// A context is owned by the kernel, held by its StubProcess (resume() came, but orders or a thread
// are outstanding), or in the guest. README.md has the state table.
#pragma once

#include <atomic>
#include <vector>

#include "platform/platform.h"
#include "platform/systrap/stub_process.h"
#include "platform/systrap/stub_thread.h"

namespace caisson::systrap {

class Systrap;

class SystrapContext : public platform::Context {
 public:
  explicit SystrapContext(Systrap& systrap);
  ~SystrapContext() override;

  void attach(RefOrNull<platform::AddressSpace> space) override;
  void leave_soon() override;
  void resume() override;
  void park() override;
  void wake_private(GuestAddr word, int count, uint32_t mask) override;
  bool is_waiting() const override;
  void interrupt() override;
  void kill() override;
  bool has_vector_state() const override;
  void fetch_vector_state() override;
  void read_vector_state(std::span<std::byte> out) const override;
  void write_vector_state(std::span<const std::byte> in) override;
  void reset_vector_state() override;
  void set_scheduling(const platform::Scheduling& scheduling) override EXCLUDES(scheduling_mu_);
  void set_rseq(const platform::RseqArea& area) override { rseq_ = area; }
  uint64_t cpu_time_ns() const override;

  // For StubProcess and Workers.
  // The StubProcess has found a thread.
  void set_thread(StubThread* thread) { thread_.store(thread); }
  StubThread* thread() const { return thread_.load(); }
  // Hands the thread over. Precondition: there is a thread and the process is quiet, or the mapper
  // is about to be told to let the thread run when it is (`wake` is false).
  void go(bool wake = true);
  // An interrupt came while the kernel had the task: posts the event and says so.
  bool take_interrupt();
  // Its thread has not run since attach().
  bool is_fresh() const { return is_fresh_; }
  // Reads what the stub says, once. Precondition: the thread was claimed. Sets event(); a broken
  // protocol gives kDied.
  void read_event(StubThread& thread);
  // A call that the thread makes before the guest goes on. Precondition: has_room_for_calls().
  void add_call(const CallerCall& call) { calls_[call_count_++] = call; }
  uint32_t call_count() const { return call_count_; }
  bool has_room_for_calls(size_t count) const {
    return call_count_ + count <= CALLS_MAX - CALLS_FOR_RSEQ;
  }
  // Delivers an event that no stub has sent.
  void post(platform::EventKind kind);
  std::atomic<bool> held{false};

  // Lets the thread run on `cpus` until its next request, unless the guest has chosen some.
  bool place(const cpu_set_t& cpus);

 private:
  uint64_t guest_address(uint64_t rip) const;
  bool read_frame(StubThread& thread);
  bool read_broken(StubThread& thread);
  void read_saved_state(StubThread& thread);
  void take_vector_state();
  bool read_call(StubThread& thread, bool by_gate);
  bool find_frame(StubThread& thread) const;
  bool find_vector_state(StubThread& thread) const;
  std::byte* vector_state_of(StubThread& thread) const;
  bool only_result_changed() const;
  void write_frame(StubThread& thread);
  void write_gate(StubThread& thread);
  void release_thread();
  void give_back_protects();
  void add_rseq_calls(StubThread& thread);
  void apply_scheduling(StubThread& thread) EXCLUDES(scheduling_mu_);

  Systrap& systrap_;
  RefOrNull<SystrapAddressSpace> space_;
  std::atomic<StubThread*> thread_{nullptr};
  std::atomic<bool> interrupt_requested_{false};
  Mutex<LockRank::kPlatform> scheduling_mu_;
  platform::Scheduling scheduling_ GUARDED_BY(scheduling_mu_);
  // Names scheduling_, among those of all contexts; 0: how threads start.
  std::atomic<uint64_t> scheduling_id_{0};
  // Kept until the thread has made them all: an interrupt may have come first.
  CallerCall calls_[CALLS_MAX];
  uint32_t call_count_ = 0;
  Registers call_regs_{};  // as they were when the call began
  bool is_fresh_ = false;
  platform::RseqArea rseq_;  // what the thread is to have
  bool fetching_ = false;
  // Where the task's vector state is.
  enum class VectorAt : uint8_t {
    kThread,  // in the frame that the thread waits in; if it waits in the gate, in the CPU
    kHere,    // in vector_, and the thread is to load it
    kLaid,    // the same, and the thread was told, but has perhaps not done it yet
    kBoth,    // in the CPU, and saved to vector_
  };
  VectorAt vector_at_ = VectorAt::kHere;
  std::vector<std::byte> vector_;  // empty: the initial state
};

}  // namespace caisson::systrap
