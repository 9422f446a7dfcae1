#include "platform/systrap/stub_process.h"

#include <linux/futex.h>
#include <linux/rseq.h>
#include <signal.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "base/log.h"
#include "host/raw_syscall.h"
#include "platform/systrap/context.h"
#include "platform/systrap/stub_image.h"
#include "platform/systrap/systrap.h"

namespace caisson::systrap {
namespace {

using host::raw_arg;
using host::raw_syscall;

constexpr size_t kMaxParkedThreads = 4;
constexpr uint64_t kInterruptRetryNs = 100'000'000u;
constexpr uint64_t kParkedRetryNs = 1'000'000u;
constexpr int kInterruptTries = 50;
constexpr uint64_t kLeaverDeadlineNs = 100'000'000u;

UniqueFd open_pidfd(int pid) {
  auto fd = raw_syscall(SYS_pidfd_open, pid, 0);
  return UniqueFd(fd.ok() ? static_cast<int>(fd.value()) : -1);
}
void send_signal(const UniqueFd& pidfd, int signal) {
  if (pidfd) raw_syscall(SYS_pidfd_send_signal, pidfd.get(), signal, 0, 0).ignore();
}

// A mapper or a stub thread has died.
class DeathWatch : public host::FdWatcher {
 public:
  DeathWatch(Ref<StubProcess> process, StubThread* thread)
      : process_(std::move(process)), thread_(thread) {}
  void ready(uint32_t) override {
    if (!seen_.exchange(true)) process_->on_death(thread_);
  }

 private:
  Ref<StubProcess> process_;
  StubThread* thread_;
  std::atomic<bool> seen_{false};
};

// Repeats an interrupt until the thread has moved on.
class InterruptRetry : public host::DeadlineTarget {
 public:
  InterruptRetry(host::EventLoop& loop, Ref<StubProcess> process, StubThread& thread, uint64_t word)
      : loop_(loop), process_(std::move(process)), thread_(thread), word_(word) {}
  void expired(uint64_t) override {
    if (thread_.phase().load() != word_) return;
    if (tries_ > kInterruptTries) {
      process_->kill("a stub thread does not answer an interrupt");
      return;
    }
    send_signal(thread_.pidfd, SIGUSR1);
    arm();
  }
  // A thread that waits for the mapper takes no notice; the order's deadline is enough.
  void arm() {
    const bool waits = process_->is_to_wake(thread_);
    if (!waits) ++tries_;
    loop_.add_deadline(host::monotonic_ns() + (waits ? kParkedRetryNs : kInterruptRetryNs),
                       Ref<host::DeadlineTarget>(*this));
  }

 private:
  host::EventLoop& loop_;
  Ref<StubProcess> process_;
  StubThread& thread_;
  const uint64_t word_;
  int tries_ = 0;
};

// The stub is to be emptied, and threads still have something to take back.
class LeaverDeadline : public host::DeadlineTarget {
 public:
  explicit LeaverDeadline(Ref<StubProcess> process) : process_(std::move(process)) {}
  void expired(uint64_t) override { process_->end_leavers(); }

