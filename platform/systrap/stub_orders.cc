// The orders of a StubProcess: queued, posted to the mapper or given to a stub thread,
// acknowledged.
#include <linux/futex.h>
#include <sys/mman.h>

#include <algorithm>

#include "host/raw_syscall.h"
#include "platform/systrap/context.h"
#include "platform/systrap/stub_process.h"
#include "platform/systrap/systrap.h"

namespace caisson::systrap {
namespace {

using host::raw_arg;
using host::raw_syscall;

constexpr uint64_t kOrderDeadlineNs = 20'000'000'000u;

// Orders are posted together, at the latest when there are this many.
constexpr size_t kBatch = 16;

// What one worker does for one task is a turn: orders of the turn are that task's own.
std::atomic<uint64_t> next_turn{1};
thread_local uint64_t turn = 0;
// Where this worker has left orders unposted in this turn.
thread_local std::vector<Ref<StubProcess>> unposted;

// The orders of a stub have made no progress for a whole deadline.
class OrderDeadline : public host::DeadlineTarget {
 public:
  OrderDeadline(Ref<StubProcess> process, uint64_t seen)
      : process_(std::move(process)), seen_(seen) {}
  void expired(uint64_t) override { process_->order_deadline_passed(seen_); }

 private:
  Ref<StubProcess> process_;
  uint64_t seen_;
};

}  // namespace

SystrapFile::~SystrapFile() {
  Systrap& systrap = systrap_;
  uint32_t number = number_;
  if (failed_) {
    systrap.free_number(number);
    return;
  }
  systrap.zygote().send(CommandKind::kClose, number, 0, -1,
                        [&systrap, number](int32_t) { systrap.free_number(number); });
}

bool SystrapFile::ready_or_wait(StubProcess& process) {
  if (ready_) return true;
  MutexLock lock(mu_);
  if (ready_) return true;
  waiters_.emplace_back(process);
  return false;
}

void SystrapFile::installed(bool ok) {
  std::vector<Ref<StubProcess>> waiters;
  {
    MutexLock lock(mu_);
    failed_ = !ok;
    ready_ = true;
    waiters.swap(waiters_);
  }
  for (auto& process : waiters) process->pump();
}

void StubProcess::queue_locked(Pending pending) {
  if (state_ == State::kDying || state_ == State::kGone) return;
  pending.order.seq = ++queued_seq_;
  pending.turn = turn;
  outstanding_.fetch_add(1);
  if (pending.is_awaited) awaited_.fetch_add(1);
  if (pending.order.nr == SYS_mprotect) ++pending_protects_;
  pending_.push_back(std::move(pending));
  if (Workers::is_worker() &&
      std::none_of(unposted.begin(), unposted.end(),
                   [this](const Ref<StubProcess>& process) { return process.get() == this; }))
    unposted.emplace_back(*this);
}

// Threads wait for everything that is ordered. False: that is all done.
bool StubProcess::await_orders_locked() {
  uint64_t more = unawaited_.size();
  unawaited_.clear();
  for (Pending& pending : pending_) {
    more += pending.is_awaited ? 0 : 1;
    pending.is_awaited = true;
  }
  return awaited_.fetch_add(more) + more != 0;
}

void StubProcess::await_orders() {
  MutexLock lock(mu_);
  (void)await_orders_locked();
}

void StubProcess::map(const platform::MapOrder& order) {
  Pending pending;
  pending.is_awaited = order.is_awaited;
  uint64_t flags = MAP_SHARED | MAP_FIXED | (order.populate ? MAP_POPULATE : 0);
  uint64_t fd = FD_MEMORY;
  uint64_t origin = 0;
  if (order.backing == platform::Backing::kMemoryReadOnly) fd = FD_MEMORY_RO;
  if (order.backing == platform::Backing::kPatched) fd = FD_CALLS_RO;
  if (order.backing == platform::Backing::kFile) {
    auto* file = static_cast<SystrapFile*>(order.file);
    pending.file = RefOrNull<SystrapFile>(file);
    fd = file->number();
  }
  origin = fd;
  constexpr uint64_t kHugeOrigin = uint64_t{1} << 32;
  if (order.huge) origin |= kHugeOrigin;  // the host does not join it with others
  pending.order = {
      SYS_mmap,
      {order.addr, order.length, static_cast<uint64_t>(order.prot), flags, fd, order.offset},
      0};
  MutexLock lock(mu_);
  if (order.is_repeated && await_orders_locked()) return;
  mappings_.map(order.addr, order.addr + order.length, origin, order.offset, order.prot);
  is_empty_ = false;
  queue_locked(std::move(pending));
  if (order.huge) {
    Pending advice;
    advice.is_awaited = order.is_awaited;
    advice.order = {SYS_madvise, {order.addr, order.length, MADV_HUGEPAGE, 0, 0, 0}, 0};
    queue_locked(std::move(advice));
  }
  pump_full_batch_locked();
}

void StubProcess::unmap(uint64_t addr, uint64_t length) {
  Pending pending;
  pending.order = {SYS_munmap, {addr, length, 0, 0, 0, 0}, 0};
  MutexLock lock(mu_);
  mappings_.unmap(addr, addr + length);
  is_empty_ = addr <= systrap_.min_user_address() && addr + length >= Systrap::kMaxUserAddress;
  queue_locked(std::move(pending));
  pump_full_batch_locked();
}

void StubProcess::protect(uint64_t addr, uint64_t length, int prot) {
  Pending pending;
  pending.order = {SYS_mprotect, {addr, length, static_cast<uint64_t>(prot), 0, 0, 0}, 0};
  MutexLock lock(mu_);
  mappings_.protect(addr, addr + length, prot);
  queue_locked(std::move(pending));
  pump_full_batch_locked();
}

// Orders wait for the end of the turn, so that the mapper is woken once. Who has no turns posts.
void StubProcess::pump_full_batch_locked() {
  if (pending_.size() >= kBatch || !Workers::is_worker()) pump_locked();
}

void StubProcess::end_turn() {
  // Above the other workers' turns.
  if (turn == 0) turn = next_turn.fetch_add(1) << 40;
  ++turn;
  // Posting may end a process, which may queue orders.
  for (std::vector<Ref<StubProcess>> now; !unposted.empty();) {
    now.swap(unposted);
    for (Ref<StubProcess>& process : now) process->pump();
    now.clear();
  }
}

void StubProcess::defer(std::unique_ptr<platform::Deferred> work) {
  {
    MutexLock lock(mu_);
    if (state_ != State::kGone && (acked_seq_ < queued_seq_ || state_ == State::kDying)) {
      deferred_.push_back({queued_seq_, std::move(work)});
      orders_->ring.store(1);  // a worker looks for acknowledgements before it sleeps
      return;
    }
  }
  work->run();
}

size_t StubProcess::recall_private_waiters() {
  bool first = orders_->answers.exchange(0) != 0;
  std::vector<std::pair<StubThread*, uint64_t>> told;
  size_t outstanding = 0;
  {
    MutexLock lock(mu_);
    if (first) {
      // All that are in the guest: who is about to wait has not said so yet.
      for (StubThread* thread : threads_) {
        uint64_t word = thread->phase().load();
        if (StubThread::phase_of(word) == Phase::kGuest) recalled_.emplace_back(thread, word);
      }
    }
    std::erase_if(recalled_,
                  [](const auto& item) { return item.first->phase().load() != item.second; });
    if (first) told = recalled_;
    outstanding = recalled_.size();
  }
  for (auto [thread, word] : told) interrupt_thread(*thread, word);
  return outstanding;
}

bool StubProcess::claim_image(uint32_t image, uint64_t base) {
  if (base == 0) return false;  // 0: nowhere
  uint64_t there = 0;
  return orders_->images[image].compare_exchange_strong(there, base) || there == base;
}

size_t StubProcess::mapping_count() const {
  MutexLock lock(mu_);
  return mappings_.count();
}

void StubProcess::pump() {
  MutexLock lock(mu_);
  pump_locked();
}

void StubProcess::pump_locked() {
  if (state_ == State::kStarting || state_ == State::kDying || state_ == State::kGone) return;
  if (!pending_.empty() && !calls_made_locked()) return;
  bool posted = false;
  while (!pending_.empty() && posted_seq_ - acked_seq_ < ORDER_RING) {
    Pending& next = pending_.front();
    if (next.file) {
      if (!next.file->ready_or_wait(*this)) break;
      if (next.file->failed()) {
        kill_locked("a file could not be passed to the stubs");
        return;
      }
    }
    if (next.thread != nullptr) {
      if (clone_seq_ != 0) break;  // its id would overwrite the one that is on its way
      clone_seq_ = next.order.seq;
      cloning_ = next.thread;
    }
    if (next.order.nr == SYS_mprotect) --pending_protects_;
    if (!next.is_awaited) unawaited_.push_back(next.order.seq);
    orders_->entries[posted_seq_ % ORDER_RING] = next.order;
    if (next.file) files_.emplace_back(next.order.seq, std::move(next.file));
    posted_seq_ = next.order.seq;
    pending_.pop_front();
    posted = true;
  }
  // What is left waits for an acknowledgement; a worker looks for one before it sleeps.
  if (!pending_.empty()) orders_->ring.store(1);
  if (!posted) return;
  bool awaited = !held_.empty() || !deferred_.empty() || !pending_.empty() || clone_seq_ != 0 ||
                 recycle_seq_ != 0;
  orders_->ring.store(awaited ? 1 : 0);
  // Watched first: the mapper rings nobody while a worker polls, and that one must find it on the
  // list.
  if (!ack_watched.exchange(true)) systrap_.workers().watch_acks(Ref<StubProcess>(*this));
  orders_->tail.store(static_cast<uint32_t>(posted_seq_));
  raw_syscall(SYS_futex, raw_arg(&orders_->tail), FUTEX_WAKE, 1).ignore();
  arm_order_deadline_locked();
}

// Gives the pending orders to the thread of `context` if that is possible.
bool StubProcess::give_calls_locked(SystrapContext& context) {
  StubThread* thread = context.thread();
  // Held tasks wait for an acknowledgement, which these orders would not bring.
  if (!systrap_.stub_calls() || thread == nullptr || pending_.empty() || !held_.empty() ||
      pending_protects_ != pending_.size() || posted_seq_ != acked_seq_ ||
      (!deferred_.empty() && deferred_.back().seq > posted_seq_) ||
      !context.has_room_for_calls(pending_.size()) ||
      std::any_of(
          pending_.begin(), pending_.end(),
          [](const Pending& next) { return next.turn != turn || next.order.args[1] > STUB_GAP; }) ||
      !calls_made_locked())
    return false;
  size_t count = pending_.size();
  for (const Pending& next : pending_)
    context.add_call({CALL_PROTECT, {next.order.args[0], next.order.args[1], next.order.args[2]}});
  pending_.clear();
  pending_protects_ = 0;
  queued_seq_ -= count;
  outstanding_.fetch_sub(count);
  awaited_.fetch_sub(count);
  ++callers_;
  thread->slot().calls.store(context.call_count());
  caller_.store(thread);
  return true;
}

// Whether no thread has calls to make any more; otherwise process_acks() is called once it has.
bool StubProcess::calls_made_locked() {
  collect_leavers_locked();
  for (;;) {
    StubThread* thread = caller_.load();
    if (thread == nullptr) {
      if (leaving_.empty()) return true;
      caller_.store(thread = leaving_.front());
    }
    Shared<uint32_t>& calls = thread->slot().calls;
    if ((calls.load() & CALLS_COUNT_MASK) != 0 &&
        (calls.fetch_or(CALLS_AWAITED) & CALLS_COUNT_MASK) != 0) {
      caller_awaited_.store(true);
      if (!ack_watched.exchange(true)) systrap_.workers().watch_acks(Ref<StubProcess>(*this));
      arm_order_deadline_locked();
      return false;
    }
    caller_.store(nullptr);
    caller_awaited_.store(false);
    collect_leavers_locked();
    if (state_ == State::kDying) return false;
  }
}

void StubProcess::take_back_calls(StubThread& thread, std::span<const CallerCall> calls) {
  MutexLock lock(mu_);
  if (caller_.load() != &thread || state_ == State::kDying || state_ == State::kGone) return;
  std::vector<Pending> orders;
  for (const CallerCall& call : calls) {
    if (call.kind != CALL_PROTECT) continue;
    Pending pending;
    pending.order = {SYS_mprotect, {call.args[0], call.args[1], call.args[2], 0, 0, 0}, 0};
    orders.push_back(std::move(pending));
  }
  thread.slot().calls.store(0);
  caller_.store(nullptr);
  caller_awaited_.store(false);
  // Before everything that has come since; nothing was posted meanwhile.
  size_t count = orders.size();
  for (Pending& pending : pending_) pending.order.seq += count;
  for (Quarantined& item : deferred_) {
    if (item.seq > posted_seq_) item.seq += count;
  }
  if (recycle_seq_ > posted_seq_) recycle_seq_ += count;
  queued_seq_ += count;
  outstanding_.fetch_add(count);
  awaited_.fetch_add(count);
  pending_protects_ += count;
  for (size_t i = count; i-- > 0;) {
    orders[i].order.seq = posted_seq_ + i + 1;
    pending_.push_front(std::move(orders[i]));
  }
  pump_locked();
}

void StubProcess::arm_order_deadline_locked() {
  if (deadline_armed_) return;
  deadline_armed_ = true;
  systrap_.event_loop().add_deadline(
      host::monotonic_ns() + kOrderDeadlineNs,
      make_ref<OrderDeadline>(Ref<StubProcess>(*this), acked_seq_ + callers_));
}

void StubProcess::order_deadline_passed(uint64_t seen) {
  process_acks();
  MutexLock lock(mu_);
  deadline_armed_ = false;
  if (state_ == State::kDying || state_ == State::kGone) return;
  pump_locked();  // the caller may have been done since
  if (state_ == State::kDying) return;
  bool awaits_caller = (!pending_.empty() || !want_thread_.empty()) && !calls_made_locked();
  if (posted_seq_ == acked_seq_ && !awaits_caller) return;
  if (acked_seq_ + callers_ == seen) {
    kill_locked(awaits_caller ? "a stub thread does not make its calls"
                              : "a mapper does not answer");
    return;
  }
  arm_order_deadline_locked();
}

bool StubProcess::acks_changed() const {
  if (dead()) return false;
  if (thread_given_.load()) return true;
  StubThread* caller = caller_.load();
  if (caller != nullptr && caller_awaited_.load() &&
      (caller->slot().calls.load() & CALLS_COUNT_MASK) == 0)
    return true;
  return ack_->failed.load() != 0 || ack_->done.load() != acked_hint_.load();
}

void StubProcess::process_acks() {
  std::vector<Quarantined> release;
  std::vector<SystrapContext*> go;
  bool pooled = false;
  {
    MutexLock lock(mu_);
    if (state_ == State::kDying || state_ == State::kGone) return;
    if (ack_->failed.load() != 0) {
      kill_locked("the host refused a memory order");
      return;
    }
    thread_given_.store(false);
    uint64_t done = ack_->done.load();
    if (done < acked_seq_ || done > posted_seq_) {
      kill_locked("a mapper acknowledged what was not ordered");
      return;
    }
    uint64_t count = done - acked_seq_;
    outstanding_.fetch_sub(count);
    for (; !unawaited_.empty() && unawaited_.front() <= done; --count) unawaited_.pop_front();
    awaited_.fetch_sub(count);
    acked_seq_ = done;
    acked_hint_.store(done);
    while (!files_.empty() && files_.front().first <= done) files_.pop_front();
    if (!leaving_.empty()) (void)calls_made_locked();
    if (state_ == State::kDying) return;
    if (clone_seq_ != 0 && done >= clone_seq_) finish_thread_locked();
    pump_locked();
    while (!deferred_.empty() && deferred_.front().seq <= done) {
      release.push_back(std::move(deferred_.front()));
      deferred_.pop_front();
    }
    if (state_ == State::kRecycling && acked_seq_ >= recycle_seq_) {
      state_ = State::kPooled;
      pooled = true;
    }
    if (outstanding_.load() == 0) {
      std::erase_if(held_, [&](SystrapContext* context) {
        if (context->thread() == nullptr) return false;
        if (context->held.exchange(false)) go.push_back(context);
        return true;
      });
    }
  }
  for (auto& item : release) item.work->run();
  for (SystrapContext* context : go) context->go();
  if (pooled && !systrap_.give_back(Ref<StubProcess>(*this))) kill("the pool is full");
}

// A program is to begin where nobody polls for it.
bool StubProcess::place_fresh(SystrapContext& context) {
  const cpu_set_t* cpus = systrap_.workers().elsewhere();
  if (cpus == nullptr) return false;
  MutexLock lock(mu_);
  if (!mapper_pidfd_ || !context.place(*cpus)) return false;
  raw_syscall(SYS_sched_setaffinity, mapper_tid_, sizeof *cpus, raw_arg(cpus)).ignore();
  mapper_is_placed_ = true;
  return true;
}

void StubProcess::release_mapper(const cpu_set_t& cpus) {
  MutexLock lock(mu_);
  if (!mapper_pidfd_) return;
  raw_syscall(SYS_sched_setaffinity, mapper_tid_, sizeof cpus, raw_arg(&cpus)).ignore();
  mapper_is_placed_ = false;
}

void StubProcess::hold(SystrapContext& context) {
  bool by_mapper = false;
  // Once the mapper is told to let the thread run, there is no way back.
  if (context.take_interrupt()) return;
  {
    MutexLock lock(mu_);
    if (state_ != State::kDying && state_ != State::kGone) {
      if (give_calls_locked(context)) {
        std::erase_if(unposted, [this](const Ref<StubProcess>& p) { return p.get() == this; });
      } else if (context.thread() == nullptr || state_ == State::kRecycling) {
        pump_locked();
        if (context.thread() == nullptr || !idle()) {
          held_.push_back(&context);
          context.held.store(true);
          orders_->ring.store(1);  // a worker looks for acknowledgements before it sleeps
          Workers::lets_go(false, true);
          ++turn;
          return;
        }
      } else {
        by_mapper = !quiet();
      }
    }
  }
  ++turn;
  if (dead()) {
    context.post(platform::EventKind::kDied);
    return;
  }
  if (!by_mapper) {
    context.go();
    return;
  }
  // The mapper lets it run, after the orders before. Told only when the thread is the guest's:
  // anybody may post what is queued.
  Ref<StubProcess> keep(*this);
  StubThread& thread = *context.thread();
  uint64_t state = thread.address() + SLOT_STATE;
  const bool is_placed = context.is_fresh() && place_fresh(context);
  context.go(false);
  if (is_placed) systrap_.workers().placed(thread, keep);
  Pending wake;
  wake.order = {ORDER_NR_WAKE, {state, 0, 0, 0, 0, 0}, 0};
  wake.is_awaited = false;
  MutexLock lock(mu_);
  queue_locked(std::move(wake));
  thread.wake_seq.store(queued_seq_);
  pump_locked();
}

}  // namespace caisson::systrap
