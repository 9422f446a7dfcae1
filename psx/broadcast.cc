#include "psx/broadcast.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>

#include "psx/guard.h"
#include "psx/message.h"

namespace caisson::psx::internal {

using host::raw_arg;
using host::raw_syscall;

namespace {

constexpr int64_t kNsPerMs = 1'000'000;
constexpr uint32_t kFewLate = 16;      // so many are looked at in /proc at once
constexpr uint32_t kThreadsNamed = 8;  // in messages; of the others the number is given

int64_t now_ns() {
  timespec now = {};
  raw_syscall(SYS_clock_gettime, CLOCK_MONOTONIC, raw_arg(&now)).ignore();
  return now.tv_sec * 1000 * kNsPerMs + now.tv_nsec;
}

void sleep_ns(int64_t ns) {
  timespec time = {.tv_sec = 0, .tv_nsec = ns};
  raw_syscall(SYS_nanosleep, raw_arg(&time), 0).ignore();
}

bool is_unanswered(Answer answer) {
  return answer == Answer::kPending || answer == Answer::kRunning || answer == Answer::kWriting;
}

}  // namespace

void Broadcast::begin(int64_t first_result) {
  epoch_ = shared_.epoch.load(std::memory_order_relaxed) + 1;
  if (epoch_ == 0) epoch_ = 1;
  shared_.epoch.store(epoch_, std::memory_order_relaxed);
  shared_.released.store(epoch_ - 1, std::memory_order_relaxed);
  shared_.pending.store(pending_tag(epoch_), std::memory_order_relaxed);
  shared_.first_result.store(first_result, std::memory_order_relaxed);
  shared_.nr.store(call_.nr, std::memory_order_relaxed);
  for (int i = 0; i < 6; i++) shared_.args[i].store(call_.args[i], std::memory_order_relaxed);
}

void Broadcast::cover() {
  Roster& roster = directory_.roster;
  uint32_t own = roster.find(tid_);
  if (own == Roster::kNone) own = roster.add(tid_);
  if (own == Roster::kNone) {
    trouble_ = ENOMEM;
    return;
  }
  roster[own].word.store(record_word(epoch_, Answer::kCaller), std::memory_order_relaxed);
  tell_known();
  bool swept = false;
  int64_t pause_ns = 20'000;
  int quiet_sweeps = 0;
  while (trouble_ == 0) {
    wait_for_answers();
    if (trouble_ != 0) return;
    int64_t threads = 0;
    trouble_ = directory_.source.count(&threads);
    if (trouble_ != 0) return cannot_list();
    tally();
    // Held threads neither exit nor make others, so equal numbers mean that there is nobody else.
    const int64_t known = held_ + dead_;
    if (threads == known) return;
    if (!guarded(Guard::kRecount) && swept) return;
    swept = true;
    if (tell_new()) {
      quiet_sweeps = 0;
      continue;
    }
    // Somebody is on the way out, or was missed while another one was. A count below what we hold
    // would be a procfs that does not count; there two quiet sweeps have to do.
    if (threads < known && ++quiet_sweeps >= 2) return;
    if (is_late()) {
      Message()
          .call(call_.nr)
          .text(": the kernel counts ")
          .number(threads)
          .text(" threads, but only ")
          .number(known)
          .text(" could be found")
          .print();
      trouble_ = ETIMEDOUT;
      return;
    }
    sleep_ns(pause_ns);
    if (pause_ns < kNsPerMs) pause_ns *= 2;
  }
}

// Signals all threads of the last broadcast without looking whether they are still there.
void Broadcast::tell_known() {
  Roster& roster = directory_.roster;
  for (uint32_t slot = 0; slot < roster.size() && trouble_ == 0; slot++) {
    Record& record = roster[slot];
    const uint64_t word = record.word.load(std::memory_order_relaxed);
    if (word == record_word(epoch_, Answer::kCaller)) continue;
    if (answer_of(word) == Answer::kKernelWorker) {  // a signal would stay in its queue
      record.word.store(record_word(epoch_, Answer::kKernelWorker), std::memory_order_relaxed);
    } else {
      tell(slot);
    }
  }
}

bool Broadcast::tell_new() {
  struct Sweep {
    Broadcast& self;
    bool found;
  } sweep = {*this, false};
  const int error = directory_.source.sweep(
      [](int32_t tid, void* argument) {
        auto& [self, found] = *static_cast<Sweep*>(argument);
        if (self.trouble_ != 0) return;
        if (tid == self.pid_ && self.directory_.leader_is_dead) return;
        Roster& roster = self.directory_.roster;
        uint32_t slot = roster.find(tid);
        // A number that was free again meanwhile is a new thread.
        if (slot != Roster::kNone && roster[slot].answer() != Answer::kGone) return;
        if (slot == Roster::kNone) slot = roster.add(tid);
        if (slot == Roster::kNone) {
          self.trouble_ = ENOMEM;
          return;
        }
        self.tell(slot);
        if (roster[slot].answer() != Answer::kGone) found = true;
      },
      &sweep);
  // Somebody closed the descriptor in this moment; the next count opens it anew.
  if (error == EBADF || error == ENOTDIR) return false;
  if (error != 0) {
    trouble_ = error;
    cannot_list();
  }
  return sweep.found;
}

void Broadcast::cannot_list() {
  Message().call(call_.nr).text(": cannot list the threads: ").result(-trouble_).print();
}

void Broadcast::tell(uint32_t slot) {
  shared_.pending.fetch_add(1, std::memory_order_relaxed);
  directory_.roster[slot].word.store(record_word(epoch_, Answer::kPending),
                                     std::memory_order_release);
  while (!queue_signal(slot)) {
    // RLIMIT_SIGPENDING is used up. Each thread that answers frees a place.
    if (is_late()) {
      Message()
          .call(call_.nr)
          .text(": no room for a signal to thread ")
          .number(directory_.roster[slot].tid.load())
          .text(" (RLIMIT_SIGPENDING)")
          .print();
      settle(slot, Answer::kAbandoned);
      trouble_ = EAGAIN;
      return;
    }
    sleep_ns(kNsPerMs);
  }
}

// False: no room, try again.
bool Broadcast::queue_signal(uint32_t slot) {
  siginfo_t info = {};
  info.si_code = kSignalCode;
  info.si_pid = pid_;
  info.si_uid = signal_magic();
  info.si_value.sival_ptr = reinterpret_cast<void*>(signal_cookie(epoch_, slot));
  const int32_t tid = directory_.roster[slot].tid.load(std::memory_order_relaxed);
  auto sent = raw_syscall(SYS_rt_tgsigqueueinfo, pid_, tid, kSignal, raw_arg(&info));
  if (sent.ok()) return true;
  const int error = sent.error().value();
  if (error == EAGAIN) return false;
  if (error == ESRCH) {
    settle(slot, Answer::kGone);
  } else {
    Message()
        .call(call_.nr)
        .text(": cannot signal thread ")
        .number(tid)
        .text(": ")
        .result(-error)
        .print();
    settle(slot, Answer::kAbandoned);
    trouble_ = error;
  }
  return true;
}

// Takes an unanswered record back from its thread, and tells how far that was. kIdle: it has
// answered after all.
Answer Broadcast::settle(uint32_t slot, Answer how) {
  for (const Answer was : {Answer::kPending, Answer::kRunning, Answer::kWriting}) {
    if (!directory_.roster[slot].move(epoch_, was, how)) continue;
    shared_.pending.fetch_sub(1, std::memory_order_acq_rel);
    return was;
  }
  return Answer::kIdle;
}

void Broadcast::wait_for_answers() {
  timespec timeout = {.tv_sec = 0, .tv_nsec = kNsPerMs};
  for (int yields = kCallerYields; yields > 0 && pending() != 0; yields--) {
    raw_syscall(SYS_sched_yield).ignore();
  }
  for (uint32_t round = 0;;) {
    uint32_t pending = shared_.pending.load(std::memory_order_acquire);
    if ((pending & kPendingCount) == 0) break;
    if ((pending & kCallerSleeps) == 0 &&
        !shared_.pending.compare_exchange_strong(pending, pending | kCallerSleeps)) {
      continue;
    }
    auto waited = futex_wait(shared_.pending, pending | kCallerSleeps, &timeout);
    if (waited.ok() || waited.error().value() != ETIMEDOUT) continue;
    look_after_late(round++);
    if (timeout.tv_nsec < 64 * kNsPerMs) timeout.tv_nsec *= 2;
    if (is_late()) return give_up();
  }
  shared_.pending.store(pending_tag(epoch_), std::memory_order_relaxed);
}

// Somebody has not answered for a while: is it still there, and did it get the signal?
void Broadcast::look_after_late(uint32_t round) {
  const bool again = round >= 8 && (round & (round - 1)) == 0;
  if (again) install_handler();  // somebody may have replaced it
  const bool few = pending() <= kFewLate;
  Roster& roster = directory_.roster;
  for (uint32_t slot = 0; slot < roster.size(); slot++) {
    if (!is_unanswered(roster[slot].answer())) continue;
    const int32_t tid = roster[slot].tid.load(std::memory_order_relaxed);
    if (!thread_exists(pid_, tid)) {
      if (guarded(Guard::kGone)) settle(slot, Answer::kGone);
      continue;
    }
    // A zombie takes signals and never answers. Leaders become one when they exit before the
    // others, other threads only under a tracer. Neither do the kernel's workers answer.
    if (tid == pid_ || few || round >= 4) {
      const ThreadSource::Thread thread = directory_.source.look_at(tid);
      if ((thread.state == 'Z' || thread.state == 'X') && guarded(Guard::kZombie)) {
        const bool settled = settle(slot, Answer::kDead) != Answer::kIdle;
        if (settled && tid == pid_) directory_.leader_is_dead = true;
        continue;
      }
      if (thread.is_kernel_worker) {
        settle(slot, Answer::kKernelWorker);
        continue;
      }
    }
    if (again) queue_signal(slot);  // it may have gone to a namesake, or to another's handler
  }
}

void Broadcast::give_up() {
  Roster& roster = directory_.roster;
  uint32_t named = 0;
  for (uint32_t slot = 0; slot < roster.size(); slot++) {
    const Answer was = settle(slot, Answer::kAbandoned);
    if (was == Answer::kIdle) continue;
    trouble_ = ETIMEDOUT;
    if (named++ >= kThreadsNamed) continue;
    const int32_t tid = roster[slot].tid.load(std::memory_order_relaxed);
    char name[32];
    directory_.source.name(tid, name, sizeof(name));
    const char run_state[2] = {directory_.source.look_at(tid).state, '\0'};
    Message()
        .call(call_.nr)
        .text(": thread ")
        .number(tid)
        .text(" (")
        .text(name)
        .text(", state ")
        .text(run_state)
        .text(") did not answer within ")
        .number(settings_.deadline_ms.load())
        .text(was == Answer::kPending ? " ms and has not made the call" : " ms: it is in the call")
        .print();
  }
  if (named > kThreadsNamed) {
    Message().call(call_.nr).text(": nor did ").number(named - kThreadsNamed).text(" more").print();
  }
}

// Whether nobody has answered for as long as the deadline.
bool Broadcast::is_late() {
  const int64_t now = now_ns();
  const uint32_t unanswered = pending();
  if (progress_ns_ == 0 || unanswered < pending_then_) progress_ns_ = now;
  pending_then_ = unanswered;
  return guarded(Guard::kDeadline) &&
         now - progress_ns_ >= static_cast<int64_t>(settings_.deadline_ms.load()) * kNsPerMs;
}

void Broadcast::tally() {
  held_ = dead_ = missing_ = differing_ = 0;
  Roster& roster = directory_.roster;
  bool leader_listed = false;
  for (uint32_t slot = 0; slot < roster.size(); slot++) {
    Record& record = roster[slot];
    const uint64_t word = record.word.load(std::memory_order_acquire);
    // Not asked, when this broadcast ended early: what is there was an answer to another.
    if (epoch_of(word) != epoch_) {
      missing_++;
      continue;
    }
    switch (answer_of(word)) {
      case Answer::kDiffers:
        differing_++;
        [[fallthrough]];
      case Answer::kDone:
      case Answer::kCaller:
        held_++;
        break;
      case Answer::kKernelWorker:
        // After the count: were its number a new thread's by now, that one would be missing.
        if (directory_.source.look_at(record.tid.load()).is_kernel_worker) {
          dead_++;
        } else {
          record.word.store(record_word(epoch_, Answer::kGone), std::memory_order_relaxed);
          missing_++;
        }
        break;
      case Answer::kDead: {
        // A leader is listed as long as the process lives; others until their tracer lets go.
        const int32_t tid = record.tid.load(std::memory_order_relaxed);
        leader_listed |= tid == pid_;
        if (tid == pid_ || thread_exists(pid_, tid)) dead_++;
      }
        [[fallthrough]];
      default:
        missing_++;
    }
  }
  if (directory_.leader_is_dead && !leader_listed) dead_++;
}

int Broadcast::finish() {
  // Whatever went wrong: nobody makes the call once its caller is gone, and nobody reads it any
  // more when the next broadcast writes its own.
  if (trouble_ != 0) {
    for (uint32_t slot = 0; slot < directory_.roster.size(); slot++) {
      settle(slot, Answer::kAbandoned);
    }
  }
  tally();
  const Mismatch what = settings_.mismatch.load();
  if (differing_ != 0 && what != Mismatch::kIgnore) report_differences(what);
  shared_.released.store(epoch_, std::memory_order_seq_cst);
  if (shared_.sleepers.load(std::memory_order_seq_cst) != 0) futex_wake(shared_.released, INT_MAX);
  if (missing_ != 0) directory_.roster.drop_missing();
  return trouble_;
}

void Broadcast::report_differences(Mismatch what) {
  Roster& roster = directory_.roster;
  uint32_t named = 0;
  for (uint32_t slot = 0; slot < roster.size(); slot++) {
    const uint64_t word = roster[slot].word.load(std::memory_order_acquire);
    if (word != record_word(epoch_, Answer::kDiffers) || named++ >= kThreadsNamed) continue;
    const int32_t tid = roster[slot].tid.load(std::memory_order_relaxed);
    char name[32];
    directory_.source.name(tid, name, sizeof(name));
    Message()
        .call(call_.nr)
        .text(": results differ: thread ")
        .number(tid)
        .text(" (")
        .text(name)
        .text(") got ")
        .result(roster[slot].result.load(std::memory_order_relaxed))
        .text(", the caller, thread ")
        .number(tid_)
        .text(", got ")
        .result(shared_.first_result.load(std::memory_order_relaxed))
        .print();
  }
  if (named > kThreadsNamed) {
    Message().call(call_.nr).text(": so do ").number(named - kThreadsNamed).text(" more").print();
  }
  if (what != Mismatch::kEndProcess) return;
  Message().text("ending the process, its threads no longer have the same rights").print();
  end_process();
}

}  // namespace caisson::psx::internal
