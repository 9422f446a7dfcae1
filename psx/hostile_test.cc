// What if the surroundings refuse or end what a broadcast needs: filters, calls that block,
// children that share our memory.
#include <gtest/gtest.h>
#include <linux/io_uring.h>
#include <sched.h>

#include <filesystem>

#include "psx/race_support.h"

namespace caisson::psx::testing {
namespace {

constexpr uint64_t kAllSignals = ~uint64_t{0};

// A thread that hears no signal until it is told to, and then says what its mark is.
class Deaf {
 public:
  Deaf() : thread_(start(&Deaf::body, this)) {
    while (tid_ == 0) usleep(100);
  }
  ~Deaf() { hear(); }
  unsigned long hear() {
    if (!may_hear_.exchange(true)) pthread_join(thread_, nullptr);
    return mark_;
  }

 private:
  static void* body(void* deaf) {
    auto* self = static_cast<Deaf*>(deaf);
    const uint64_t none = 0;
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &kAllSignals, nullptr, 8);
    self->tid_ = static_cast<int>(syscall(SYS_gettid));
    while (!self->may_hear_) usleep(100);
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, nullptr, 8);
    self->mark_ = own_mark();
    return nullptr;
  }

  std::atomic<int> tid_{0};
  std::atomic<bool> may_hear_{false};
  unsigned long mark_ = ~0UL;
  pthread_t thread_;
};

// A refusal to answer whether a thread exists is no sign that it does not.
TEST(PsxHostile, TgkillRefused) {
  EXPECT_PASSES(run(
      [] {
        Deaf deaf;
        Crew crew(2);
        refuse(SYS_tgkill, EPERM);
        set_deadline_ms(500);
        REQUIRE(broadcast_mark(1).error == ETIMEDOUT);
        REQUIRE(crew.count_unlike(mark(1)) == 0 && deaf.hear() == mark(0));
        set_deadline_ms(patience_ms());
        REQUIRE(broadcast_mark(2).ok() && crew.count_unlike(mark(2)) == 0);
      },
      10));
}

TEST(PsxHostile, ListingRefused) {
  const Report report = run(
      [] {
        Crew crew(2);
        REQUIRE(broadcast_mark(1).ok());
        refuse(SYS_getdents64, EPERM);
        REQUIRE(broadcast_mark(2).ok());  // nobody is new
        Crew more(1);
        REQUIRE(broadcast_mark(3).error == EPERM);
      },
      10);
  EXPECT_PASSES(report);
  EXPECT_NE(report.errors.find(": cannot list the threads: -1 (EPERM)\n"), std::string::npos)
      << report.errors;
}

// Who has its signal but has not looked at it when a broadcast fails does not make the call later.
TEST(PsxHostile, NobodyMakesAFailedCallLater) {
  EXPECT_PASSES(run(
      [] {
        Deaf deaf;  // the first in the list
        std::atomic<int> tid{0};
        start(
            [](void* where) -> void* {
              *static_cast<std::atomic<int>*>(where) = static_cast<int>(syscall(SYS_gettid));
              for (;;) pause();
            },
            &tid);
        while (tid == 0) usleep(100);
        refuse(SYS_rt_tgsigqueueinfo, EPERM, tid);
        REQUIRE(broadcast_mark(1).error == EPERM);
        REQUIRE(own_mark() == mark(1) && deaf.hear() == mark(0));
      },
      10));
}

// Only the caller finds a byte in the pipe.
TEST(PsxHostile, CallThatBlocksElsewhere) {
  const Report report = run(
      [] {
        Crew crew(1);
        int ends[2];
        char byte = 0;
        const char enough[8] = {};  // for a sanitizer's thread too
        REQUIRE(broadcast_mark(1).ok() && pipe(ends) == 0 && write(ends[1], &byte, 1) == 1);
        set_deadline_ms(500);
        const auto in = static_cast<uintptr_t>(ends[0]);
        REQUIRE(syscall3(SYS_read, in, reinterpret_cast<uintptr_t>(&byte), 1).error == ETIMEDOUT);
        REQUIRE(write(ends[1], enough, sizeof(enough)) == sizeof(enough));
        set_deadline_ms(patience_ms());
        REQUIRE(broadcast_mark(2).ok() && crew.count_unlike(mark(2)) == 0);
      },
      10);
  EXPECT_PASSES(report);
  EXPECT_NE(report.errors.find("did not answer within 500 ms: it is in the call\n"),
            std::string::npos)
      << report.errors;
}

