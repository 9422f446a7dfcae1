// Races: each scenario passes with all guards in place, and fails when its guard is taken out
// (Without...), which shows that the scenario meets the race.
#include <gtest/gtest.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/ptrace.h>

#include "psx/race_support.h"

namespace caisson::psx::testing {
namespace {

using internal::Guard;

// ---- threads that come -------------------------------------------------------------------------

std::atomic<unsigned> round_now{0};
std::atomic<int> waiting[2];  // children that wait for the round after theirs, by parity
std::atomic<int> made{0};
std::atomic<bool> finished{false};

void* newcomer(void* round);

void make(void* (*body)(void*), unsigned born) {
  pthread_attr_t detached;
  pthread_attr_init(&detached);
  pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&detached, 64 * 1024);
  waiting[born % 2]++;
  pthread_t thread;
  void* argument = reinterpret_cast<void*>(static_cast<uintptr_t>(born));
  REQUIRE(pthread_create(&thread, &detached, body, argument) == 0);
  made++;
}

// Each new thread makes the next one, so that there is always one that no sweep has seen; then it
// lives until the broadcast after its birth is over, and must have that one's mark.
void* newcomer(void* round) {
  const auto born = static_cast<unsigned>(reinterpret_cast<uintptr_t>(round));
  if (!finished && round_now == born && waiting[born % 2] < 200) make(newcomer, born);
  while (round_now == born) syscall(SYS_futex, &round_now, FUTEX_WAIT_PRIVATE, born, nullptr);
  REQUIRE(own_mark() == mark(born + 1));
  waiting[born % 2]--;
  return nullptr;
}

void threads_come(int threads_to_make) {
  for (unsigned n = 1; made < threads_to_make; n++) {
    make(newcomer, n - 1);
    if (n % 2 == 0) sched_yield();
    REQUIRE(broadcast_mark(n).ok());
    round_now = n;
    syscall(SYS_futex, &round_now, FUTEX_WAKE_PRIVATE, 1 << 30);
    while (waiting[(n - 1) % 2] != 0) sched_yield();
  }
}

TEST(PsxRace, ThreadsCreatedMeanwhile) {
  EXPECT_PASSES(run([] { threads_come(10000 / kScale); }, 50));
}
TEST(PsxRace, ThreadsCreatedMeanwhileWithoutRecount) {
  SKIP_IF_SANITIZED();
  EXPECT_NE(run([] { threads_come(30000); }, 40, {Guard::kRecount}).ending, Ending::kPass);
}
TEST(PsxRace, ThreadsCreatedMeanwhileWithoutHold) {
  SKIP_IF_SANITIZED();
  EXPECT_NE(run([] { threads_come(30000); }, 40, {Guard::kHold}).ending, Ending::kPass);
}

// ---- a thread that nobody can know of ----------------------------------------------------------

// The process has one thread, and libc knows of no other: but a signal handler makes one by raw
// clone while the call goes on. The probe is the timer slack: like all that psx is for, it is per
// thread, inherited, and a second call changes nothing.
alignas(16) char stranger_stack[16 * 1024];
std::atomic<int> strangers{0};  // made
std::atomic<bool> stranger_may_come{false};
std::atomic<unsigned> stranger_asked{0};  // which round shall answer
std::atomic<long> stranger_slack{-1};

int stranger(void* round) {
  const auto born = static_cast<unsigned>(reinterpret_cast<uintptr_t>(round));
  while (stranger_asked == born) syscall(SYS_sched_yield);
  stranger_slack = syscall(SYS_prctl, PR_GET_TIMERSLACK, 0, 0, 0, 0);
  syscall(SYS_exit, 0);
  return 0;
}

void make_stranger(int) {
  if (!stranger_may_come.exchange(false)) return;
  void* round = reinterpret_cast<void*>(uintptr_t{stranger_asked});
  REQUIRE(clone(stranger, stranger_stack + sizeof(stranger_stack),
                CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM,
                round) > 0);
  strangers++;
}

void stranger_comes(int enough, double seconds) {
  struct sigaction action = {};
  action.sa_handler = make_stranger;
  action.sa_flags = SA_RESTART;
  sigaction(SIGUSR1, &action, nullptr);
  const pid_t self = getpid();
  const pid_t sender = fork();  // a thread would be one too many
  if (sender == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) kill(self, SIGUSR1);
  }
  const double end = now_s() + seconds;
  const int least = enough / 10;  // on a loaded machine the sender may need longer for these
  for (unsigned n = 1; strangers < enough && (strangers < least || now_s() < end); n++) {
    const int before = strangers;
    const unsigned long slack = 1000 + n % 1000;
    stranger_may_come = true;
    REQUIRE(syscall3(SYS_prctl, PR_SET_TIMERSLACK, slack, 0).ok());
    stranger_may_come = false;
    if (strangers == before) continue;
    stranger_slack = -1;
    stranger_asked++;
    while (stranger_slack < 0) sched_yield();
    REQUIRE(stranger_slack == static_cast<long>(slack));
    while (syscall(SYS_unshare, CLONE_SIGHAND) != 0) sched_yield();  // until it is gone
  }
  kill(sender, SIGKILL);
}

