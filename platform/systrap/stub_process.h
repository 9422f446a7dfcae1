// StubProcess: one host process that holds one guest address space: its mapper, its orders, its
// stub threads.
//
// Made by Systrap from the zygote, handed to one SystrapAddressSpace at a time, emptied and used
// again after it. The kernel posts memory orders into a ring in the order page; the mapper carries
// them out and acknowledges in a file that no stub maps. Until the acknowledgement, what was
// unmapped is quarantined (Deferred), and tasks that depend on the orders are held. If anything
// breaks the protocol, or a deadline passes, the whole stub is killed and every context in it gets
// kDied. Rank of mu_: kAddressSpace.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "base/mutex.h"
#include "base/ref.h"
#include "base/unique_fd.h"
#include "host/event_loop.h"
#include "platform/platform.h"
#include "platform/systrap/host_mappings.h"
#include "platform/systrap/stub_thread.h"
#include "platform/systrap/sysmsg/sysmsg.h"

namespace caisson::systrap {

class Systrap;
class StubProcess;

// A host file in the stubs' descriptor table.
class SystrapFile : public platform::MappableFile {
 public:
  SystrapFile(Systrap& systrap, uint32_t number) : systrap_(systrap), number_(number) {}
  ~SystrapFile() override;
  uint32_t number() const { return number_; }
  // True if the zygote has installed it; otherwise `process` is pumped once it has.
  bool ready_or_wait(StubProcess& process);
  void installed(bool ok);
  bool failed() const { return failed_; }

 private:
  Systrap& systrap_;
  const uint32_t number_;
  std::atomic<bool> ready_{false};
  std::atomic<bool> failed_{false};
  Mutex<LockRank::kPlatform> mu_;
  std::vector<Ref<StubProcess>> waiters_ GUARDED_BY(mu_);
};

class StubProcess : public RefCounted<StubProcess> {
 public:
  static Result<Ref<StubProcess>> start(Systrap& systrap);
  ~StubProcess();

  // ---- Orders.
  void map(const platform::MapOrder& order) EXCLUDES(mu_);
  void unmap(uint64_t addr, uint64_t length) EXCLUDES(mu_);
  void protect(uint64_t addr, uint64_t length, int prot) EXCLUDES(mu_);
  void defer(std::unique_ptr<platform::Deferred> work) EXCLUDES(mu_);
  void count_private_waiters(int delta) {
    orders_->waiters.fetch_add(static_cast<uint32_t>(delta));
  }
  size_t recall_private_waiters() EXCLUDES(mu_);
  bool claim_image(uint32_t image, uint64_t base);
  const Shared<uint64_t>* images() const { return orders_->images; }
  size_t mapping_count() const EXCLUDES(mu_);

  // ---- Contexts.
  // A thread for `context`, or nullptr: then it is given one later (SystrapContext::set_thread).
  StubThread* take_thread(SystrapContext& context) EXCLUDES(mu_);
  void return_thread(StubThread& thread) EXCLUDES(mu_);
  // It will be returned: what it then has to do by itself may begin.
  void leave_soon(StubThread& thread) EXCLUDES(mu_);
  void end_leavers() EXCLUDES(mu_);
  void await_orders() EXCLUDES(mu_);
  // Whether the mapper is still to let `thread` run.
  bool is_to_wake(const StubThread& thread) const {
    return acked_hint_.load() < thread.wake_seq.load();
  }
  // Ends what place_fresh() has done to the mapper.
  void release_mapper(const cpu_set_t& cpus) EXCLUDES(mu_);
  void forget(SystrapContext& context) EXCLUDES(mu_);
  // Whether a task in here may go on at once: alive, and everything acknowledged that it must not
  // run before.
  bool quiet() const { return awaited_.load() == 0; }
  // Everything ordered is acknowledged.
  bool idle() const { return outstanding_.load() == 0; }
  // quiet(), after a look at what the mapper has acknowledged.
  bool becomes_quiet() {
    if (!quiet() && acks_changed()) process_acks();
    return quiet();
  }
  // Somebody has to look for acknowledgements.
  bool is_awaited() const { return !dead() && (!idle() || caller_awaited_.load()); }
  // Keeps `context` until it may go on; then calls its go(). Orders that only protect are given to
  // its own thread if nothing else is under way: that wakes nobody.
  void hold(SystrapContext& context) EXCLUDES(mu_);
  // Sends the interrupt signal to a thread that was in the guest at `word` of its phase, again and
  // again until it has answered, and kills the stub at the deadline.
  void interrupt_thread(StubThread& thread, uint64_t word) EXCLUDES(mu_);
  // The stub broke its protocol or must not live on.
  void kill(const char* why) EXCLUDES(mu_);
  bool dead() const { return dead_.load(); }

