// Lone processes: a thread that libc does not know is reached, unless the program trusts libc; what
// trust saves, and what it does not give up.
#include <gtest/gtest.h>
#include <sched.h>

#include "psx/psx.h"
#include "psx/race_support.h"

namespace caisson::psx::testing {
namespace {

#ifndef CAISSON_SANITIZED  // sanitizers know no thread made by raw clone, and may keep one of
                           // theirs

constexpr int kThreadFlags =
    CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;

alignas(16) char bare_stack[64 * 1024];
std::atomic<unsigned long> bare_mark{~0UL};
std::atomic<int> bare_asked{0};

// No TLS of its own, no registration anywhere.
int bare_thread(void*) {
  for (int seen = 0;;) {
    if (seen == bare_asked) {
      syscall(SYS_sched_yield);
      continue;
    }
    seen++;
    bare_mark = own_mark();
  }
}

void start_bare_thread() {
  REQUIRE(clone(bare_thread, bare_stack + sizeof(bare_stack), kThreadFlags, nullptr) > 0);
}

unsigned long mark_of_bare_thread() {
  bare_mark = ~0UL;
  bare_asked++;
  while (bare_mark == ~0UL) usleep(100);
  return bare_mark;
}

// In a process that has not made threads by libc, as this program's other tests leave it.
void trust() {
  if (trust_libc(true) == ENOSYS) skip("this libc does not say whether it has made threads");
}

TEST(PsxLone, ThreadsMadeByRawCloneAreReached) {
  EXPECT_PASSES(run(
      [] {
        REQUIRE(broadcast_mark(1).ok());  // it is known to have been alone
        start_bare_thread();
        REQUIRE(broadcast_mark(5).ok());
        REQUIRE(mark_of_bare_thread() == mark(5));
      },
      10));
}

// What the default guards.
TEST(PsxLone, TrustInLibcMissesThem) {
  EXPECT_PASSES(run(
      [] {
        trust();
        start_bare_thread();
        REQUIRE(broadcast_mark(5).ok());
        REQUIRE(own_mark() == mark(5) && mark_of_bare_thread() == mark(0));
        REQUIRE(trust_libc(false) == 0);
        set_mismatch(Mismatch::kIgnore);  // it missed the mark before
        REQUIRE(broadcast_mark(6).ok());
        set_mismatch(Mismatch::kEndProcess);
        REQUIRE(mark_of_bare_thread() == mark(6));
        // Who has been met is not forgotten.
        REQUIRE(trust_libc(true) == 0);
        REQUIRE(broadcast_mark(7).ok());
        REQUIRE(mark_of_bare_thread() == mark(7));
      },
      10));
}

// A filter ends the process if the kernel is asked.
void call_without_question() {
  kill_on(SYS_unshare);
  REQUIRE(broadcast_mark(1).ok());
  REQUIRE(broadcast_mark(2).ok());
  REQUIRE(own_mark() == mark(2));
}

TEST(PsxLone, TrustAsksNothing) {
  EXPECT_EQ(run([] { call_without_question(); }, 10).ending, Ending::kKilled);
  EXPECT_PASSES(run([] { trust(), call_without_question(); }, 10));
}

TEST(PsxLone, TrustEndsWithLibcsFirstThread) {
  EXPECT_PASSES(run(
      [] {
        trust();
        REQUIRE(broadcast_mark(1).ok());
        Crew crew(3);
        start_bare_thread();
        REQUIRE(broadcast_mark(2).ok());
        REQUIRE(crew.count_unlike(mark(2)) == 0 && mark_of_bare_thread() == mark(2));
        // A forked child is alone, and its libc does not say so any more.
        const pid_t child = fork();
        if (child == 0) {
          REQUIRE(broadcast_mark(3).ok() && own_mark() == mark(3));
          Crew own(2);
          REQUIRE(broadcast_mark(4).ok() && own.count_unlike(mark(4)) == 0);
          _exit(0);
        }
        int status = 1;
        REQUIRE(waitpid(child, &status, 0) == child && status == 0);
        REQUIRE(crew.count_unlike(mark(2)) == 0);
      },
      10));
}

std::atomic<int> signals{0};

void* waits(void*) {
  for (;;) pause();
}

void first_makes_a_thread(int) {
  if (signals++ == 0) start(waits);
}

// The very call brings the signal whose handler makes the first thread: it is to make the call too.
TEST(PsxLone, TrustSeesAThreadThatASignalHandlerMakes) {
  EXPECT_PASSES(run(
      [] {
        trust();
        struct sigaction action = {};
        action.sa_handler = first_makes_a_thread;
        sigaction(SIGUSR1, &action, nullptr);
        const auto self = static_cast<uintptr_t>(getpid());
        REQUIRE(syscall3(SYS_tgkill, self, self, SIGUSR1).ok());
        REQUIRE(signals == 2);
      },
      10));
}

int lone_vfork_child(void*) {
  const bool right = broadcast_mark(3).ok() && own_mark() == mark(3);
  syscall(SYS_exit, right ? 0 : 1);
  return 1;
}

TEST(PsxLone, TrustInAVforkChild) {
  EXPECT_PASSES(run(
      [] {
        trust();
        REQUIRE(broadcast_mark(1).ok());
        const pid_t child = clone(lone_vfork_child, bare_stack + sizeof(bare_stack),
                                  CLONE_VM | CLONE_VFORK | SIGCHLD, nullptr);
        int status = 1;
        REQUIRE(child > 0 && waitpid(child, &status, 0) == child && status == 0);
        REQUIRE(own_mark() == mark(1));
        REQUIRE(broadcast_mark(2).ok() && own_mark() == mark(2));
      },
      10));
}

// Docker's filter refuses unshare(2), which asks whether a process is alone.
TEST(PsxLone, UnshareRefused) {
  EXPECT_PASSES(run(
      [] {
        refuse(SYS_unshare, EPERM);
        REQUIRE(broadcast_mark(1).ok() && own_mark() == mark(1));
        const pid_t child = fork();
        if (child == 0) {
          REQUIRE(broadcast_mark(2).ok() && own_mark() == mark(2));
          kill_on(SYS_rt_sigaction);  // a whole broadcast would make this call
          for (unsigned n = 3; n < 10; n++)
            REQUIRE(broadcast_mark(n).ok() && own_mark() == mark(n));
          _exit(0);
        }
        int status = 1;
        REQUIRE(child > 0 && waitpid(child, &status, 0) == child && status == 0);
        REQUIRE(broadcast_mark(3).ok() && own_mark() == mark(3));
        start_bare_thread();
        REQUIRE(broadcast_mark(4).ok() && mark_of_bare_thread() == mark(4));
      },
      10));
}

// The init of one PID namespace and its child, the init of another: what the parent has open in
// /proc has the number of the child, and counts the parent's threads.
TEST(PsxLone, UnshareRefusedInAnotherPidOne) {
  EXPECT_PASSES(run(
      [] {
        if (unshare(CLONE_NEWUSER | CLONE_NEWPID) != 0) skip("no namespaces here");
        const pid_t init = fork();
        int status = 1;
        if (init == 0) {
          REQUIRE(unshare(CLONE_NEWPID) == 0);
          refuse(SYS_unshare, EPERM);
          REQUIRE(getpid() == 1 && broadcast_mark(1).ok() && broadcast_mark(2).ok());
          const pid_t child = fork();
          if (child == 0) {
            start_bare_thread();
            REQUIRE(getpid() == 1 && broadcast_mark(3).ok() && mark_of_bare_thread() == mark(3));
            _exit(0);
          }
          REQUIRE(waitpid(child, &status, 0) == child && status == 0);
          REQUIRE(own_mark() == mark(2));
          _exit(0);
        }
        REQUIRE(init > 0 && waitpid(init, &status, 0) == init && status == 0);
      },
      10));
}

#endif

}  // namespace
}  // namespace caisson::psx::testing