TEST(PsxRace, UnknownThreadComesMeanwhile) {
  if (kSanitized) GTEST_SKIP() << "sanitizers know no thread made by raw clone";
  EXPECT_PASSES(run([] { stranger_comes(300, 10); }, 30));
}
TEST(PsxRace, UnknownThreadComesMeanwhileWithoutAskAfter) {
  SKIP_IF_SANITIZED();
  EXPECT_EQ(run([] { stranger_comes(100000, 20); }, 30, {Guard::kAskAfter}).ending, Ending::kFail);
}

// ---- threads that go ---------------------------------------------------------------------------

void* nothing(void*) { return nullptr; }

std::atomic<unsigned> gone{0};

void* comes_and_goes(void*) {
  for (; !finished; gone++) pthread_join(start(nothing), nullptr);
  return nullptr;
}

void threads_go(unsigned threads_to_go) {
  set_deadline_ms(patience_ms());
  const pthread_t churn[] = {start(comes_and_goes), start(comes_and_goes)};
  for (unsigned n = 1; gone < threads_to_go; n++) {
    REQUIRE(broadcast_mark(n).ok());
    usleep(n % 64 * 4);  // with pauses, or the others are held all the time
  }
  finished = true;
  for (const pthread_t each : churn) pthread_join(each, nullptr);
}

TEST(PsxRace, ThreadsExitMeanwhile) {
  EXPECT_PASSES(run([] { threads_go(3000 / kScale); }, 50));
}
TEST(PsxRace, ThreadsExitMeanwhileWithoutGone) {
  SKIP_IF_SANITIZED();
  EXPECT_EQ(run([] { threads_go(200000); }, 40, {Guard::kGone}).ending, Ending::kFail);
}

// ---- a leader that has exited ------------------------------------------------------------------

void* after_the_leader(void*) {
  set_deadline_ms(patience_ms());
  while (status_field(std::to_string(getpid()), "State").substr(0, 1) != "Z") usleep(100);
  Crew crew(3);
  for (unsigned n = 1; n <= 1000; n++) {
    REQUIRE(broadcast_mark(n).ok());
    if (n % 100 == 0) REQUIRE(crew.count_unlike(mark(n)) == 0);
  }
  _exit(0);
}

void leader_exits() {
  start(after_the_leader);
  syscall(SYS_exit, 0);
}

TEST(PsxRace, ZombieLeader) { EXPECT_PASSES(run(leader_exits, 20)); }
TEST(PsxRace, ZombieLeaderWithoutZombie) {
  SKIP_IF_SANITIZED();
  EXPECT_EQ(run(leader_exits, 20, {Guard::kZombie}).ending, Ending::kFail);
}

// ---- threads that cannot answer ----------------------------------------------------------------

std::atomic<int> deaf_tid{0};
std::atomic<bool> deaf_may_hear{false};
std::atomic<bool> deaf_hears{false};

void* deaf(void*) {
  prctl(PR_SET_NAME, "deaf-thread");
  const uint64_t all = ~uint64_t{0};
  const uint64_t none = 0;
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, nullptr, 8);
  deaf_tid = static_cast<int>(syscall(SYS_gettid));
  while (!deaf_may_hear) usleep(100);
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, nullptr, 8);
  REQUIRE(own_mark() == mark(0));  // the call that was given up is not made afterwards
  deaf_hears = true;
  while (!finished) usleep(100);
  return nullptr;
}

void somebody_is_deaf() {
  for (unsigned i = 0; i < 3; i++) {
    deaf_tid = 0;
    deaf_may_hear = deaf_hears = finished = false;
    REQUIRE(broadcast_mark(0).ok());
    Crew crew(3);
    const pthread_t thread = start(deaf);
    while (deaf_tid == 0) usleep(100);
    set_deadline_ms(500);
    const Outcome outcome = broadcast_mark(1);
    set_deadline_ms(patience_ms());
    REQUIRE(outcome.error == ETIMEDOUT && outcome.r1 == UINTPTR_MAX);
    REQUIRE(crew.count_unlike(mark(1)) == 0);
    deaf_may_hear = true;
    while (!deaf_hears) usleep(100);
    // From now on all is well again, after this one difference.
    set_mismatch(Mismatch::kIgnore);
    REQUIRE(broadcast_mark(2).ok());
    set_mismatch(Mismatch::kEndProcess);
    REQUIRE(broadcast_mark(3).ok());
    finished = true;
    pthread_join(thread, nullptr);
  }
  dprintf(2, "deaf was %d\n", deaf_tid.load());
}

