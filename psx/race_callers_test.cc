// Races, continued (race_test.cc): callers, forks, glibc's own broadcast, and how many threads.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include "psx/race_support.h"

namespace caisson::psx::testing {
namespace {

using internal::Guard;

std::atomic<bool> finished{false};

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
  // The handler is refused, or it would wait for the thread that it interrupts.
  EXPECT_EQ(run([] { caller_in_handler(20000); }, 20, {Guard::kMask}).ending, Ending::kFail);
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
  set_deadline_ms(patience_ms());
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
      if (waited > 2 * static_cast<int>(patience_ms())) {
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
  // TSan's run-time knows no threads there, and ASan's allocator may be locked for ever.
  if (kSanitized) GTEST_SKIP() << "sanitizers are not made for threads in a forked child";
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