 private:
  Ref<StubProcess> process_;
};

}  // namespace

Result<Ref<StubProcess>> StubProcess::start(Systrap& systrap) {
  Ref<StubProcess> process = adopt_ref(new StubProcess(systrap));
  process->ack_fd_.reset(memfd_create("caisson-ack", MFD_CLOEXEC));
  if (!process->ack_fd_) return Errno(errno);
  if (ftruncate(process->ack_fd_.get(), 4096) < 0) return Errno(errno);
  void* mapped = mmap(nullptr, 4096, PROT_READ, MAP_SHARED, process->ack_fd_.get(), 0);
  if (mapped == MAP_FAILED) return Errno(errno);
  process->ack_ = static_cast<AckPage*>(mapped);
  process->index_ = systrap.allocate_index();
  process->ack_number_ = systrap.allocate_number();
  process->orders_ = &systrap.memory().orders(process->index_);
  process->orders_->tail.store(0);
  process->orders_->ack_fd = process->ack_number_;
  process->orders_->answers.store(systrap.stub_answers() ? 1 : 0);
  process->orders_->waiters.store(0);
  process->ref();
  StubProcess* raw = process.get();
  systrap.zygote().send(CommandKind::kStub, process->ack_number_, process->index_,
                        process->ack_fd_.get(), [raw](int32_t pid) {
                          raw->started(pid);
                          raw->unref();
                        });
  MutexLock lock(process->mu_);
  process->request_thread_locked();
  return process;
}

StubProcess::~StubProcess() {
  if (ack_ != nullptr) munmap(const_cast<AckPage*>(ack_), 4096);
}

void StubProcess::started(int32_t pid) {
  UniqueFd pidfd = pid > 0 ? open_pidfd(pid) : UniqueFd();
  int fd = pidfd.get();
  {
    MutexLock lock(mu_);
    if (state_ == State::kStarting) state_ = recycle_seq_ != 0 ? State::kRecycling : State::kReady;
    if (fd < 0) {
      LOG_WARNING("a stub process could not be started: %d", pid);
      kill_locked("the stub could not be started");
    } else {
      ++alive_;
      mapper_pidfd_ = std::move(pidfd);
      mapper_tid_ = pid;
      if (state_ == State::kDying) send_signal(mapper_pidfd_, SIGKILL);
      pump_locked();
    }
  }
  if (fd >= 0) {
    auto watch = make_ref<DeathWatch>(Ref<StubProcess>(*this), nullptr);
    if (!systrap_.event_loop().watch(fd, EPOLLIN, Ref<host::FdWatcher>(std::move(watch))).ok())
      kill("no room to watch a stub");
  } else {
    on_death(nullptr);
  }
}

// ---- Threads.

void StubProcess::request_thread_locked() {
  StubThread* thread = systrap_.allocate_thread();
  if (thread == nullptr) {
    kill_locked("all slots are in use");
    return;
  }
  thread->process = this;
  thread->tid = 0;
  thread->cpu_base_ns = 0;
  // It is made by the mapper, and has what that has.
  thread->scheduling_id = mapper_is_placed_ ? UINT64_MAX : 0;
  thread->wake_seq.store(0);
  thread->nice = systrap_.nice();
  thread->rseq = {};
  thread->is_leaving = false;
  thread->was_interrupted.store(false);
  systrap_.memory().discard_slot(thread->id());
  thread->slot().state.store(SLOT_STATE_PARKED);
  reset_slot(*thread);
  threads_.push_back(thread);
  ++threads_requested_;

  Pending map;
  map.order = {SYS_mmap,
               {thread->address(), SLOT_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                FD_CONTROL, SharedMemory::slot_offset(thread->id())},
               0};
  queue_locked(std::move(map));
  Pending clone;
  clone.order = {ORDER_NR_CLONE, {thread->address(), 0, 0, 0, 0, 0}, 0};
  clone.thread = thread;
  queue_locked(std::move(clone));
}

void StubProcess::finish_thread_locked() {
  StubThread& thread = *cloning_;
  clone_seq_ = 0;
  cloning_ = nullptr;
  --threads_requested_;
  long tid = lseek(ack_fd_.get(), 0, SEEK_CUR);
  if (tid <= 0) {
    kill_locked("a stub thread could not be made");
    return;
  }
  thread.tid = static_cast<int>(tid);
  thread.pidfd = open_pidfd(thread.tid);
  if (!thread.pidfd) {
    kill_locked("a new stub thread is gone");
    return;
  }
  ++alive_;
  thread.start_generation(Phase::kOwned);
  systrap_.workers().register_thread(thread);
  auto watch = make_ref<DeathWatch>(Ref<StubProcess>(*this), &thread);
  if (!systrap_.event_loop()
           .watch(thread.pidfd.get(), EPOLLIN, Ref<host::FdWatcher>(std::move(watch)))
           .ok()) {
    kill_locked("no room to watch a stub thread");
    return;
  }
  if (want_thread_.empty()) {
    parked_.push_back(&thread);
    return;
  }
  give_thread_locked(thread);
}

// The state word stays: a thread waits on it.
void StubProcess::reset_slot(StubThread& thread) {
  Slot& slot = thread.slot();
  thread.has_frame = thread.at_gate = thread.in_call = false;
  thread.is_blocked = true;
  memset(reinterpret_cast<std::byte*>(&slot) + SLOT_WAITING, 0, sizeof slot - SLOT_WAITING);
  slot.self = thread.address();
  slot.gate = systrap_.memory().stub_base() + stub_header().gate;
  slot.frame = SLOT_LAID;
}

// What a former guest may have written is nothing to start from.
void StubProcess::clean_slot(StubThread& thread) {
  constexpr size_t kFrames = 0x2000;  // where host signal frames lie: what is left of former ones
  auto* bytes = reinterpret_cast<std::byte*>(&thread.slot());
  memset(bytes + SLOT_SIZE - kFrames, 0, kFrames);
  memset(bytes + SLOT_LAID, 0, SLOT_LAID_VECTOR - SLOT_LAID + systrap_.vector_state().size());
  reset_slot(thread);
}

void StubProcess::give_thread_locked(StubThread& thread) {
  clean_slot(thread);
  thread.context = want_thread_.front();
  thread.context->set_thread(&thread);
  want_thread_.pop_front();
}

StubThread* StubProcess::take_thread(SystrapContext& context) {
  MutexLock lock(mu_);
  if (state_ == State::kDying || state_ == State::kGone) return nullptr;
  if (!leaving_.empty()) collect_leavers_locked();
  StubThread* thread = nullptr;
  if (!parked_.empty()) {
    thread = parked_.back();
    parked_.pop_back();
    clean_slot(*thread);
    thread->context = &context;
    thread->cpu_base_ns = thread->host_cpu_ns();
  } else {
    want_thread_.push_back(&context);
  }
  // A process that makes threads makes more: keep one in hand, off the caller's path.
  bool several = threads_.size() - parked_.size() > 1;
  while (static_cast<size_t>(threads_requested_) + leaving_.size() <
         want_thread_.size() + (several && parked_.empty() ? 1 : 0)) {
    size_t before = threads_.size();
    request_thread_locked();
    if (threads_.size() == before) break;
  }
  // Else the task's own turn posts what it has ordered, all together.
  if (thread == nullptr) pump_locked();
  if (!want_thread_.empty() && !leaving_.empty()) (void)calls_made_locked();
  return thread;
}

void StubProcess::return_thread(StubThread& thread) {
  systrap_.workers().remove_running(thread);
  MutexLock lock(mu_);
  thread.context = nullptr;
  if (state_ == State::kDying) return;
  // Its calls are made or taken back; the slot may soon be another process's.
  if (caller_.load() == &thread) {
    thread.slot().calls.store(0);
    caller_.store(nullptr);
    if (caller_awaited_.exchange(false)) pump_locked();
    if (state_ == State::kDying) return;
  }
  if (state_ == State::kGone) {
    thread.start_generation(Phase::kGone);
    systrap_.free_thread(thread);
    return;
  }
  const Phase phase = StubThread::phase_of(thread.phase().load());
  if (phase == Phase::kGone && thread.is_leaving) {  // seen by on_death()
    free_dead_thread_locked(thread);
    return;
  }
  if (phase != Phase::kOwned) {
    kill_locked("a task left while its thread was in the guest");
    return;
  }
  // A nice value can't be taken back: the host would ask for a right that we have given up. An
  // interrupt may still be on its way, and its frames may be anywhere on the stack.
  if (thread.nice > systrap_.nice() || thread.was_interrupted.load()) {
    kill_thread_locked(thread);
    return;
  }
  if (!start_leaving_locked(thread)) {
    place_thread_locked(thread);
    return;
  }
  leaving_.push_back(&thread);
  if (!want_thread_.empty()) (void)calls_made_locked();
}

void StubProcess::leave_soon(StubThread& thread) {
  MutexLock lock(mu_);
  if (state_ == State::kDying || state_ == State::kGone || caller_.load() == &thread ||
      StubThread::phase_of(thread.phase().load()) != Phase::kOwned)
    return;
  if (thread.nice > systrap_.nice() || thread.was_interrupted.load())
    thread.is_leaving = true;  // it will be killed, if the host does not do that before
  else
    (void)start_leaving_locked(thread);
}

void StubProcess::place_thread_locked(StubThread& thread) {
  if (!want_thread_.empty())
    give_thread_locked(thread);
  else if (parked_.size() >= kMaxParkedThreads)
    kill_thread_locked(thread);
  else
    parked_.push_back(&thread);
}

// The host would write to the registered area whenever the thread runs, and end it if the memory is
// gone: so it takes the registration back before anything else happens, and parks itself.
// False: there is nothing to take back.
bool StubProcess::start_leaving_locked(StubThread& thread) {
  if (thread.is_leaving) return true;
  if (thread.rseq.length == 0) return false;
  thread.is_leaving = true;
  Slot& slot = thread.slot();
  slot.call[0] = rseq_call(thread.rseq, RSEQ_FLAG_UNREGISTER, EINVAL);
  slot.calls.store(1);
  slot.resume = SLOT_RESUME_PARK;
  if (slot.state.exchange(SLOT_STATE_RUN) != SLOT_STATE_REQUEST)
    raw_syscall(SYS_futex, raw_arg(&slot.state), FUTEX_WAKE, 1).ignore();
  return true;
}

void StubProcess::collect_leavers_locked() {
  for (size_t i = 0; i < leaving_.size();) {
    StubThread& thread = *leaving_[i];
    if ((thread.slot().calls.load() & CALLS_COUNT_MASK) != 0) {
      ++i;
      continue;
    }
    leaving_.erase(leaving_.begin() + static_cast<long>(i));
    if (caller_.load() == &thread) {
      caller_.store(nullptr);
      caller_awaited_.store(false);
    }
    thread.rseq = {};
    thread.is_leaving = false;
    if (!want_thread_.empty()) {
      thread_given_.store(true);
      if (!ack_watched.exchange(true)) systrap_.workers().watch_acks(Ref<StubProcess>(*this));
    }
    place_thread_locked(thread);
  }
}

void StubProcess::forget(SystrapContext& context) {
  MutexLock lock(mu_);
  std::erase(want_thread_, &context);
  std::erase(held_, &context);
}

// Hostile ones, or a machine that is very busy.
void StubProcess::end_leavers() {
  MutexLock lock(mu_);
  if (state_ == State::kDying || state_ == State::kGone) return;
  collect_leavers_locked();
  for (StubThread* thread : leaving_) {
    if (caller_.load() == thread) {
      caller_.store(nullptr);
      caller_awaited_.store(false);
    }
    kill_thread_locked(*thread);
  }
  leaving_.clear();
  pump_locked();
}

void StubProcess::interrupt_thread(StubThread& thread, uint64_t word) {
  // Before a last look: return_thread() looks at it after the phase has changed.
  thread.was_interrupted.store(true);
  if (thread.phase().load() != word) return;
  send_signal(thread.pidfd, SIGUSR1);
  make_ref<InterruptRetry>(systrap_.event_loop(), Ref<StubProcess>(*this), thread, word)->arm();
}

void StubProcess::kill_thread_locked(StubThread& thread) {
  thread.start_generation(Phase::kGone);
  send_signal(thread.pidfd, SIGKILL);
}

void StubProcess::free_dead_thread_locked(StubThread& thread) {
  std::erase(threads_, &thread);
  systrap_.free_thread(thread);
  // Somebody may have waited for it, or for what it was still to do.
  if (static_cast<size_t>(threads_requested_) + leaving_.size() < want_thread_.size())
    request_thread_locked();
  pump_locked();
}

// ---- The end.

void StubProcess::kill(const char* why) {
  MutexLock lock(mu_);
  kill_locked(why);
}

void StubProcess::kill_locked(const char* why) {
  if (state_ == State::kDying || state_ == State::kGone) return;
  LOG_INFO("stub %u ends: %s", index_, why);
  state_ = State::kDying;
  outstanding_.fetch_add(1);  // never idle again
  awaited_.fetch_add(1);
  dead_.store(true);
  send_signal(mapper_pidfd_, SIGKILL);
  for (StubThread* thread : threads_) {
    send_signal(thread->pidfd, SIGKILL);
    uint64_t word = thread->phase().load();
    if (StubThread::phase_of(word) == Phase::kGuest && thread->claim(word, Phase::kOwned)) {
      thread->context->post(platform::EventKind::kDied);
    }
  }
  for (SystrapContext* context : held_) {
    if (context->held.exchange(false)) context->post(platform::EventKind::kDied);
  }
  held_.clear();
  want_thread_.clear();
  parked_.clear();
  leaving_.clear();
  pending_.clear();
  pending_protects_ = 0;
  caller_.store(nullptr);
}

void StubProcess::on_death(StubThread* thread) {
  std::vector<Quarantined> release;
  {
    MutexLock lock(mu_);
    if (thread == nullptr) {
      if (mapper_pidfd_) {
        systrap_.event_loop().unwatch(mapper_pidfd_.get());
        mapper_pidfd_.reset();
        --alive_;
      }
      kill_locked("the mapper died");
    } else {
      systrap_.event_loop().unwatch(thread->pidfd.get());
      --alive_;
      if (caller_.load() == thread) caller_.store(nullptr);
      bool expected = StubThread::phase_of(thread->phase().load()) == Phase::kGone;
      // The host did not take its registration back.
      if (thread->is_leaving && !expected) {
        std::erase(leaving_, thread);
        thread->start_generation(Phase::kGone);
        expected = true;
      }
      if (!expected) kill_locked("a stub thread died");
      thread->pidfd.reset();
      if (expected && state_ != State::kDying && thread->context == nullptr)
        free_dead_thread_locked(*thread);
    }
    if (state_ == State::kDying && alive_ == 0) gone_locked(release);
  }
  for (auto& item : release) item.work->run();
}

void StubProcess::gone_locked(std::vector<Quarantined>& release) {
  state_ = State::kGone;
  for (auto& item : deferred_) release.push_back(std::move(item));
  deferred_.clear();
  files_.clear();
  for (StubThread* thread : threads_) {
    if (thread->context == nullptr) {
      thread->start_generation(Phase::kGone);
      systrap_.free_thread(*thread);
    }
  }
  threads_.clear();
  Systrap& systrap = systrap_;
  uint32_t number = ack_number_;
  uint32_t index = index_;
  systrap.zygote().send(CommandKind::kClose, number, 0, -1, [&systrap, number, index](int32_t) {
    systrap.free_number(number);
    systrap.free_index(index);
  });
}

void StubProcess::recycle() {
  MutexLock lock(mu_);
  if (state_ == State::kDying || state_ == State::kGone) return;
  CHECK(held_.empty() && want_thread_.empty());
  mappings_.clear();
  if (!is_empty_ || queued_seq_ == acked_seq_) {
    Pending all;
    uint64_t start = systrap_.min_user_address();
    all.order = {SYS_munmap, {start, Systrap::kMaxUserAddress - start, 0, 0, 0, 0}, 0};
    queue_locked(std::move(all));
  }
  recycle_seq_ = queued_seq_;
  if (state_ == State::kReady) state_ = State::kRecycling;
  pump_locked();
  if (!leaving_.empty())
    systrap_.event_loop().add_deadline(host::monotonic_ns() + kLeaverDeadlineNs,
                                       make_ref<LeaverDeadline>(Ref<StubProcess>(*this)));
}

void StubProcess::reuse(uint64_t trust_domain) {
  MutexLock lock(mu_);
  orders_->answers.store(systrap_.stub_answers() ? 1 : 0);
  orders_->waiters.store(0);
  for (Shared<uint64_t>& base : orders_->images) {
    if (base.load() != 0) base.store(0);
  }
  recalled_.clear();
  if (state_ == State::kPooled) state_ = State::kReady;
  recycle_seq_ = 0;
  CHECK(!used_ || trust_domain_ == trust_domain);
  trust_domain_ = trust_domain;
  used_ = true;
}

}  // namespace caisson::systrap
