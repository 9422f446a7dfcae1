// Races: each scenario passes with all guards in place, and fails when its guard is taken out
// (Without...), which shows that the scenario meets the race.
#include <gtest/gtest.h>
#include <linux/futex.h>
#include <sys/resource.h>

#include "psx/race_support.h"

namespace caisson::psx::testing {
namespace {

using internal::Guard;

constexpr int kScale = kSanitized ? 20 : 1;  // sanitizers make threads dear

// A scenario without its guard is to fail by the race, not by what a sanitizer makes of it.
#define SKIP_IF_SANITIZED() \
  if (kSanitized) GTEST_SKIP() << "the plain build shows what the guard is for"

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

// ---- threads that go ---------------------------------------------------------------------------

void* nothing(void*) { return nullptr; }

std::atomic<unsigned> gone{0};

void* comes_and_goes(void*) {
  for (; !finished; gone++) pthread_join(start(nothing), nullptr);
  return nullptr;
}

void threads_go(unsigned threads_to_go) {
  set_deadline_ms(2000);
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
  set_deadline_ms(1000);
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
    set_deadline_ms(300);
    const Outcome outcome = broadcast_mark(1);
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
  EXPECT_NE(report.errors.find(") did not answer within 300 ms and has not made the call"),
            std::string::npos)
      << report.errors;
}
TEST(PsxRace, AllSignalsBlockedWithoutDeadline) {
  SKIP_IF_SANITIZED();
  EXPECT_EQ(run(somebody_is_deaf, 1.5, {Guard::kDeadline}).ending, Ending::kHang);
}

std::atomic<int> vfork_ms{0};
std::atomic<bool> in_vfork{false};

void* waits_in_vfork(void*) {
  in_vfork = true;
  timespec time = {.tv_sec = vfork_ms / 1000, .tv_nsec = vfork_ms % 1000 * 1000000L};
  const long child = syscall(SYS_clone, CLONE_VM | CLONE_VFORK | SIGCHLD, 0, 0, 0, 0);
  // The child has the parent's memory and stack: nothing but raw calls.
  if (child == 0) {
    syscall(SYS_nanosleep, &time, nullptr);
    syscall(SYS_exit, 0);
  }
  waitpid(static_cast<pid_t>(child), nullptr, __WALL);
  return nullptr;
}

void vfork_wait(int ms, unsigned deadline_ms, int expected_error) {
  set_deadline_ms(deadline_ms);
  vfork_ms = ms;
  Crew crew(2);
  const pthread_t thread = start(waits_in_vfork);
  while (!in_vfork) usleep(100);
  usleep(30000);
  REQUIRE(broadcast_mark(1).error == expected_error);
  REQUIRE(crew.count_unlike(mark(1)) == 0);
  pthread_join(thread, nullptr);
}

TEST(PsxRace, VforkWaitThatEnds) {
  if (kThreadSanitizer) GTEST_SKIP() << "it intercepts what runs in the child";
  EXPECT_PASSES(run([] { vfork_wait(300, 5000, 0); }, 20));
}
TEST(PsxRace, VforkWaitThatDoesNot) {
  if (kThreadSanitizer) GTEST_SKIP() << "it intercepts what runs in the child";
  const Report report = run([] { vfork_wait(1000, 200, ETIMEDOUT); }, 20);
  EXPECT_PASSES(report);
  EXPECT_NE(report.errors.find("state D) did not answer within 200 ms"), std::string::npos)
      << report.errors;
}
TEST(PsxRace, VforkWaitWithoutDeadline) {
  SKIP_IF_SANITIZED();
  EXPECT_NE(run([] { vfork_wait(1000, 200, ETIMEDOUT); }, 3, {Guard::kDeadline}).ending,
            Ending::kPass);
}

// ---- callers -----------------------------------------------------------------------------------

void* calls(void* count) {
  const auto own = static_cast<unsigned>(syscall(SYS_gettid));
  for (uintptr_t n = 0; n < reinterpret_cast<uintptr_t>(count); n++) {
    REQUIRE(broadcast_mark(static_cast<unsigned>(n * 3 + own)).ok());
    for (unsigned i = 0; i < (n * 7 + own * 3) % 64; i++) (void)getppid();
  }
  return nullptr;
}

// The result of a broadcast is what the one before set, on all threads; else it ends the process.
void callers_at_once(uintptr_t broadcasts) {
  Crew crew(2);
  const pthread_t all[] = {start(calls, reinterpret_cast<void*>(broadcasts)),
                           start(calls, reinterpret_cast<void*>(broadcasts)),
                           start(calls, reinterpret_cast<void*>(broadcasts))};
  for (const pthread_t each : all) pthread_join(each, nullptr);
  REQUIRE(broadcast_mark(5).ok());
  REQUIRE(crew.count_unlike(mark(5)) == 0);
}

TEST(PsxRace, CallersAtOnce) {
  EXPECT_PASSES(run([] { callers_at_once(3000 / kScale); }, 40));
}
TEST(PsxRace, CallersAtOnceWithoutQueue) {
  SKIP_IF_SANITIZED();
  EXPECT_NE(run([] { set_deadline_ms(1000), callers_at_once(100000); }, 4, {Guard::kQueue}).ending,
            Ending::kPass);
}

std::atomic<int> calls_in_handler{0};

void call_in_handler(int) {
  const int before = errno;
  REQUIRE(broadcast_mark(static_cast<unsigned>(calls_in_handler++)).ok());
  errno = before;
}

void* pesters(void* target) {
  while (!finished) {
    pthread_kill(reinterpret_cast<pthread_t>(target), SIGUSR1);
    usleep(200);
  }
  return nullptr;
}

void caller_in_handler(int enough) {
  struct sigaction action = {};
  action.sa_handler = call_in_handler;
  sigfillset(&action.sa_mask);  // which leaves out 33
  sigaction(SIGUSR1, &action, nullptr);
  Crew crew(1);
  const pthread_t thread = start(pesters, reinterpret_cast<void*>(pthread_self()));
  while (calls_in_handler < enough) {
    REQUIRE(broadcast_mark(1).ok());
    usleep(static_cast<useconds_t>(calls_in_handler % 64));
  }
  finished = true;
  pthread_join(thread, nullptr);
}

TEST(PsxRace, CallerInSignalHandler) {
  EXPECT_PASSES(run([] { caller_in_handler(300 / kScale); }, 30));
}
TEST(PsxRace, CallerInSignalHandlerWithoutMask) {
  SKIP_IF_SANITIZED();
  EXPECT_EQ(run([] { caller_in_handler(20000); }, 2, {Guard::kMask}).ending, Ending::kHang);
}

// ---- fork --------------------------------------------------------------------------------------

// With pauses: a thread that is held again and again gets no fork(2) done.
void* broadcasts_forever(void*) {
  for (unsigned n = 0; !finished; n++) {
    REQUIRE(broadcast_mark(n).ok());
    usleep(n % 100);
  }
  return nullptr;
}

// The child makes threads and broadcasts to them, whatever was going on in the parent.
void fork_meanwhile(int forks) {
  set_deadline_ms(2000);
  Crew bystanders(20);
  const pthread_t thread = start(broadcasts_forever);
  for (int i = 0; i < forks; i++) {
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      const unsigned long inherited = own_mark();
      Crew crew(2);
      const Outcome outcome = broadcast_mark(3);
      REQUIRE(outcome.ok() && outcome.r1 == inherited);
      REQUIRE(crew.count_unlike(mark(3)) == 0);
      _exit(0);
    }
    int status = 0;
    for (int waited = 0; waitpid(child, &status, WNOHANG) != child; waited++) {
      if (waited > 2500) {
        kill(child, SIGKILL);
        REQUIRE(!"the child hangs");
      }
      usleep(1000);
    }
    REQUIRE(status == 0);
  }
  finished = true;
  pthread_join(thread, nullptr);
}

TEST(PsxRace, ForkMeanwhile) {
  if (kThreadSanitizer) GTEST_SKIP() << "its run-time knows no threads in a forked child";
  EXPECT_PASSES(run([] { fork_meanwhile(300 / kScale); }, 40));
}
TEST(PsxRace, ForkMeanwhileWithoutWipe) {
  SKIP_IF_SANITIZED();
  EXPECT_EQ(run([] { fork_meanwhile(1000); }, 30, {Guard::kWipe}).ending, Ending::kFail);
}
TEST(PsxRace, ForkMeanwhileWithoutChild) {
  SKIP_IF_SANITIZED();
  EXPECT_EQ(run([] { fork_meanwhile(10); }, 30, {Guard::kChild}).ending, Ending::kFail);
}

// ---- glibc's own broadcast ---------------------------------------------------------------------

std::atomic<unsigned> ids_set{0};

void* sets_ids(void*) {
  const uid_t uid = getuid();
  for (; !finished; ids_set++) REQUIRE(setresuid(uid, uid, uid) == 0);
  return nullptr;
}

void beside_setuid(unsigned times) {
  Crew crew(3);
  const pthread_t thread = start(sets_ids);
  unsigned n = 0;
  while (n < times || ids_set < times) {
    REQUIRE(broadcast_mark(++n).ok());
    usleep(n % 20);  // or the other thread is held all the time
  }
  finished = true;
  pthread_join(thread, nullptr);
  REQUIRE(crew.count_unlike(mark(n)) == 0);
}

TEST(PsxRace, SetuidOfLibcMeanwhile) {
  EXPECT_PASSES(run([] { beside_setuid(1000 / kScale); }, 40));
}
TEST(PsxRace, SetuidOfLibcMeanwhileWithoutChain) {
  SKIP_IF_SANITIZED();
  EXPECT_EQ(run([] { beside_setuid(5000); }, 2, {Guard::kChain}).ending, Ending::kHang);
}

// ---- how many ----------------------------------------------------------------------------------

void many(int threads, Crew::Kind kind, unsigned broadcasts) {
  Crew crew(threads - 1, kind);
  for (unsigned n = 1; n <= broadcasts; n++) {
    REQUIRE(broadcast_mark(n).ok());
    REQUIRE(crew.count_unlike(mark(n)) == 0);
  }
}

TEST(PsxRace, OneThread) {
  EXPECT_PASSES(run([] { many(1, Crew::Kind::kIdle, 100); }, 10));
}
TEST(PsxRace, TwoThreads) {
  EXPECT_PASSES(run([] { many(2, Crew::Kind::kIdle, 100); }, 10));
}
TEST(PsxRace, SixtyFourThreads) {
  EXPECT_PASSES(run([] { many(64, Crew::Kind::kIdle, 20); }, 20));
}
TEST(PsxRace, BusyThreads) {
  EXPECT_PASSES(run([] { many(6, Crew::Kind::kBusy, 5); }, 20));
}
TEST(PsxRace, TwoThousandThreads) {
  EXPECT_PASSES(run([] { many(2000 / kScale, Crew::Kind::kIdle, 3); }, 50));
}

// ---- what else may be in the way ---------------------------------------------------------------

// A limit on queued signals: the broadcast goes on as places become free, or says why it cannot.
TEST(PsxRace, FewSignalsMayBeQueued) {
  EXPECT_PASSES(run(
      [] {
        Crew crew(20);
        const rlimit one = {1, 1};
        REQUIRE(setrlimit(RLIMIT_SIGPENDING, &one) == 0);
        set_deadline_ms(500);
        // The limit is for all processes of the user: others may use it up.
        const Outcome outcome = broadcast_mark(1);
        REQUIRE(outcome.ok() || outcome.error == EAGAIN);
        if (outcome.ok()) REQUIRE(crew.count_unlike(mark(1)) == 0);
        const rlimit none = {0, 0};
        REQUIRE(setrlimit(RLIMIT_SIGPENDING, &none) == 0);
        set_deadline_ms(100);
        REQUIRE(broadcast_mark(2).error == EAGAIN);
      },
      20));
}

}  // namespace
}  // namespace caisson::psx::testing
