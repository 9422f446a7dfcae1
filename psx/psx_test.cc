// What a broadcast promises, apart from races (race_test.cc).
#include "psx/psx.h"

#include <asm/prctl.h>
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <limits.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>

#include "psx/include/sys/psx_syscall.h"
#include "psx/race_support.h"

extern "C" int psx_c_test(void);
extern "C" int __wrap_pthread_create(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);

namespace caisson::psx::testing {
namespace {

// ---- results -----------------------------------------------------------------------------------

TEST(Psx, SucceedsOnAllThreads) {
  EXPECT_PASSES(run(
      [] {
        Crew crew(5);
        const Outcome outcome = syscall3(SYS_personality, SHORT_INODE, 0, 0);
        REQUIRE(outcome.ok() && outcome.r1 == 0 && outcome.r2 == 0);
        const Outcome again = syscall6(SYS_personality, 0, 0, 0, 0, 0, 0);
        REQUIRE(again.ok() && again.r1 == SHORT_INODE && again.r2 == SHORT_INODE);
        REQUIRE(crew.count_unlike(0) == 0);
      },
      10));
}

TEST(Psx, AllSixArgumentsArrive) {
  EXPECT_PASSES(run(
      [] {
        // Each thread maps a page at the same place, read-only: mmap takes six.
        Crew crew(3);
        void* place = mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        const auto address = reinterpret_cast<uintptr_t>(place);
        const Outcome outcome =
            syscall6(SYS_mmap, address, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
                     static_cast<uintptr_t>(-1), 0);
        REQUIRE(outcome.ok() && outcome.r1 == address);
        REQUIRE(*static_cast<volatile char*>(place) == 0);
      },
      10));
}

std::atomic<int> filtered{0};
constexpr int kNoSuchCall = 9999;

void* does_without(void* nr) {
  kill_on(static_cast<int>(reinterpret_cast<intptr_t>(nr)));
  filtered++;
  for (;;) pause();
}

TEST(Psx, FailureStopsAtTheFirstThread) {
  EXPECT_PASSES(run(
      [] {
        start(does_without, reinterpret_cast<void*>(intptr_t{kNoSuchCall}));
        start(does_without, reinterpret_cast<void*>(intptr_t{SYS_prctl}));
        while (filtered != 2) usleep(100);
        Outcome outcome = syscall3(kNoSuchCall, 1, 2, 3);
        REQUIRE(outcome.error == ENOSYS && outcome.r1 == UINTPTR_MAX && outcome.r2 == UINTPTR_MAX);
        outcome = syscall6(SYS_prctl, 0x7fffffff, 0, 0, 0, 0, 0);
        REQUIRE(outcome.error == EINVAL);
      },
      10));
}

TEST(Psx, OtherThreadsDoMakeTheCall) {  // or the test before would prove nothing
  const Report report = run(
      [] {
        start(does_without, reinterpret_cast<void*>(intptr_t{SYS_personality}));
        while (filtered != 1) usleep(100);
        (void)syscall3(SYS_personality, 0, 0, 0);
      },
      10);
  EXPECT_EQ(report.ending, Ending::kKilled);
  EXPECT_EQ(report.signal, SIGSYS);
}

// ---- bad input ---------------------------------------------------------------------------------

TEST(Psx, NumbersThatDoNotExist) {
  const Report report = run(
      [] {
        Crew crew(1);
        for (const long nr : {-1L, -4096L, 600L, 0x40000000L + 2000, 0x7fffffffL, LONG_MAX}) {
          REQUIRE(syscall3(nr, 0, 0, 0).error == ENOSYS);
        }
      },
      10);
  EXPECT_PASSES(report);
  EXPECT_EQ(report.errors, "");
}

TEST(Psx, RefusesWhatMakesNoSense) {
  const Report report = run(
      [] {
        constexpr uintptr_t kX32 = 0x40000000;
        for (const uintptr_t nr :
             {uintptr_t{SYS_exit}, uintptr_t{SYS_exit_group}, uintptr_t{SYS_execve},
              uintptr_t{SYS_execveat}, uintptr_t{SYS_fork}, uintptr_t{SYS_vfork},
              uintptr_t{SYS_clone}, uintptr_t{SYS_clone3}, uintptr_t{SYS_rt_sigreturn},
              uintptr_t{SYS_rt_sigprocmask}, uintptr_t{SYS_sigaltstack},
              uintptr_t{SYS_set_tid_address}, uintptr_t{SYS_set_robust_list}, uintptr_t{SYS_rseq},
              uintptr_t{SYS_restart_syscall}, SYS_fork + (uintptr_t{1} << 32), SYS_fork + kX32,
              513 + kX32, 520 + kX32}) {
          REQUIRE(syscall3(static_cast<long>(nr), 0, 0, 0).error == EINVAL);
        }
        for (const long nr : {long{SYS_pause}, long{SYS_rt_sigsuspend}}) {
          REQUIRE(syscall3(nr, 0, 0, 0).error == EINVAL);
        }
        REQUIRE(syscall3(SYS_arch_prctl, ARCH_SET_FS, 0, 0).error == EINVAL);
        REQUIRE(syscall3(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0).error == EINVAL);
        REQUIRE(syscall3(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 0, 0).error == EINVAL);
      },
      10);
  EXPECT_PASSES(report);
  EXPECT_NE(report.errors.find("psx: system call 57 is refused: every thread would make a process"),
            std::string::npos)
      << report.errors;
  size_t messages = 0;
  for (size_t at = 0; (at = report.errors.find(" is refused: ", at)) != std::string::npos; at++) {
    messages++;
  }
  EXPECT_EQ(messages, 24u) << report.errors;
}

// ---- results that differ -----------------------------------------------------------------------

std::atomic<int> different_tid{0};

void* differs(void*) {
  prctl(PR_SET_NAME, "odd-one");
  refuse(SYS_personality, EPERM);
  different_tid = static_cast<int>(syscall(SYS_gettid));
  for (;;) pause();
}

void one_differs(int level) {
  if (level >= 0) REQUIRE(psx_set_sensitivity(static_cast<psx_sensitivity_t>(level)) == 0);
  start(differs);
  while (different_tid == 0) usleep(100);
  dprintf(2, "<%d>", different_tid.load());
  REQUIRE(psx_syscall3(SYS_personality, 0, 0, 0) == 0);
}

std::string difference(const Report& report) {
  const size_t end = report.errors.find('>');
  const std::string tid = end == std::string::npos ? "?" : report.errors.substr(1, end - 1);
  return "results differ: thread " + tid + " (odd-one) got -1 (EPERM), the caller, thread ";
}

TEST(Psx, DifferingResultsEndTheProcessByDefault) {
  for (const int level : {-1, static_cast<int>(PSX_ERROR)}) {
    const Report report = run([level] { one_differs(level); }, 10);
    EXPECT_EQ(report.ending, Ending::kKilled);
    EXPECT_EQ(report.signal, SIGSYS);
    EXPECT_NE(report.errors.find(difference(report)), std::string::npos) << report.errors;
    EXPECT_NE(report.errors.find(", got 0\n"), std::string::npos) << report.errors;
  }
}

TEST(Psx, DifferingResultsCanBeToldOrIgnored) {
  Report report = run([] { one_differs(PSX_WARNING); }, 10);
  EXPECT_PASSES(report);
  EXPECT_NE(report.errors.find(difference(report)), std::string::npos) << report.errors;
  report = run([] { one_differs(PSX_IGNORE); }, 10);
  EXPECT_PASSES(report);
  EXPECT_EQ(report.errors.find("differ"), std::string::npos) << report.errors;
}

// While all threads are held, nobody can empty a pipe that the process itself reads.
TEST(Psx, AMessageThatNobodyTakesHoldsNobodyUp) {
  EXPECT_PASSES(run(
      [] {
        start(differs);
        while (different_tid == 0) usleep(100);
        const int errors = dup(2);
        int full[2];
        REQUIRE(pipe2(full, O_NONBLOCK) == 0);
        char page[4096] = {};
        while (write(full[1], page, sizeof(page)) > 0) {
        }
        REQUIRE(fcntl(full[1], F_SETFL, 0) == 0 && dup2(full[1], 2) == 2);
        set_mismatch(Mismatch::kWarn);
        const bool passed = syscall3(SYS_personality, 0, 0, 0).ok();
        dup2(errors, 2);
        REQUIRE(passed);
      },
      5));
}

// ---- the C interface ---------------------------------------------------------------------------

TEST(PsxC, EveryName) {
  EXPECT_PASSES(run([] { REQUIRE(psx_c_test() == 0); }, 10));
}

void* returns_it(void* argument) { return argument; }

TEST(PsxC, WrappedThreadCreation) {
  EXPECT_PASSES(run(
      [] {
        pthread_t thread;
        REQUIRE(__wrap_pthread_create(&thread, nullptr, returns_it, &thread) == 0);
        void* result = nullptr;
        REQUIRE(pthread_join(thread, &result) == 0 && result == &thread);
      },
      10));
}

// ---- the handler -------------------------------------------------------------------------------

std::atomic<int> chained{0};

TEST(Psx, PreviousHandlerGetsItsSignals) {
  EXPECT_PASSES(run(
      [] {
        Crew crew(2);
        handle_signal_33([](int, siginfo_t* info, void* context) {
          if (info->si_code == SI_TKILL && context != nullptr) chained++;
        });
        for (unsigned n = 1; n < 50; n++) {
          REQUIRE(broadcast_mark(n).ok());
          syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), 33);
          REQUIRE(chained == static_cast<int>(n));
        }
        REQUIRE(crew.count_unlike(mark(49)) == 0);
      },
      10));
}