// A filter that kills the thread alone: its broadcast cannot go on, and neither can who is held.
std::atomic<int> killed_soon{0};

void* is_killed(void* nr) {
  filter_on(static_cast<int>(reinterpret_cast<intptr_t>(nr)), SECCOMP_RET_KILL_THREAD);
  killed_soon = static_cast<int>(syscall(SYS_gettid));
  (void)broadcast_mark(2);
  _exit(1);
}

// A caller in turn, or held.
void* survives(void*) {
  while (killed_soon == 0) usleep(100);
  for (std::string state; state != "?" && state[0] != 'Z';) {  // a leader stays as a zombie
    state = status_field(std::to_string(killed_soon), "State");
  }
  (void)broadcast_mark(3);
  _exit(1);
}

void caller_is_killed(int nr, bool is_leader) {
  Crew crew(2);
  REQUIRE(broadcast_mark(1).ok());
  start([](void*) -> void* {  // not known yet: the list is needed
    for (;;) pause();
  });
  start(is_leader ? survives : is_killed, reinterpret_cast<void*>(intptr_t{nr}));
  (is_leader ? is_killed : survives)(reinterpret_cast<void*>(intptr_t{nr}));
}

TEST(PsxHostile, CallerKilled) {
  for (const int nr : {SYS_getdents64, SYS_personality}) {
    for (const bool is_leader : {false, true}) {
      const Report report = run([=] { caller_is_killed(nr, is_leader); }, 20);
      EXPECT_EQ(report.ending, Ending::kKilled) << report.errors;
      EXPECT_EQ(report.signal, SIGSYS);
      EXPECT_NE(report.errors.find("psx: a thread was killed amid its broadcast; ending"),
                std::string::npos)
          << report.errors;
    }
  }
}
TEST(PsxHostile, CallerKilledWithoutOrphan) {
  SKIP_IF_SANITIZED();
  for (const int nr : {SYS_getdents64, SYS_personality}) {
    const Report report = run([nr] { caller_is_killed(nr, true); }, 3, {internal::Guard::kOrphan});
    EXPECT_EQ(report.ending, Ending::kHang);
  }
}

// A handler of our signal runs on the caller amid its broadcast; here the call itself brings it.
std::atomic<int> broadcasts_within{0};

TEST(PsxHostile, BroadcastWithinABroadcast) {
  // The other threads' signals come to the caller at any instruction, also amid the run-time.
  if (kThreadSanitizer) GTEST_SKIP() << "TSan's run-time waits for itself in such a handler";
  EXPECT_PASSES(run(
      [] {
        Crew crew(2);
        handle_signal_33([](int, siginfo_t*, void*) {
          REQUIRE(broadcast_mark(1).error == EDEADLK && prepare() == EDEADLK);
          broadcasts_within++;
        });
        const auto self = static_cast<uintptr_t>(getpid());
        REQUIRE(syscall3(SYS_tgkill, self, self, 33).ok());
        REQUIRE(broadcasts_within > 0);
      },
      10));
}

