// clone(2) used directly: flags, argument checks, tid pointers, exit signals, threads without a
// libc.
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>

#include "tests/util/child.h"
#include "tests/util/clock.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"
#include "tests/util/signals.h"

#ifndef CLONE_CLEAR_SIGHAND
#define CLONE_CLEAR_SIGHAND 0x1'0000'0000ULL
#endif

namespace caisson::test {
namespace {

constexpr unsigned kThreadFlags =
    CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;

class RawStack {
 public:
  char* top() const { return memory_.end() - 64; }

 private:
  Mapping memory_ = Mapping::anonymous(64 * 1024);
};

// Runs in a thread that has the parent's TLS: raw calls only.
long raw_call(long number, long a = 0, long b = 0, long c = 0, long d = 0) {
  long result;
  register long r10 asm("r10") = d;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
               : "rcx", "r11", "memory");
  return result;
}

struct ThreadNote {
  std::atomic<int> tid_seen{0};
  std::atomic<int> clear_word{1};
  std::atomic<int> parent_tid{0};
  std::atomic<int> child_tid{0};
};

int raw_thread(void* argument) {
  auto* note = static_cast<ThreadNote*>(argument);
  note->tid_seen = static_cast<int>(raw_call(SYS_gettid));
  raw_call(SYS_exit, 0);
  return 0;
}

void wait_cleared(std::atomic<int>& word) {
  int value;
  while ((value = word.load()) != 0) {
    syscall(SYS_futex, &word, FUTEX_WAIT, value, nullptr, nullptr, 0);
  }
}

TEST(Clone, ThreadSetsAndClearsTids) {
  RawStack stack;
  ThreadNote note;
  const int tid = clone(raw_thread, stack.top(),
                        static_cast<int>(kThreadFlags | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID),
                        &note, &note.parent_tid, nullptr, &note.clear_word);
  ASSERT_THAT(tid, Succeeds());
  EXPECT_EQ(note.parent_tid, tid);
  wait_cleared(note.clear_word);
  EXPECT_EQ(note.tid_seen, tid);
  EXPECT_THAT(waitpid(tid, nullptr, __WALL), FailsWith(ECHILD));
}

TEST(Clone, ThreadsInARow) {
  RawStack stack;
  for (int i = 0; i < 500; ++i) {
    ThreadNote note;
    const int tid =
        clone(raw_thread, stack.top(), static_cast<int>(kThreadFlags | CLONE_CHILD_CLEARTID), &note,
              nullptr, nullptr, &note.clear_word);
    ASSERT_THAT(tid, Succeeds());
    wait_cleared(note.clear_word);
    ASSERT_EQ(note.tid_seen, tid);
  }
}

TEST(Clone, ChildSettidWritesIntoTheChild) {
  Mapping page = Mapping::anonymous(kPageSize);
  auto* word = page.as<int>();
  const long pid = syscall(SYS_clone, SIGCHLD | CLONE_CHILD_SETTID, nullptr, nullptr, word, 0);
  if (pid == 0) _exit(*word == syscall(SYS_getpid) ? 0 : 1);
  EXPECT_THAT(Child::adopt(static_cast<pid_t>(pid)).wait(), ExitedWith(0));
  EXPECT_EQ(*word, 0);
}

TEST(Clone, FlagCombinationErrors) {
  const struct {
    unsigned long flags;
    int error;
  } cases[] = {
      {CLONE_SIGHAND, EINVAL},
      {CLONE_THREAD | CLONE_VM, EINVAL},
      {CLONE_THREAD | CLONE_SIGHAND, EINVAL},
      {CLONE_FS | CLONE_NEWNS, EINVAL},
      {CLONE_NEWPID | CLONE_THREAD | CLONE_VM | CLONE_SIGHAND, EINVAL},
  };
  for (const auto& wrong : cases) {
    EXPECT_THAT(syscall(SYS_clone, wrong.flags, nullptr, nullptr, nullptr, 0),
                FailsWith(wrong.error))
        << std::hex << wrong.flags;
  }
}

TEST(Clone, BadParentTidPointer) {
  // The write of the parent's tid is not checked for errors.
  const long pid =
      syscall(SYS_clone, SIGCHLD | CLONE_CHILD_SETTID, nullptr, nullptr, bad_pointer(), 0);
  if (pid == 0) _exit(3);
  ASSERT_THAT(pid, Succeeds());
  EXPECT_THAT(Child::adopt(static_cast<pid_t>(pid)).wait(), ExitedWith(3));
}

int set_shared(void* argument) {
  *static_cast<volatile int*>(argument) = 77;
  return 5;
}

TEST(Clone, VmWithoutThread) {
  RawStack stack;
  volatile int value = 0;
  const int pid = clone(set_shared, stack.top(), CLONE_VM | SIGCHLD, const_cast<int*>(&value));
  ASSERT_THAT(pid, Succeeds());
  EXPECT_THAT(Child::adopt(pid).wait(), ExitedWith(5));
  EXPECT_EQ(value, 77);
}

TEST(Clone, FilesSharedOrCopied) {
  for (bool share : {false, true}) {
    const long pid =
        syscall(SYS_clone, SIGCHLD | (share ? CLONE_FILES : 0), nullptr, nullptr, nullptr, 0);
    if (pid == 0) _exit(dup2(0, 70) == 70 ? 0 : 1);
    EXPECT_THAT(Child::adopt(static_cast<pid_t>(pid)).wait(), ExitedWith(0));
    EXPECT_EQ(fcntl(70, F_GETFD) != -1, share);
    close(70);
  }
}

TEST(Clone, FsSharedOrCopied) {
  const mode_t before = umask(022);
  for (bool share : {false, true}) {
    const long pid =
        syscall(SYS_clone, SIGCHLD | (share ? CLONE_FS : 0), nullptr, nullptr, nullptr, 0);
    if (pid == 0) {
      umask(077);
      _exit(0);
    }
    EXPECT_THAT(Child::adopt(static_cast<pid_t>(pid)).wait(), ExitedWith(0));
    EXPECT_EQ(umask(022), share ? 077u : 022u);
  }
  umask(before);
}

TEST(Clone, ParentFlagMakesASibling) {
  Child child = Child::run([] {
    Child middle = Child::run([] {
      const pid_t parent = getppid();
      const long pid = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, nullptr, nullptr, nullptr, 0);
      if (pid == 0) _exit(getppid() == parent ? 6 : 7);
      REQUIRE(waitpid(static_cast<pid_t>(pid), nullptr, 0) == -1 && errno == ECHILD);
      return 0;
    });
    REQUIRE(WEXITSTATUS(middle.wait()) == 0);
    int status;
    REQUIRE(wait(&status) > 0);
    return WEXITSTATUS(status);
  });
  EXPECT_THAT(child.wait(), ExitedWith(6));
}

