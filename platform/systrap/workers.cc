#include "platform/systrap/workers.h"

#include <immintrin.h>
#include <linux/futex.h>
#include <sched.h>

#include <algorithm>
#include <climits>
#include <utility>

#include "base/check.h"
#include "host/event_loop.h"
#include "host/raw_syscall.h"
#include "platform/systrap/context.h"

namespace caisson::systrap {
namespace {

// How long a worker polls after the last request.
constexpr uint64_t kPollNs = 20'000;
// More for a thread that was asleep, since an idle CPU takes as long to wake; for one that waits
// for the mapper; and for who was woken to poll.
constexpr uint64_t kWakeNs = 40'000;
constexpr uint64_t kMapNs = 150'000;
constexpr uint64_t kInvitedNs = 100'000;
// At least this long after a thread began: programs first ask the CPU what it can do, which is slow
// in virtual machines. And after each of its first calls.
constexpr uint64_t kBeginNs = 600'000;
constexpr uint64_t kYoungNs = 150'000;
// Who wants the CPU of a poller has it after this.
constexpr uint64_t kYieldNs = 60'000;
// How long a stub thread polls for its answer: about what waking it takes.
constexpr uint32_t kStubSpinCycles = 100'000;
constexpr int64_t kPatienceNs = 200'000;
// A gap this long between two looks means that the CPU was given to somebody else.
constexpr uint64_t kPreemptedNs = 20'000;
constexpr uint32_t kMaxSkip = 256;
constexpr uint32_t kMaxFailures = 8;
// A worker that was rung this often in a row by threads that went on asks another to poll for them.
constexpr uint32_t kStreak = 3;

thread_local Sleeper* own_sleeper = nullptr;  // a worker's
thread_local cpu_set_t not_own_cpu;
thread_local const platform::WorkSource* own_source = nullptr;
thread_local uint64_t extra_poll_ns = 0;   // for what it let go on since it polled
thread_local uint64_t begin_until_ns = 0;  // till when threads that it let begin are young

}  // namespace

Workers::Workers(SharedMemory& memory)
    : memory_(memory),
      threads_(new std::atomic<StubThread*>[SLOT_COUNT]()),
      running_(new std::atomic<uint64_t>[SLOT_COUNT / 64]()),
      dozing_(new std::atomic<uint64_t>[SLOT_COUNT / 64]()) {
  CPU_ZERO(&set_);
  if (sched_getaffinity(0, sizeof set_, &set_) < 0) CPU_SET(0, &set_);
  for (int cpu = 0; cpu < CONTROL_MAX_CPUS && cpus_.size() < CONTROL_MAX_WORKERS; ++cpu) {
    if (CPU_ISSET(cpu, &set_)) cpus_.push_back(cpu);
  }
  ControlPage& control = memory_.control();
  control.workers = static_cast<uint32_t>(cpus_.size());
  control.patience_ns = kPatienceNs;
  control.spin = cpus_.size() > 1 ? kStubSpinCycles : 0;
  std::fill(std::begin(control.cpu_worker), std::end(control.cpu_worker), CPU_WORKER_NONE);
  for (size_t i = 0; i < cpus_.size(); ++i) control.cpu_worker[cpus_[i]] = static_cast<uint8_t>(i);
}

bool Workers::is_worker() { return own_sleeper != nullptr; }

Workers::~Workers() {
  if (own_state() != nullptr) own_sleeper = nullptr;
}

void Workers::lets_go(bool begins, bool by_mapper) {
  if (own_sleeper == nullptr) return;
  if (own_source == nullptr || !own_source->has_work())
    own_sleeper->looks.store(1, std::memory_order_relaxed);
  extra_poll_ns = std::max(extra_poll_ns, by_mapper ? kMapNs : kWakeNs);
  if (begins) begin_until_ns = host::monotonic_ns() + kBeginNs;
}

void Workers::bind(int worker) {
  own_sleeper = &memory_.control().sleepers[worker];
  bound_.fetch_add(1);
  const int cpu = cpus_[static_cast<size_t>(worker)];
  not_own_cpu = set_;
  CPU_CLR(cpu, &not_own_cpu);
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  // A CPU that was taken away since start: the worker then runs where it may.
  sched_setaffinity(0, sizeof set, &set);
}

Workers::WorkerState* Workers::own_state() {
  const Sleeper* first = memory_.control().sleepers;
  if (own_sleeper < first || own_sleeper >= first + CONTROL_MAX_WORKERS) return nullptr;
  return &workers_[static_cast<size_t>(own_sleeper - first)];
}

const cpu_set_t* Workers::elsewhere() {
  const WorkerState* state = own_state();
  return state != nullptr && may_poll(*state) ? &not_own_cpu : nullptr;
}

void Workers::placed(StubThread& thread, Ref<StubProcess> process) {
  WorkerState& state = *own_state();
  release_placed(state);
  state.placed = &thread;
  state.placed_phase = thread.phase().load();
  state.placed_tid = thread.tid;
  state.placed_process = std::move(process).or_null();
}

void Workers::release_placed(WorkerState& state) {
  StubThread* thread = std::exchange(state.placed, nullptr);
  if (thread == nullptr) return;
  state.placed_process->release_mapper(set_);
  state.placed_process = RefOrNull<StubProcess>();
  // Its first request would have done it.
  if (StubThread::phase_of(state.placed_phase) != Phase::kGuest ||
      thread->phase().load() != state.placed_phase)
    return;
  host::raw_syscall(SYS_sched_setaffinity, state.placed_tid, sizeof set_, host::raw_arg(&set_))
      .ignore();
}

void Workers::add_running(StubThread& thread) {
  uint32_t word = thread.id() / 64;
  uint64_t bit = uint64_t{1} << (thread.id() % 64);
  if ((dozing_[word].load(std::memory_order_relaxed) & bit) != 0) dozing_[word].fetch_and(~bit);
  if ((running_[word].load(std::memory_order_relaxed) & bit) != 0) return;
  uint32_t words = running_words_.load(std::memory_order_relaxed);
  while (words <= word && !running_words_.compare_exchange_weak(words, word + 1)) {
  }
  running_[word].fetch_or(bit);
}

void Workers::remove_running(StubThread& thread) {
  uint64_t bit = uint64_t{1} << (thread.id() % 64);
  std::atomic<uint64_t>& word = running_[thread.id() / 64];
  if ((word.load(std::memory_order_relaxed) & bit) != 0) word.fetch_and(~bit);
}

void Workers::post(SystrapContext& context) {
  {
    MutexLock lock(mu_);
    posted_.push_back(&context);
    posted_count_.store(static_cast<int>(posted_.size()));
  }
  ring();
}

void Workers::watch_acks(Ref<StubProcess> process) {
  MutexLock lock(mu_);
  ack_list_.push_back(std::move(process));
  ack_count_.store(static_cast<int>(ack_list_.size()));
}

bool Workers::asks(StubThread& thread) {
  uint32_t state = thread.slot().state.load(std::memory_order_acquire);
  return state == SLOT_STATE_REQUEST || state == SLOT_STATE_ASLEEP;
}

// Takes a thread that asks, if the guest has it; null: it does not, or another worker was first.
platform::Context* Workers::claim(WorkerState& state, StubThread& thread) {
  // Its other lines come over while the claim is made.
  __builtin_prefetch(&thread.slot().regs);
  __builtin_prefetch(&thread.slot().regs.r10);
  uint64_t word = thread.phase().load();
  // Asked again after that look: what was seen before may be a request that is answered by now.
  if (StubThread::phase_of(word) != Phase::kGuest || !asks(thread)) return nullptr;
  if (!thread.claim(word, Phase::kOwned)) return nullptr;
  state.last = &thread;
  state.scan_from = thread.id() / 64;
  if (thread.young > 0) {
    --thread.young;
    begin_until_ns = std::max(begin_until_ns, host::monotonic_ns() + kYoungNs);
  }
  SystrapContext* context = thread.context;
  context->read_event(thread);
  return context;
}

// `all`: also threads that were seen to wait by themselves.
platform::Context* Workers::scan(WorkerState& state, bool all) {
  uint32_t words = running_words_.load(std::memory_order_acquire);
  int busy = 0;
  for (uint32_t n = 0; n < words; ++n) {
    uint32_t index = state.scan_from + n;
    if (index >= words) index -= words;
    uint64_t dozing = dozing_[index].load(std::memory_order_relaxed);
    uint64_t bits = running_[index].load();
    if (!all) bits &= ~dozing;
    while (bits != 0) {
      uint32_t bit = static_cast<uint32_t>(__builtin_ctzll(bits));
      bits &= bits - 1;
      StubThread* thread = threads_[index * 64 + bit].load(std::memory_order_acquire);
      if (thread == nullptr) continue;
      if (StubThread::phase_of(thread->phase().load()) != Phase::kGuest) continue;
      if (asks(*thread)) {
        if (platform::Context* context = claim(state, *thread)) return context;
        continue;
      }
      bool waits = thread->slot().waiting.load(std::memory_order_relaxed) != 0;
      bool known = (dozing >> bit & 1) != 0;
      if (waits && !known) dozing_[index].fetch_or(uint64_t{1} << bit);
      if (!waits && known) dozing_[index].fetch_and(~(uint64_t{1} << bit));
      busy += waits ? 0 : 1;
    }
  }
  state.busy = busy;
  return nullptr;
}

platform::Context* Workers::take(WorkerState& state, bool all) {
  if (posted_count_.load() != 0) {
    MutexLock lock(mu_);
    if (!posted_.empty()) {
      SystrapContext* context = posted_.back();
      posted_.pop_back();
      posted_count_.store(static_cast<int>(posted_.size()));
      return context;
    }
  }
  if (ack_count_.load() != 0) {
    std::vector<Ref<StubProcess>> changed;
    {
      MutexLock lock(mu_);
      std::erase_if(ack_list_, [&](const Ref<StubProcess>& process) {
        if (process->acks_changed()) {
          changed.push_back(process);
          return false;
        }
        if (process->is_awaited()) return false;
        // Off the list first, then a second look: a new order puts it on again.
        process->ack_watched.store(false);
        if ((process->acks_changed() && !process->dead()) || process->is_awaited())
          return process->ack_watched.exchange(true);
        return true;
      });
      ack_count_.store(static_cast<int>(ack_list_.size()));
    }
    if (!changed.empty()) {
      // It may take a while.
      Shared<uint32_t>& looks = sleeper(state).looks;
      const uint32_t before = looks.exchange(0, std::memory_order_relaxed);
      for (auto& process : changed) process->process_acks();
      looks.store(before, std::memory_order_relaxed);
    }
  }
  return scan(state, all);
}

bool Workers::may_poll(const WorkerState& state) const {
  // Who begins another soon waits for it.
  const int more = has_young() ? 1 : 0;
  return cpus_.size() > 1 && state.busy < static_cast<int>(cpus_.size()) + more;
}

// Whether the thread that was answered last goes on here: polling would keep it off this CPU.
bool Workers::shares_cpu(const WorkerState& state) const {
  return state.last != nullptr && bound_.load(std::memory_order_relaxed) > 1 &&
         state.last->slot().worker.load(std::memory_order_relaxed) == number(state) + 1 &&
         StubThread::phase_of(state.last->phase().load()) == Phase::kGuest;
}

// A worker that is off and on its CPU in turns with a guest thread has another poll for it.
void Workers::notice_sharing(WorkerState& state) {
  // Who polled for its answer is elsewhere. Its slot's line is left to it.
  if (state.hot && extra_poll_ns == 0) return;
  if (!shares_cpu(state)) {
    state.streak = 0;
    return;
  }
  const bool was_hot = state.hot;
  cool_down(state);
  if (!was_hot && !has_young() && (++state.streak <= kStreak || skips())) return;
  if (may_poll(state)) invite(state);
}

// Whether this worker let somebody begin not long ago.
bool Workers::has_young() {
  if (begin_until_ns == 0) return false;
  if (host::monotonic_ns() < begin_until_ns) return true;
  begin_until_ns = 0;
  return false;
}

// Polls that gained nothing are paid for with opportunities.
bool Workers::skips() {
  uint32_t skip = skip_.load(std::memory_order_relaxed);
  if (skip == 0) return false;
  skip_.store(skip - 1, std::memory_order_relaxed);
  return true;
}

bool Workers::may_begin(WorkerState& state) {
  if (state.invited.exchange(false, std::memory_order_relaxed)) {
    extra_poll_ns = kInvitedNs;
  } else {
    if (shares_cpu(state)) return false;
    if (!has_young() && skips()) return false;
  }
  return may_poll(state);
}

void Workers::invite(const WorkerState& from) {
  for (int i = 0; i < count(); ++i) {
    WorkerState& other = workers_[static_cast<size_t>(i)];
    if (&other != &from && wake(i, true)) return;
  }
}

bool Workers::heat_up(WorkerState& state) {
  uint32_t none = 0;
  state.hot = memory_.control().hot.compare_exchange_strong(none, number(state) + 1);
  return state.hot;
}

void Workers::cool_down(WorkerState& state) {
  if (!state.hot) return;
  state.hot = false;
  memory_.control().hot.store(0);
}

// Who wants this CPU has it first. Requests that come meanwhile ring somebody. False: another polls
// now.
bool Workers::yield_cpu(WorkerState& state) {
  cool_down(state);
  sleeper(state).looks.store(0, std::memory_order_relaxed);
  host::raw_syscall(SYS_sched_yield).ignore();
  sleeper(state).looks.store(1, std::memory_order_relaxed);
  return heat_up(state);
}

platform::Context* Workers::poll(WorkerState& state, const platform::WorkSource& source,
                                 bool& work) {
  if (!state.hot && (!may_begin(state) || !heat_up(state))) {
    extra_poll_ns = 0;
    return nullptr;
  }
  // The clock is looked at when the next request does not come at once.
  uint64_t begin = 0;
  uint64_t last = 0;
  uint64_t yield_at = 0;
  uint64_t limit = kPollNs + std::exchange(extra_poll_ns, 0);
  for (;;) {
    for (int i = 0; i < 16; ++i) {
      platform::Context* context = nullptr;
      if (state.last != nullptr && asks(*state.last)) context = claim(state, *state.last);
      if (context == nullptr) context = take(state, i == 0);
      if (context != nullptr) {
        failures_.store(0, std::memory_order_relaxed);
        return context;
      }
      if (source.has_work()) {
        work = true;
        return nullptr;
      }
      _mm_pause();
    }
    uint64_t now = host::monotonic_ns();
    // What was acknowledged meanwhile let somebody go, which takes its time.
    if (extra_poll_ns != 0) {
      limit = kPollNs + std::exchange(extra_poll_ns, 0);
      begin = 0;
    }
    if (begin == 0) {
      begin = last = now;
      yield_at = now + kYieldNs;
    }
    const bool is_over = now - last > kPreemptedNs || now - begin > limit;
    if ((is_over && now >= begin_until_ns) || !may_poll(state)) {
      uint32_t failures = std::min(failures_.load(std::memory_order_relaxed) + 1, kMaxFailures);
      failures_.store(failures, std::memory_order_relaxed);
      skip_.store(std::min(uint32_t{1} << failures, kMaxSkip), std::memory_order_relaxed);
      break;
    }
    last = now;
    if (now < yield_at) continue;
    // Nobody waits for the rest of a long poll; who took the CPU ends it.
    yield_at = now + kYieldNs;
    if (!yield_cpu(state)) return nullptr;
  }
  cool_down(state);
  return nullptr;
}

platform::Context* Workers::next_event(int worker, const platform::WorkSource& source) {
  WorkerState& state = workers_[static_cast<size_t>(worker)];
  Shared<uint32_t>& looks = sleeper(state).looks;
  own_source = &source;
  StubProcess::end_turn();
  notice_sharing(state);
  looks.store(1, std::memory_order_relaxed);
  platform::Context* context = find_event(state, source);
  looks.store(0, std::memory_order_relaxed);
  return context;
}

platform::Context* Workers::find_event(WorkerState& state, const platform::WorkSource& source) {
  Shared<uint32_t>& asleep = sleeper(state).asleep;
  for (;;) {
    if (platform::Context* context = take(state, false)) return context;
    if (source.has_work()) return nullptr;
    bool work = false;
    if (platform::Context* context = poll(state, source, work)) return context;
    if (work) return nullptr;
    cool_down(state);
    release_placed(state);
    asleep.store(1);
    platform::Context* context = take(state, true);
    if (context != nullptr || source.has_work()) {
      asleep.store(0);
      return context;
    }
    uint64_t slept_at = host::monotonic_ns();
    host::raw_syscall(SYS_futex, host::raw_arg(&asleep), FUTEX_WAIT, 1, 0).ignore();
    asleep.store(0);
    // Polling a little longer would have caught this one: try again sooner.
    uint32_t failures = failures_.load(std::memory_order_relaxed);
    if (host::monotonic_ns() - slept_at < kPollNs && failures > 0) {
      skip_.store(skip_.load(std::memory_order_relaxed) / 2, std::memory_order_relaxed);
      failures_.store(failures - 1, std::memory_order_relaxed);
    }
  }
}

// False: it does not sleep.
bool Workers::wake(int worker, bool invites) {
  Shared<uint32_t>& asleep = memory_.control().sleepers[worker].asleep;
  if (asleep.exchange(0) == 0) return false;
  if (invites) workers_[static_cast<size_t>(worker)].invited.store(true, std::memory_order_relaxed);
  host::raw_syscall(SYS_futex, host::raw_arg(&asleep), FUTEX_WAKE, 1).ignore();
  return true;
}

void Workers::ring_if_foreign() {
  if (!is_worker()) ring();
}

void Workers::ring() {
  // A worker looks for work again before it sleeps or polls.
  if (is_worker() || memory_.control().hot.load() != 0) return;
  int cpu = sched_getcpu();
  int own =
      cpu >= 0 && cpu < CONTROL_MAX_CPUS ? memory_.control().cpu_worker[cpu] : CPU_WORKER_NONE;
  if (own < count() && memory_.control().sleepers[own].asleep.load() != 0) {
    wake(own);
    return;
  }
  for (int i = 0; i < count(); ++i) {
    if (memory_.control().sleepers[i].asleep.load() != 0) {
      wake(i);
      return;
    }
  }
}

}  // namespace caisson::systrap