TEST(Psx, UnhandledSignalStillEndsTheProcess) {
  const Report report = run(
      [] {
        const KernelSigaction none = {};
        Crew crew(1);
        syscall(SYS_rt_sigaction, 33, &none, nullptr, 8);
        REQUIRE(broadcast_mark(1).ok());
        syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), 33);
      },
      10);
  EXPECT_EQ(report.ending, Ending::kKilled);
  EXPECT_EQ(report.signal, 33);
}

std::atomic<bool> watch{true};

void* watches_errno(void*) {
  while (watch) {
    errno = 4711;
    for (int i = 0; i < 1000; i++) REQUIRE(errno == 4711);
  }
  return nullptr;
}

TEST(Psx, ErrnoIsLeftAlone) {
  EXPECT_PASSES(run(
      [] {
        const pthread_t thread = start(watches_errno);
        psx_set_sensitivity(PSX_ERROR);
        errno = 42;
        for (unsigned n = 1; n <= 500; n++) REQUIRE(psx_syscall3(SYS_personality, 0, 0, 0) == 0);
        REQUIRE(errno == 42);
        watch = false;
        pthread_join(thread, nullptr);
      },
      10));
}

#ifndef CAISSON_SANITIZED

// Two copies of the library, each with the other's handler before its own, and glibc's behind both.
TEST(Psx, TwoCopiesInOneProcess) {
  EXPECT_PASSES(run(
      [] {
        Crew crew(3);
        void* library = dlopen(PSX_SHARED_LIBRARY, RTLD_NOW | RTLD_LOCAL);
        REQUIRE(library != nullptr);
        auto* other =
            reinterpret_cast<long (*)(long, long, long, long)>(dlsym(library, "psx_syscall3"));
        REQUIRE(other != nullptr && other != psx_syscall3);
        for (unsigned n = 1; n <= 200; n++) {
          REQUIRE(broadcast_mark(2 * n).ok());
          REQUIRE(setresuid(getuid(), getuid(), getuid()) == 0);
          REQUIRE(other(SYS_personality, static_cast<long>(mark(2 * n + 1)), 0, 0) ==
                  static_cast<long>(mark(2 * n)));
          REQUIRE(setresgid(getgid(), getgid(), getgid()) == 0);
        }
        REQUIRE(crew.count_unlike(mark(401)) == 0);
      },
      10));
}