TEST(PsxRace, AllSignalsBlocked) {
  const Report report = run(somebody_is_deaf, 20);
  EXPECT_PASSES(report);
  const size_t at = report.errors.find("deaf was ");
  ASSERT_NE(at, std::string::npos);
  std::string tid = report.errors.substr(at + 9);
  tid.pop_back();
  EXPECT_NE(report.errors.find("thread " + tid + " (deaf-thread, state "), std::string::npos)
      << report.errors;
  EXPECT_NE(report.errors.find(") did not answer within 500 ms and has not made the call"),
            std::string::npos)
      << report.errors;
}
TEST(PsxRace, AllSignalsBlockedWithoutDeadline) {
  SKIP_IF_SANITIZED();
  EXPECT_EQ(run(somebody_is_deaf, 1.5, {Guard::kDeadline}).ending, Ending::kHang);
}

// Under a tracer.
std::atomic<int> traced_tid{0};
std::atomic<bool> traced_may_end{false};

void* is_traced(void*) {
  prctl(PR_SET_NAME, "traced-thread");
  traced_tid = static_cast<int>(syscall(SYS_gettid));
  while (!traced_may_end) usleep(100);
  return nullptr;
}

// The tracer, a process of its own that does what it is told through a pipe: 's' stops the thread,
// 'c' lets it go on, 'w' waits for its end, which takes it from the list of threads.
struct Tracer {
  int orders[2];
  int done[2];
  pid_t pid;

