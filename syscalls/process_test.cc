// Processes and threads: clone, wait, exit, process groups. The guests are C++ functions
// (syscalls/testing/scripted_platform.h).
#include "abi/process.h"

#include <gtest/gtest.h>
#include <linux/sched.h>
#include <sys/syscall.h>

#include "syscalls/testing/scripted_platform.h"

namespace caisson::testing {
namespace {

constexpr int kExited(int status) { return status << 8; }
constexpr uint64_t kThreadFlags =
    CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;

TEST(Process, ExitStatusIsTheProgramsOwn) {
  KernelHarness harness;
  EXPECT_EQ(harness.run([](Guest& g) {
    EXPECT_EQ(g.sys(SYS_getpid), 2);
    EXPECT_EQ(g.sys(SYS_getppid), 1);
    EXPECT_EQ(g.sys(335), -ENOSYS);
    EXPECT_EQ(g.sys(0x40000000), -ENOSYS);
    g.exit_group(7);
  }),
            kExited(7));
  EXPECT_EQ(harness.table.missing_count(335), 1u);
}

TEST(Process, WaitReapsAForkedChild) {
  KernelHarness harness;
  EXPECT_EQ(harness.run([](Guest& g) {
    int64_t child = g.fork([](Guest& c) { c.exit_group(3); });
    EXPECT_EQ(child, 3);
    uint64_t status = g.scratch();
    EXPECT_EQ(g.sys(SYS_wait4, static_cast<uint64_t>(-1), status, 0, 0), child);
    EXPECT_EQ(g.load<int>(status), kExited(3));
    EXPECT_EQ(g.sys(SYS_wait4, static_cast<uint64_t>(-1), status, 0, 0), -ECHILD);
    g.exit_group(0);
  }),
            0);
}

TEST(Process, ForkCopiesMemory) {
  KernelHarness harness;
  harness.run([](Guest& g) {
    uint64_t word = Guest::kMemory;
    g.store<int>(word, 1);
    int64_t child = g.fork([word](Guest& c) {
      EXPECT_EQ(c.load<int>(word), 1);
      c.store<int>(word, 2);
      c.exit_group(0);
    });
    g.sys(SYS_wait4, static_cast<uint64_t>(child), 0, 0, 0);
    EXPECT_EQ(g.load<int>(word), 1);
  });
}

TEST(Process, VforkParentWaitsForTheChildsEnd) {
  KernelHarness harness;
  harness.run([](Guest& g) {
    uint64_t word = Guest::kMemory;
    int64_t child = g.clone(CLONE_VM | CLONE_VFORK | SIGCHLD, [word](Guest& c) {
      uint64_t time = c.scratch();
      c.store(time, TimeSpec{0, 20'000'000});
      c.sys(SYS_nanosleep, time, 0);
      c.store<int>(word, 5);
      c.exit_group(0);
    });
    EXPECT_EQ(g.load<int>(word), 5);
    EXPECT_EQ(g.sys(SYS_wait4, static_cast<uint64_t>(child), 0, 0, 0), child);
  });
}

TEST(Process, ExitGroupEndsParkedAndRunningThreads) {
  KernelHarness harness;
  EXPECT_EQ(harness.run([](Guest& g) {
    for (int i = 0; i < 4; ++i) {
      EXPECT_GT(g.clone(kThreadFlags,
                        [i](Guest& t) {
                          if (i % 2 == 0) t.sys(SYS_pause);
                          t.spin();
                        }),
                0);
    }
    g.exit_group(9);
  }),
            kExited(9));
}

TEST(Process, LastThreadsExitCodeCountsWithoutExitGroup) {
  KernelHarness harness;
  EXPECT_EQ(harness.run([](Guest& g) {
    g.clone(kThreadFlags, [](Guest& t) {
      uint64_t time = t.scratch();
      t.store(time, TimeSpec{0, 10'000'000});
      t.sys(SYS_nanosleep, time, 0);
      t.exit(4);
    });
    g.exit(1);  // the leader first
  }),
            kExited(4));
}

TEST(Process, ClearChildTidIsClearedAndWoken) {
  KernelHarness harness;
  harness.run([](Guest& g) {
    uint64_t word = Guest::kMemory;
    g.store<int>(word, 1);
    int64_t tid = g.clone(
        kThreadFlags | CLONE_CHILD_CLEARTID | CLONE_PARENT_SETTID, [](Guest& t) { t.exit(0); },
        word + 8, word);
    EXPECT_EQ(g.load<int>(word + 8), tid);
    while (g.load<int>(word) != 0) {
      int64_t result = g.sys(SYS_futex, word, 0 /* FUTEX_WAIT */, 1, 0);
      EXPECT_TRUE(result == 0 || result == -EAGAIN) << result;
    }
  });
}

TEST(Process, OrphansGoToTheSubreaper) {
  KernelHarness harness;
  harness.run([](Guest& g) {
    EXPECT_EQ(g.sys(SYS_prctl, 36 /* PR_SET_CHILD_SUBREAPER */, 1), 0);
    int64_t child = g.fork([](Guest& c) {
      c.fork([](Guest& grandchild) {
        uint64_t time = grandchild.scratch();
        grandchild.store(time, TimeSpec{0, 20'000'000});
        grandchild.sys(SYS_nanosleep, time, 0);
        EXPECT_EQ(grandchild.sys(SYS_getppid), 2);
        grandchild.exit_group(6);
      });
      c.exit_group(0);
    });
    uint64_t status = g.scratch();
    EXPECT_EQ(g.sys(SYS_wait4, static_cast<uint64_t>(child), status, 0, 0), child);
    EXPECT_GT(g.sys(SYS_wait4, static_cast<uint64_t>(-1), status, 0, 0), child);
    EXPECT_EQ(g.load<int>(status), kExited(6));
  });
}

TEST(Process, OrphansGoToInit) {
  KernelHarness harness;
  harness.run([](Guest& g) {
    uint64_t shared = Guest::kMemory;
    int64_t child = g.clone(CLONE_VM | SIGCHLD, [shared](Guest& c) {
      c.clone(CLONE_VM | SIGCHLD, [shared](Guest& grandchild) {
        while (grandchild.sys(SYS_getppid) != 1) grandchild.sys(SYS_sched_yield);
        grandchild.store<int>(shared, 1);
        grandchild.exit_group(0);
      });
      c.exit_group(0);
    });
    EXPECT_EQ(g.sys(SYS_wait4, static_cast<uint64_t>(child), 0, 0, 0), child);
    while (g.load<int>(shared) == 0) g.sys(SYS_sched_yield);
    EXPECT_EQ(g.sys(SYS_wait4, static_cast<uint64_t>(-1), 0, 0, 0), -ECHILD);
  });
}

TEST(Process, IgnoredSigchldLeavesNoZombie) {
  KernelHarness harness;
  harness.run([](Guest& g) {
    g.ignore(SIGCHLD);
    g.fork([](Guest& c) { c.exit_group(0); });
    EXPECT_EQ(g.sys(SYS_wait4, static_cast<uint64_t>(-1), 0, 0, 0), -ECHILD);
  });
}

TEST(Process, ProcessGroupsAndSessions) {
  KernelHarness harness;
  harness.run([](Guest& g) {
    EXPECT_EQ(g.sys(SYS_getpgid, 0), 2);
    EXPECT_EQ(g.sys(SYS_setsid), -EPERM);  // leads one
    EXPECT_EQ(g.sys(SYS_setpgid, 0, 0), -EPERM);
    int64_t child = g.fork([](Guest& c) {
      EXPECT_EQ(c.sys(SYS_getpgid, 0), 2);
      EXPECT_EQ(c.sys(SYS_setpgid, 0, 0), 0);
      EXPECT_EQ(c.sys(SYS_getpgid, 0), c.sys(SYS_getpid));
      EXPECT_EQ(c.sys(SYS_setsid), -EPERM);  // leads a process group
      EXPECT_EQ(c.sys(SYS_setpgid, 0, 2), 0);
      EXPECT_EQ(c.sys(SYS_setsid), c.sys(SYS_getpid));
      EXPECT_EQ(c.sys(SYS_getsid, 0), c.sys(SYS_getpid));
      c.exit_group(0);
    });
    g.sys(SYS_wait4, static_cast<uint64_t>(child), 0, 0, 0);
  });
}

TEST(Process, ManyForksKeepNothing) {
  KernelHarness harness;
  harness.run([](Guest& g) {
    for (int i = 0; i < 500; ++i) {
      int64_t child = g.fork([](Guest& c) { c.exit_group(1); });
      ASSERT_GT(child, 0);
      ASSERT_EQ(g.sys(SYS_wait4, static_cast<uint64_t>(child), 0, 0, 0), child);
    }
    MutexLock tree(task_tree_mu);
    EXPECT_EQ(g.task().kernel.tasks().task_count(), 2u);
  });
}

TEST(Process, CloneRefusesWhatLinuxRefuses) {
  KernelHarness harness;
  harness.run([](Guest& g) {
    auto code = [](Guest& c) { c.exit_group(0); };
    EXPECT_EQ(g.clone(CLONE_THREAD, code), -EINVAL);
    EXPECT_EQ(g.clone(CLONE_SIGHAND | SIGCHLD, code), -EINVAL);
    EXPECT_EQ(g.clone(CLONE_FS | CLONE_NEWNS | SIGCHLD, code), -EINVAL);
    EXPECT_EQ(g.clone(CLONE_NEWPID | SIGCHLD, code), -EINVAL);
    EXPECT_EQ(g.clone(65, code), -EINVAL);
  });
}

}  // namespace
}  // namespace caisson::testing