// The handler outlives the library's handle: a signal may come at any time.
TEST(Psx, StaysWhenItIsUnloaded) {
  EXPECT_PASSES(run(
      [] {
        Crew crew(3);
        void* library = dlopen(PSX_SHARED_LIBRARY, RTLD_NOW | RTLD_LOCAL);
        REQUIRE(library != nullptr);
        auto* call =
            reinterpret_cast<long (*)(long, long, long, long)>(dlsym(library, "psx_syscall3"));
        REQUIRE(call(SYS_personality, static_cast<long>(mark(3)), 0, 0) == 0);
        REQUIRE(dlclose(library) == 0);
        for (int n = 0; n < 20; n++) REQUIRE(setresuid(getuid(), getuid(), getuid()) == 0);
        REQUIRE(crew.count_unlike(mark(3)) == 0);
      },
      10));
}

int open_descriptors() {
  int count = 0;
  for (int fd = 0; fd < 1000; fd++) count += fcntl(fd, F_GETFD) >= 0;
  return count;
}

alignas(16) char vfork_stack[64 * 1024];

int vfork_child(void* mark_number) {
  const auto number = static_cast<unsigned>(reinterpret_cast<uintptr_t>(mark_number));
  const bool right = broadcast_mark(number).ok() && own_mark() == mark(number);
  syscall(SYS_exit, right ? 0 : 1);
  return 1;
}