  explicit Tracer(int tid) {
    REQUIRE(pipe(orders) == 0 && pipe(done) == 0);
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
    pid = fork();
    if (pid != 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    char answer = syscall(SYS_ptrace, PTRACE_SEIZE, tid, 0, 0) == 0 ? 'y' : 'n';
    for (char order; write(done[1], &answer, 1) == 1 && read(orders[0], &order, 1) == 1;) {
      int status = 0;
      bool right = true;
      if (order == 's') {
        right = syscall(SYS_ptrace, PTRACE_INTERRUPT, tid, 0, 0) == 0 &&
                waitpid(tid, &status, __WALL) == tid && WIFSTOPPED(status);
      }
      if (order == 'c') right = syscall(SYS_ptrace, PTRACE_CONT, tid, 0, 0) == 0;
      // Signals of the thread stop it on the way.
      while (order == 'w' && waitpid(tid, &status, __WALL) == tid && WIFSTOPPED(status)) {
        syscall(SYS_ptrace, PTRACE_CONT, tid, 0, WSTOPSIG(status));
      }
      answer = right ? 'y' : 'n';
    }
    _exit(0);
  }
  ~Tracer() {
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    for (const int fd : {orders[0], orders[1], done[0], done[1]}) close(fd);
  }
  bool answers() {
    char answer = 'n';
    return read(done[0], &answer, 1) == 1 && answer == 'y';
  }
  bool obeys(char order) { return write(orders[1], &order, 1) == 1 && answers(); }
};

// Stopped, it cannot answer; ended, it is still listed until its tracer lets go.
void somebody_is_traced() {
  for (unsigned i = 0; i < 5; i++) {
    traced_tid = 0;
    traced_may_end = false;
    REQUIRE(broadcast_mark(0).ok());
    Crew crew(2);
    const pthread_t thread = start(is_traced);
    while (traced_tid == 0) usleep(100);
    {
      Tracer tracer(traced_tid);
      if (!tracer.answers()) skip("no tracing here");
      REQUIRE(tracer.obeys('s'));
      set_deadline_ms(100);
      REQUIRE(broadcast_mark(1).error == ETIMEDOUT);
      set_deadline_ms(patience_ms());
      REQUIRE(crew.count_unlike(mark(1)) == 0);
    }
    // Its tracer is dead, so it runs again.
    set_mismatch(Mismatch::kIgnore);
    REQUIRE(broadcast_mark(2).ok());
    set_mismatch(Mismatch::kEndProcess);
    {
      Tracer tracer(traced_tid);
      REQUIRE(tracer.answers());
      traced_may_end = true;
      const std::string tid = std::to_string(traced_tid);
      while (status_field(tid, "State")[0] != 'Z') usleep(100);
      for (unsigned n = 3; n < 6; n++) {
        REQUIRE(broadcast_mark(n).ok());
        REQUIRE(crew.count_unlike(mark(n)) == 0);
      }
      REQUIRE(tracer.obeys('w'));
      REQUIRE(broadcast_mark(6).ok());
      REQUIRE(crew.count_unlike(mark(6)) == 0);
    }
    pthread_join(thread, nullptr);
  }
}

TEST(PsxRace, TracedThreads) {
  if (kSanitized) GTEST_SKIP() << "sanitizers may use ptrace themselves";
  const Report report = run(somebody_is_traced, 30);
  EXPECT_PASSES(report);
  EXPECT_NE(report.errors.find("(traced-thread, state t) did not answer within 100 ms"),
            std::string::npos)
      << report.errors;
}
TEST(PsxRace, TracedThreadsWithoutZombie) {
  SKIP_IF_SANITIZED();
  EXPECT_NE(run(somebody_is_traced, 30, {Guard::kZombie}).ending, Ending::kPass);
}

std::atomic<int> vfork_tid{0};
std::atomic<bool> vfork_may_end{false};
std::atomic<int> vfork_naps{0};

void* waits_in_vfork(void*) {
  vfork_tid = static_cast<int>(syscall(SYS_gettid));
  timespec time = {.tv_sec = 0, .tv_nsec = 1000000};
  const long child = syscall(SYS_clone, CLONE_VM | CLONE_VFORK | SIGCHLD, 0, 0, 0, 0);
  // The child has the parent's memory and stack: nothing but raw calls.
  if (child == 0) {
    while (!vfork_may_end && vfork_naps-- > 0) syscall(SYS_nanosleep, &time, nullptr);
    syscall(SYS_exit, 0);
  }
  waitpid(static_cast<pid_t>(child), nullptr, __WALL);
  while (!finished) usleep(100);
  return nullptr;
}

// `ends`: the wait is over before the deadline, and the thread makes the call then; else the caller
// is told, and the thread never makes it.
void vfork_wait(bool ends) {
  for (unsigned n = 0; n < 10; n++) {
    vfork_tid = 0;
    vfork_may_end = finished = false;
    vfork_naps = ends ? static_cast<int>(20 + n * 3) : 5000;  // the child's, of 1 ms
    REQUIRE(broadcast_mark(0).ok());
    Crew crew(2);
    const pthread_t waiting_thread = start(waits_in_vfork);
    while (vfork_tid == 0 || status_field(std::to_string(vfork_tid), "State")[0] != 'D')
      usleep(100);
    set_deadline_ms(ends ? patience_ms() : 60);
    REQUIRE(broadcast_mark(1).error == (ends ? 0 : ETIMEDOUT));
    REQUIRE(crew.count_unlike(mark(1)) == 0);
    vfork_may_end = true;
    set_deadline_ms(patience_ms());
    // Late, the thread's answer to the call that was given up differs: it still has the mark
    // before.
    set_mismatch(ends ? Mismatch::kEndProcess : Mismatch::kWarn);
    REQUIRE(broadcast_mark(2).ok());
    set_mismatch(Mismatch::kEndProcess);
    REQUIRE(broadcast_mark(3).ok());
    finished = true;
    pthread_join(waiting_thread, nullptr);
  }
}

TEST(PsxRace, VforkWaitThatEnds) {
  if (kThreadSanitizer) GTEST_SKIP() << "it intercepts what runs in the child";
  EXPECT_PASSES(run([] { vfork_wait(true); }, 20));
}
TEST(PsxRace, VforkWaitThatDoesNot) {
  if (kThreadSanitizer) GTEST_SKIP() << "it intercepts what runs in the child";
  const Report report = run([] { vfork_wait(false); }, 20);
  EXPECT_PASSES(report);
  const auto count = [&](const char* text) {
    size_t found = 0;
    for (size_t at = 0; (at = report.errors.find(text, at)) != std::string::npos; at++) found++;
    return found;
  };
  EXPECT_EQ(count("state D) did not answer within 60 ms"), 10u) << report.errors;
  EXPECT_EQ(count("results differ: thread "), 10u) << report.errors;
}
TEST(PsxRace, VforkWaitWithoutDeadline) {
  SKIP_IF_SANITIZED();
  EXPECT_EQ(run([] { vfork_wait(false); }, 3, {Guard::kDeadline}).ending, Ending::kHang);
}

}  // namespace
}  // namespace caisson::psx::testing