// The kernel's own threads in our process are listed and counted, but run no handler.
TEST(PsxHostile, KernelWorkers) {
  EXPECT_PASSES(run(
      [] {
        Crew crew(2);
        REQUIRE(broadcast_mark(1).ok());
        io_uring_params params = {};
        params.flags = IORING_SETUP_SQPOLL;
        const auto ring = static_cast<int>(syscall(SYS_io_uring_setup, 4, &params));
        if (ring < 0) skip("no io_uring here");
        std::string worker;  // it takes this name when it starts
        while (worker.empty()) {
          for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
            const std::string tid = task.path().filename();
            if (status_field(tid, "Name").substr(0, 8) == "iou-sqp-") worker = tid;
          }
        }
        REQUIRE(broadcast_mark(2).ok() && crew.count_unlike(mark(2)) == 0);
        // Once known it gets no more signals; they would stay in its queue for ever.
        refuse(SYS_rt_tgsigqueueinfo, EPERM, std::stoi(worker));
        Crew more(2);
        REQUIRE(broadcast_mark(3).ok());
        REQUIRE(crew.count_unlike(mark(3)) == 0 && more.count_unlike(mark(3)) == 0);
        close(ring);
        while (access(("/proc/self/task/" + worker).c_str(), F_OK) == 0) usleep(100);
        REQUIRE(broadcast_mark(4).ok());
        REQUIRE(crew.count_unlike(mark(4)) == 0 && more.count_unlike(mark(4)) == 0);
      },
      20));
}

#ifndef CAISSON_SANITIZED  // run-times of sanitizers make calls of their own

// A filter that allows what psx/README.md lists, and what these threads do of themselves.
void allow_only_what_is_listed() {
  const int allowed[] = {// on the caller
                         SYS_unshare, SYS_getpid, SYS_gettid, SYS_rt_sigprocmask, SYS_rt_sigaction,
                         SYS_openat, SYS_fcntl, SYS_fstat, SYS_fstatfs, SYS_readlinkat, SYS_lseek,
                         SYS_getdents64, SYS_read, SYS_close, SYS_rt_tgsigqueueinfo, SYS_tgkill,
                         SYS_futex, SYS_sched_yield, SYS_nanosleep, SYS_clock_gettime, SYS_mmap,
                         SYS_munmap, SYS_madvise, SYS_ppoll, SYS_write,
                         // on the others, beside some of these
                         SYS_rt_sigreturn,
                         // the test
                         SYS_personality, SYS_clock_nanosleep, SYS_exit, SYS_exit_group};
  std::vector<sock_filter> program = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))};
  for (const int nr : allowed) {
    program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(nr), 0, 1));
    program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  }
  program.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS));
  const sock_fprog filter = {static_cast<uint16_t>(program.size()), program.data()};
  REQUIRE(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  REQUIRE(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &filter) == 0);
}

TEST(PsxHostile, OnlyTheCallsThatTheReadmeLists) {
  EXPECT_PASSES(run(
      [] {
        Deaf deaf;
        Crew crew(200);  // the index of threads grows
        allow_only_what_is_listed();
        set_deadline_ms(500);
        REQUIRE(broadcast_mark(1).error == ETIMEDOUT);  // looks at who is late, and tells
        REQUIRE(crew.count_unlike(mark(1)) == 0);
        set_mismatch(Mismatch::kWarn);
        set_deadline_ms(patience_ms());
        REQUIRE(deaf.hear() == mark(0));
        REQUIRE(broadcast_mark(2).ok() && crew.count_unlike(mark(2)) == 0);
        _exit(0);  // what threads do at their end is not listed
      },
      20));
}

// Nor must what runs in a vfork child be instrumented. runs in a vfork child must not be
// instrumented

std::atomic<bool> children_done{false};

int vfork_child(void*) {
  const bool right = broadcast_mark(0).ok();
  syscall(SYS_exit, right ? 0 : 1);
  return 1;
}

void* makes_vfork_children(void*) {
  alignas(16) static char stack[64 * 1024];
  for (int n = 0; n < 200; n++) {
    const pid_t child =
        clone(vfork_child, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | SIGCHLD, nullptr);
    int status = 1;
    REQUIRE(child > 0 && waitpid(child, &status, 0) == child && status == 0);
  }
  children_done = true;
  return nullptr;
}

// The broadcast waits for the thread that waits for a child that makes a call as well.
TEST(PsxHostile, VforkChildCallsMeanwhile) {
  EXPECT_PASSES(run(
      [] {
        Crew crew(2);
        REQUIRE(broadcast_mark(1).ok());
        start(makes_vfork_children);
        for (unsigned n = 2; !children_done; n++) {
          REQUIRE(broadcast_mark(n).ok());
          usleep(n % 64);
        }
      },
      30));
}

#endif

}  // namespace
}  // namespace caisson::psx::testing