// A child of vfork(2) has our memory, but neither our threads nor our descriptors.
TEST(Psx, CallInAVforkChild) {
  EXPECT_PASSES(run(
      [] {
        Crew crew(3);
        REQUIRE(broadcast_mark(1).ok());
        const int before = open_descriptors();
        for (unsigned n = 2; n < 40; n++) {
          const pid_t child =
              clone(vfork_child, vfork_stack + sizeof(vfork_stack),
                    CLONE_VM | CLONE_VFORK | SIGCHLD, reinterpret_cast<void*>(uintptr_t{n + 1}));
          int status = 1;
          REQUIRE(child > 0 && waitpid(child, &status, 0) == child && status == 0);
          REQUIRE(own_mark() == mark(n - 1) && crew.count_unlike(mark(n - 1)) == 0);
          REQUIRE(broadcast_mark(n).ok());
          REQUIRE(crew.count_unlike(mark(n)) == 0);
        }
        REQUIRE(open_descriptors() == before);
      },
      10));
}

// ---- finding threads ---------------------------------------------------------------------------

void own_namespaces(int flags) {
  if (geteuid() == 0 && unshare(flags) == 0) return;
  if (unshare(CLONE_NEWUSER | flags) != 0) skip("needs root or user namespaces");
}

// What is done to them must not show elsewhere.
void own_mounts() {
  own_namespaces(CLONE_NEWNS);
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0) return;
  // In a chroot.
  if (errno == EINVAL) skip("needs a mount at /");
  REQUIRE(!"mounts can be made private");
}

TEST(Psx, WorksAfterProcIsGone) {
  EXPECT_PASSES(run(
      [] {
        own_mounts();
        REQUIRE(psx_prepare() == 0);
        if (umount2("/proc", MNT_DETACH) != 0) {
          if (mount("none", "/proc", "tmpfs", 0, nullptr) != 0) skip("/proc cannot be hidden");
        }
        REQUIRE(access("/proc/self/task", F_OK) != 0);
        Crew crew(4);
        REQUIRE(broadcast_mark(1).ok());
        REQUIRE(crew.count_unlike(mark(1)) == 0);
        // A child finds its own directory from there.
        const pid_t child = fork();
        if (child == 0) {
          Crew own(2);
          REQUIRE(broadcast_mark(2).ok());
          REQUIRE(own.count_unlike(mark(2)) == 0);
          _exit(0);
        }
        int status = 1;
        waitpid(child, &status, 0);
        REQUIRE(status == 0);
      },
      10));
}