volatile sig_atomic_t usr2_seen;
void note_usr2(int) { usr2_seen = usr2_seen + 1; }

// A child whose exit signal isn't SIGCHLD is a "clone child": plain wait doesn't see it.
TEST(Clone, OtherExitSignal) {
  usr2_seen = 0;
  HandlerGuard handler(SIGUSR2, note_usr2, SA_RESTART);
  const long pid = syscall(SYS_clone, SIGUSR2, nullptr, nullptr, nullptr, 0);
  if (pid == 0) _exit(4);
  ASSERT_TRUE(eventually([] { return usr2_seen == 1; }));
  int status;
  EXPECT_THAT(waitpid(static_cast<pid_t>(pid), &status, 0), FailsWith(ECHILD));
  EXPECT_THAT(waitpid(static_cast<pid_t>(pid), &status, __WCLONE), SucceedsWith(pid));
  EXPECT_THAT(status, ExitedWith(4));
}

TEST(Clone, NoExitSignal) {
  const long pid = syscall(SYS_clone, 0, nullptr, nullptr, nullptr, 0);
  if (pid == 0) _exit(4);
  int status;
  EXPECT_THAT(waitpid(static_cast<pid_t>(pid), &status, __WALL), SucceedsWith(pid));
  EXPECT_THAT(status, ExitedWith(4));
}

TEST(Clone, SighandShared) {
  RawStack stack;
  const int pid = clone(
      [](void*) -> int {
        signal(SIGUSR2, SIG_IGN);
        return 0;
      },
      stack.top(), CLONE_VM | CLONE_SIGHAND | SIGCHLD, nullptr);
  ASSERT_THAT(pid, Succeeds());
  EXPECT_THAT(Child::adopt(pid).wait(), ExitedWith(0));
  EXPECT_EQ(signal(SIGUSR2, SIG_DFL), SIG_IGN);
}

TEST(Clone3, ForkLikeAndErrors) {
  clone_args arguments = {};
  arguments.exit_signal = SIGCHLD;
  const long pid = syscall(SYS_clone3, &arguments, sizeof(arguments));
  if (pid == 0) _exit(12);
  if (pid == -1 && errno == ENOSYS) GTEST_SKIP() << "no clone3 (allowed: libraries fall back)";
  EXPECT_THAT(Child::adopt(static_cast<pid_t>(pid)).wait(), ExitedWith(12));
  EXPECT_THAT(syscall(SYS_clone3, &arguments, 10), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_clone3, &arguments, 1 << 20), FailsWith(E2BIG));
  EXPECT_THAT(syscall(SYS_clone3, bad_pointer(), sizeof(arguments)), FailsWith(EFAULT));
  arguments.exit_signal = 0x100;
  EXPECT_THAT(syscall(SYS_clone3, &arguments, sizeof(arguments)), FailsWith(EINVAL));
  arguments = {};
  arguments.stack = 0x10000;
  EXPECT_THAT(syscall(SYS_clone3, &arguments, sizeof(arguments)), FailsWith(EINVAL));
  arguments = {};
  arguments.flags = 1ULL << 60;
  EXPECT_THAT(syscall(SYS_clone3, &arguments, sizeof(arguments)), FailsWith(EINVAL));
}

TEST(Clone, RegistersPassToTheChild) {
  // Every callee-visible register but rax, rcx and r11 is the same on both sides.
  long bad = 0;
  const long pid = [&bad] {
    long result;
    asm volatile(
        "mov $0x1111, %%r12\n mov $0x2222, %%r13\n mov $0x3333, %%r14\n mov $0x4444, %%r15\n"
        "mov $0x5555, %%r9\n"
        "syscall\n"
        "xor %%rbx, %%rbx\n"
        "cmp $0x1111, %%r12\n setne %%cl\n or %%cl, %%bl\n"
        "cmp $0x2222, %%r13\n setne %%cl\n or %%cl, %%bl\n"
        "cmp $0x3333, %%r14\n setne %%cl\n or %%cl, %%bl\n"
        "cmp $0x4444, %%r15\n setne %%cl\n or %%cl, %%bl\n"
        "cmp $0x5555, %%r9\n setne %%cl\n or %%cl, %%bl\n"
        : "=a"(result), "=&b"(bad)
        : "a"(SYS_clone), "D"(SIGCHLD), "S"(0), "d"(0)
        : "rcx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory");
    return result;
  }();
  if (pid == 0) _exit(bad == 0 ? 0 : 1);
  EXPECT_EQ(bad, 0);
  EXPECT_THAT(Child::adopt(static_cast<pid_t>(pid)).wait(), ExitedWith(0));
}

}  // namespace
}  // namespace caisson::test