  // ---- Life cycle.
  // Empties the stub; afterwards Systrap may use it again.
  void recycle() EXCLUDES(mu_);
  // Prepares a stub from the pool for guests of `trust_domain`. Precondition: is_for() it.
  void reuse(uint64_t trust_domain) EXCLUDES(mu_);
  // Looks at the acknowledgement file; called by workers while orders are outstanding.
  bool acks_changed() const;
  // The task of `thread` goes with calls that its thread has not made: the mapper makes them.
  void take_back_calls(StubThread& thread, std::span<const CallerCall> calls) EXCLUDES(mu_);
  void process_acks() EXCLUDES(mu_);
  void pump() EXCLUDES(mu_);
  // A worker has done with a task: what it has ordered is posted.
  static void end_turn();
  void started(int32_t pid) EXCLUDES(mu_);
  void on_death(StubThread* thread) EXCLUDES(mu_);
  void order_deadline_passed(uint64_t seen) EXCLUDES(mu_);
  // Whether guests of `trust_domain` may have it: nobody else's threads may be in it, not even
  // killed ones.
  bool is_for(uint64_t trust_domain) const { return !used_ || trust_domain_ == trust_domain; }

  std::atomic<bool> ack_watched{false};  // on the workers' list

 private:
  enum class State : uint8_t { kStarting, kReady, kRecycling, kPooled, kDying, kGone };
  struct Pending {
    Order order;
    RefOrNull<SystrapFile> file;
    StubThread* thread = nullptr;  // for a clone order
    bool is_awaited = true;        // threads do not run before it is carried out
    uint64_t turn = 0;             // of the worker, see stub_process.cc
  };
  struct Quarantined {
    uint64_t seq;
    std::unique_ptr<platform::Deferred> work;
  };

  explicit StubProcess(Systrap& systrap) : systrap_(systrap) {}
  void queue_locked(Pending pending) REQUIRES(mu_);
  void pump_locked() REQUIRES(mu_);
  void pump_full_batch_locked() REQUIRES(mu_);
  bool await_orders_locked() REQUIRES(mu_);
  bool place_fresh(SystrapContext& context) EXCLUDES(mu_);
  bool give_calls_locked(SystrapContext& context) REQUIRES(mu_);
  bool calls_made_locked() REQUIRES(mu_);
  void request_thread_locked() REQUIRES(mu_);
  void reset_slot(StubThread& thread);
  void clean_slot(StubThread& thread);
  void finish_thread_locked() REQUIRES(mu_);
  void give_thread_locked(StubThread& thread) REQUIRES(mu_);
  void place_thread_locked(StubThread& thread) REQUIRES(mu_);
  bool start_leaving_locked(StubThread& thread) REQUIRES(mu_);
  void free_dead_thread_locked(StubThread& thread) REQUIRES(mu_);
  void collect_leavers_locked() REQUIRES(mu_);
  void kill_locked(const char* why) REQUIRES(mu_);
  void kill_thread_locked(StubThread& thread) REQUIRES(mu_);
  void gone_locked(std::vector<Quarantined>& release) REQUIRES(mu_);
  void arm_order_deadline_locked() REQUIRES(mu_);

  Systrap& systrap_;
  uint32_t index_ = 0;
  uint32_t ack_number_ = 0;
  UniqueFd ack_fd_;
  AckPage* ack_ = nullptr;
  OrderPage* orders_ = nullptr;
  // Changed while it is in nobody's hands but Systrap's.
  uint64_t trust_domain_ = 0;
  bool used_ = false;