TEST(Psx, WithoutProcNothingIsChanged) {
  EXPECT_PASSES(run(
      [] {
        own_mounts();
        if (mount("none", "/proc", "tmpfs", 0, nullptr) != 0) skip("/proc cannot be hidden");
        REQUIRE(psx_prepare() == -1 && errno == ENOENT);
        REQUIRE(broadcast_mark(1).ok());  // alone, nobody needs to be found
        Crew crew(2);
        REQUIRE(broadcast_mark(2).error == ENOENT);
        REQUIRE(crew.count_unlike(mark(1)) == 0 && own_mark() == mark(1));
      },
      10));
}

// /proc of the namespace outside shows other numbers than the ones that signals take.
TEST(Psx, ProcOfAnotherPidNamespace) {
  EXPECT_PASSES(run(
      [] {
        own_namespaces(CLONE_NEWPID);
        const pid_t child = fork();
        if (child == 0) {
          REQUIRE(getpid() == 1);
          Crew crew(4);
          for (unsigned n = 1; n < 20; n++) REQUIRE(broadcast_mark(n).ok());
          REQUIRE(crew.count_unlike(mark(19)) == 0);
          _exit(0);
        }
        int status = 1;
        waitpid(child, &status, 0);
        REQUIRE(status == 0);
      },
      10));
}

// The child of a namespace's init may be the init of another: the same number, other threads.
TEST(Psx, ForkIntoAnotherPidOne) {
  EXPECT_PASSES(run(
      [] {
        own_namespaces(CLONE_NEWPID);
        const pid_t child = fork();
        int status = 1;
        if (child == 0) {
          Crew crew(3);
          REQUIRE(getpid() == 1 && broadcast_mark(1).ok());
          REQUIRE(unshare(CLONE_NEWPID) == 0);
          const pid_t grandchild = fork();
          if (grandchild == 0) {
            Crew own(5);  // more than the parent has
            REQUIRE(getpid() == 1 && broadcast_mark(2).ok());
            REQUIRE(own.count_unlike(mark(2)) == 0);
            _exit(0);
          }
          REQUIRE(waitpid(grandchild, &status, 0) == grandchild && status == 0);
          REQUIRE(broadcast_mark(3).ok() && crew.count_unlike(mark(3)) == 0);
          _exit(0);
        }
        waitpid(child, &status, 0);
        REQUIRE(status == 0);
      },
      10));
}

TEST(Psx, ZombieLeaderBeforeProcOfAnotherPidNamespace) {
  EXPECT_PASSES(run(
      [] {
        own_namespaces(CLONE_NEWPID);
        const pid_t child = fork();
        if (child == 0) {
          set_deadline_ms(5000);
          start([](void*) -> void* {
            usleep(50000);  // time for the leader to end: its state has another's number here
            Crew crew(3);
            for (unsigned n = 1; n < 20; n++) REQUIRE(broadcast_mark(n).ok());
            REQUIRE(crew.count_unlike(mark(19)) == 0);
            _exit(0);
          });
          syscall(SYS_exit, 0);
        }
        int status = 1;
        waitpid(child, &status, 0);
        REQUIRE(status == 0);
      },
      10));
}

TEST(Psx, SurvivesClosedDescriptors) {
  EXPECT_PASSES(run(
      [] {
        Crew crew(2);
        for (unsigned n = 1; n < 20; n++) {
          REQUIRE(broadcast_mark(n).ok());
          syscall(SYS_close_range, 3, ~0U, 0);
          // Other files take the numbers; they must be left alone.
          int last = 0;
          while (last < 210) last = dup(2);
          if (n % 2 == 0) continue;
          REQUIRE(broadcast_mark(n).ok());
          REQUIRE(fcntl(205, F_GETFD) == 0 && fcntl(200, F_GETFD) == 0);
        }
        REQUIRE(crew.count_unlike(mark(19)) == 0);
      },
      10));
}
#endif

}  // namespace
}  // namespace caisson::psx::testing