  // Orders queued or posted, not acknowledged; at least 1 when dead.
  std::atomic<uint64_t> outstanding_{0};
  std::atomic<uint64_t> awaited_{0};     // the same of those that threads wait for
  std::atomic<uint64_t> acked_hint_{0};  // acked_seq_, for acks_changed()
  std::atomic<bool> dead_{false};
  // A stub thread that was given calls, or one that leaves and is waited for; no order may be
  // posted before it has made them. `awaited`:
  // an order waits for that.
  std::atomic<StubThread*> caller_{nullptr};
  std::atomic<bool> caller_awaited_{false};
  // A task that is held has been given a thread that left another.
  std::atomic<bool> thread_given_{false};

  mutable Mutex<LockRank::kAddressSpace> mu_;
  State state_ GUARDED_BY(mu_) = State::kStarting;
  UniqueFd mapper_pidfd_ GUARDED_BY(mu_);
  int mapper_tid_ GUARDED_BY(mu_) = 0;
  bool mapper_is_placed_ GUARDED_BY(mu_) = false;
  std::deque<Pending> pending_ GUARDED_BY(mu_);
  size_t pending_protects_ GUARDED_BY(mu_) = 0;
  bool is_empty_ GUARDED_BY(mu_) = false;    // the last order of memory unmapped everything
  uint64_t callers_ GUARDED_BY(mu_) = 0;     // how often calls were given to a thread
  uint64_t queued_seq_ GUARDED_BY(mu_) = 0;  // orders queued so far
  uint64_t posted_seq_ GUARDED_BY(mu_) = 0;  // orders in the ring or done
  uint64_t acked_seq_ GUARDED_BY(mu_) = 0;
  std::deque<uint64_t> unawaited_ GUARDED_BY(mu_);  // posted orders that nobody waits for
  uint64_t clone_seq_ GUARDED_BY(mu_) = 0;          // the clone order in flight, 0 if none
  uint64_t recycle_seq_ GUARDED_BY(mu_) = 0;
  StubThread* cloning_ GUARDED_BY(mu_) = nullptr;
  std::deque<std::pair<uint64_t, RefOrNull<SystrapFile>>> files_ GUARDED_BY(mu_);
  std::deque<Quarantined> deferred_ GUARDED_BY(mu_);
  std::vector<SystrapContext*> held_ GUARDED_BY(mu_);
  // Threads that recall_private_waiters() has interrupted, with the phase that they must leave.
  std::vector<std::pair<StubThread*, uint64_t>> recalled_ GUARDED_BY(mu_);
  std::deque<SystrapContext*> want_thread_ GUARDED_BY(mu_);
  std::vector<StubThread*> threads_ GUARDED_BY(mu_);  // all, parked or not
  std::vector<StubThread*> parked_ GUARDED_BY(mu_);
  // Threads whose task has left and which still take back its rseq(2) registration: neither may
  // another task have them, nor may the memory that it is in go, before that is done.
  std::vector<StubThread*> leaving_ GUARDED_BY(mu_);
  int threads_requested_ GUARDED_BY(mu_) = 0;
  int alive_ GUARDED_BY(mu_) = 0;  // host threads whose death has not been seen
  bool deadline_armed_ GUARDED_BY(mu_) = false;
  HostMappings mappings_ GUARDED_BY(mu_);
};

// A guest address space: the use of one StubProcess from new_address_space() to the last reference.
class SystrapAddressSpace : public platform::AddressSpace {
 public:
  explicit SystrapAddressSpace(Ref<StubProcess> process) : process_(std::move(process)) {}
  ~SystrapAddressSpace() override { process_->recycle(); }
  StubProcess& process() { return *process_; }

  void map(const platform::MapOrder& order) override { process_->map(order); }
  void await_orders() override { process_->await_orders(); }
  void unmap(GuestAddr addr, uint64_t length) override { process_->unmap(addr, length); }
  void protect(GuestAddr addr, uint64_t length, int prot) override {
    process_->protect(addr, length, prot);
  }
  void defer(std::unique_ptr<platform::Deferred> work) override {
    process_->defer(std::move(work));
  }
  void count_private_waiters(int delta) override { process_->count_private_waiters(delta); }
  size_t recall_private_waiters() override { return process_->recall_private_waiters(); }
  size_t mapping_count() const override { return process_->mapping_count(); }
  bool claim_image(uint32_t image, uint64_t base) override {
    return process_->claim_image(image, base);
  }

 private:
  Ref<StubProcess> process_;
};

}  // namespace caisson::systrap
