// Signals: delivery, masks, restarts, stops, waiting. The guests are C++ functions.
#include <gtest/gtest.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <sys/syscall.h>

#include "abi/process.h"
#include "syscalls/testing/scripted_platform.h"

namespace caisson::testing {
namespace {

constexpr uint64_t kFlag = Guest::kMemory;
constexpr uint64_t kAny = static_cast<uint64_t>(-1);

void sleep_ms(Guest& g, int64_t ms) {
  uint64_t time = g.scratch() + 0x1000;
  g.store(time, TimeSpec{ms / 1000, ms % 1000 * 1'000'000});
  g.sys(SYS_nanosleep, time, 0);
}

TEST(Signal, HandlerRunsAndReturns) {
  KernelHarness harness;
  harness.run([](Guest& g) {
    g.handle(SIGUSR1, [](Guest& h) {
      EXPECT_EQ(h.regs().rdi, static_cast<uint64_t>(SIGUSR1));
      SigInfo info = h.load<SigInfo>(h.regs().rsi);
      EXPECT_EQ(info.signo, SIGUSR1);
      EXPECT_EQ(info.code, SI_TKILL);
      EXPECT_EQ(info.rt.pid, 2);
      UContext uc = h.load<UContext>(h.regs().rdx);
      EXPECT_EQ(uc.flags, kUcFpXstate | kUcSigcontextSs | kUcStrictRestoreSs);
      EXPECT_EQ(h.load<uint32_t>(uc.context.fpstate + kFpSoftwareOffset), kFpXstateMagic1);
      uint32_t size = h.load<uint32_t>(uc.context.fpstate + kFpSoftwareOffset + 16);
      EXPECT_EQ(h.load<uint32_t>(uc.context.fpstate + size), kFpXstateMagic2);
      EXPECT_EQ(h.regs().rsp % 16, 8u);
      h.store<int>(kFlag, 1);
    });
    g.regs().rbx = 0x1234;
    g.regs().r12 = 0x5678;
    EXPECT_EQ(g.sys(SYS_tgkill, 2, 2, SIGUSR1), 0);
    EXPECT_EQ(g.load<int>(kFlag), 1);
    EXPECT_EQ(g.regs().rbx, 0x1234u);
    EXPECT_EQ(g.regs().r12, 0x5678u);
  });
}

TEST(Signal, DefaultActionKills) {
  KernelHarness harness;
  EXPECT_EQ(harness.run([](Guest& g) { g.sys(SYS_kill, 2, SIGTERM); }), SIGTERM);
}

TEST(Signal, KillReachesASpinningTask) {
  KernelHarness harness;
  harness.run([](Guest& g) {
    int64_t child = g.fork([](Guest& c) { c.spin(); });
    EXPECT_EQ(g.sys(SYS_kill, static_cast<uint64_t>(child), SIGKILL), 0);
    EXPECT_EQ(g.sys(SYS_wait4, kAny, kFlag, 0, 0), child);
    EXPECT_EQ(g.load<int>(kFlag), SIGKILL);
  });
}

TEST(Signal, BlockedSignalsWaitForTheMask) {
  KernelHarness harness;
  harness.run([](Guest& g) {
    g.handle(SIGUSR1, [](Guest& h) { h.store<int>(kFlag, h.load<int>(kFlag) + 1); });
    uint64_t set = g.scratch();
    g.store<uint64_t>(set, 1ull << (SIGUSR1 - 1));
    EXPECT_EQ(g.sys(SYS_rt_sigprocmask, SIG_BLOCK, set, 0, 8), 0);
    g.sys(SYS_kill, 2, SIGUSR1);
    g.sys(SYS_kill, 2, SIGUSR1);  // pending once
    EXPECT_EQ(g.load<int>(kFlag), 0);
    EXPECT_EQ(g.sys(SYS_rt_sigpending, set + 8, 8), 0);
    EXPECT_EQ(g.load<uint64_t>(set + 8), 1ull << (SIGUSR1 - 1));
    EXPECT_EQ(g.sys(SYS_rt_sigprocmask, SIG_UNBLOCK, set, 0, 8), 0);
    EXPECT_EQ(g.load<int>(kFlag), 1);
  });
}

TEST(Signal, RealTimeSignalsQueueInOrder) {
  KernelHarness harness;
  harness.run([](Guest& g) {
    uint64_t set = g.scratch(), info = set + 64;
    g.store<uint64_t>(set, 1ull << 39);  // 40
    g.sys(SYS_rt_sigprocmask, SIG_BLOCK, set, 0, 8);
    for (uint64_t i = 0; i < 3; ++i) {
      SigInfo sent;
      sent.code = SI_QUEUE;
      sent.rt.value = i;
      g.store(info, sent);
      EXPECT_EQ(g.sys(SYS_rt_sigqueueinfo, 2, 40, info), 0);
    }
    for (uint64_t i = 0; i < 3; ++i) {
      EXPECT_EQ(g.sys(SYS_rt_sigtimedwait, set, info, 0, 8), 40);
      EXPECT_EQ(g.load<SigInfo>(info).rt.value, i);
    }
    g.store(set + 16, TimeSpec{0, 1'000'000});
    EXPECT_EQ(g.sys(SYS_rt_sigtimedwait, set, info, set + 16, 8), -EAGAIN);
  });
}

TEST(Signal, SigtimedwaitIsWokenByABlockedSignal) {
  KernelHarness harness;
  harness.run([](Guest& g) {
    uint64_t set = g.scratch();
    g.store<uint64_t>(set, 1ull << (SIGUSR2 - 1));
    g.sys(SYS_rt_sigprocmask, SIG_BLOCK, set, 0, 8);
    g.fork([](Guest& c) {
      sleep_ms(c, 10);
      c.sys(SYS_kill, 2, SIGUSR2);
      c.exit_group(0);
    });
    EXPECT_EQ(g.sys(SYS_rt_sigtimedwait, set, 0, 0, 8), SIGUSR2);
  });
}

// read(2)-like calls restart with SA_RESTART and fail with EINTR without; wait4 stands for them.
TEST(Signal, RestartsFollowTheTable) {
  for (bool restart : {false, true}) {
    KernelHarness harness;
    harness.run([restart](Guest& g) {
      g.handle(
          SIGUSR1, [](Guest& h) { h.store<int>(kFlag, 1); }, restart ? SA_RESTART : 0);
      int64_t child = g.fork([](Guest& c) {
        sleep_ms(c, 10);
        c.sys(SYS_kill, 2, SIGUSR1);
        sleep_ms(c, 10);
        c.exit_group(0);
      });
      EXPECT_EQ(g.sys(SYS_wait4, kAny, 0, 0, 0), restart ? child : -EINTR);
      EXPECT_EQ(g.load<int>(kFlag), 1);
    });
  }
}

TEST(Signal, NanosleepTellsWhatIsLeft) {
  KernelHarness harness;
  harness.run([](Guest& g) {
    g.handle(
        SIGUSR1, [](Guest&) {}, SA_RESTART);
    g.fork([](Guest& c) {
      sleep_ms(c, 10);
      c.sys(SYS_kill, 2, SIGUSR1);
      c.exit_group(0);
    });
    uint64_t time = g.scratch();
    g.store(time, TimeSpec{5, 0});
    EXPECT_EQ(g.sys(SYS_nanosleep, time, time + 16), -EINTR);  // never restarted after a handler
    TimeSpec left = g.load<TimeSpec>(time + 16);
    EXPECT_EQ(left.seconds, 4);
  });
}

TEST(Signal, NanosleepGoesOnAfterStopAndContinue) {
  KernelHarness harness;
  harness.run([](Guest& g) {
    uint64_t status = kFlag;
    int64_t child = g.fork([](Guest& c) {
      uint64_t before = host::monotonic_ns();
      uint64_t time = c.scratch();
      c.store(time, TimeSpec{0, 60'000'000});
      EXPECT_EQ(c.sys(SYS_nanosleep, time, time + 16), 0);
      uint64_t took = host::monotonic_ns() - before;
      EXPECT_GE(took, 60'000'000u);
      c.exit_group(0);
    });
    uint64_t pid = static_cast<uint64_t>(child);
    sleep_ms(g, 10);
    EXPECT_EQ(g.sys(SYS_kill, pid, SIGSTOP), 0);
    EXPECT_EQ(g.sys(SYS_wait4, pid, status, kWUntraced, 0), child);
    EXPECT_EQ(g.load<int>(status), SIGSTOP << 8 | 0x7f);
    EXPECT_EQ(g.sys(SYS_wait4, pid, status, kWUntraced | kWNoHang, 0), 0);  // told once
    EXPECT_EQ(g.sys(SYS_kill, pid, SIGCONT), 0);
    EXPECT_EQ(g.sys(SYS_wait4, pid, status, kWContinued, 0), child);
    EXPECT_EQ(g.load<int>(status), 0xffff);
    EXPECT_EQ(g.sys(SYS_wait4, pid, status, 0, 0), child);
    EXPECT_EQ(g.load<int>(status), 0);
  });
}

TEST(Signal, StopStopsEveryThreadAndKillEndsStopped) {
  KernelHarness harness;
  harness.run([](Guest& g) {
    int64_t child = g.fork([](Guest& c) {
      c.clone(CLONE_VM | CLONE_SIGHAND | CLONE_THREAD, [](Guest& t) { t.spin(); });
      c.clone(CLONE_VM | CLONE_SIGHAND | CLONE_THREAD, [](Guest& t) { t.sys(SYS_pause); });
      c.spin();
    });
    uint64_t pid = static_cast<uint64_t>(child);
    sleep_ms(g, 10);
    g.sys(SYS_kill, pid, SIGSTOP);
    EXPECT_EQ(g.sys(SYS_wait4, pid, kFlag, kWUntraced, 0), child);
    g.sys(SYS_kill, pid, SIGKILL);
    EXPECT_EQ(g.sys(SYS_wait4, pid, kFlag, 0, 0), child);
    EXPECT_EQ(g.load<int>(kFlag), SIGKILL);
  });
}

TEST(Signal, SigsuspendRestoresTheMaskAfterTheHandler) {
  KernelHarness harness;
  harness.run([](Guest& g) {
    uint64_t set = g.scratch();
    g.store<uint64_t>(set, 1ull << (SIGUSR1 - 1));
    g.store<uint64_t>(set + 8, 0);
    g.sys(SYS_rt_sigprocmask, SIG_BLOCK, set, 0, 8);
    g.handle(SIGUSR1, [](Guest& h) {
      UContext uc = h.load<UContext>(h.regs().rdx);
      EXPECT_EQ(uc.sigmask, 1ull << (SIGUSR1 - 1));  // what was set before sigsuspend
      h.store<int>(kFlag, 1);
    });
    g.sys(SYS_kill, 2, SIGUSR1);
    EXPECT_EQ(g.load<int>(kFlag), 0);
    EXPECT_EQ(g.sys(SYS_rt_sigsuspend, set + 8, 8), -EINTR);
    EXPECT_EQ(g.load<int>(kFlag), 1);
    EXPECT_EQ(g.sys(SYS_rt_sigprocmask, SIG_BLOCK, 0, set + 16, 8), 0);
    EXPECT_EQ(g.load<uint64_t>(set + 16), 1ull << (SIGUSR1 - 1));
  });
}

TEST(Signal, FaultsReachTheirHandlerAndKillWhenBlocked) {
  KernelHarness harness;
  EXPECT_EQ(harness.run([](Guest& g) {
    g.handle(SIGSEGV, [](Guest& h) {
      EXPECT_EQ(h.load<SigInfo>(h.regs().rsi).fault.addr, 0x10u);
      UContext uc = h.load<UContext>(h.regs().rdx);
      EXPECT_EQ(uc.context.cr2, 0x10u);
      EXPECT_EQ(uc.context.trapno, 14u);
      h.store<int>(kFlag, 1);
    });
    g.fault(0x10);
    EXPECT_EQ(g.load<int>(kFlag), 1);
    uint64_t set = g.scratch();
    g.store<uint64_t>(set, 1ull << (SIGSEGV - 1));
    g.sys(SYS_rt_sigprocmask, SIG_BLOCK, set, 0, 8);
    g.fault(0x10);
  }),
            SIGSEGV);
}

TEST(Signal, AlternateStackIsUsedAndItsOverflowKills) {
  KernelHarness harness;
  EXPECT_EQ(harness.run([](Guest& g) {
    uint64_t stack = g.scratch(), area = Guest::kMemory + 0xa0000;
    g.store(stack, SignalStack{area, 0, 0, 16384});
    EXPECT_EQ(g.sys(SYS_sigaltstack, stack, 0), 0);
    g.handle(
        SIGUSR1,
        [area, stack](Guest& h) {
          EXPECT_GT(h.regs().rsp, area);
          EXPECT_LT(h.regs().rsp, area + 16384);
          EXPECT_EQ(h.sys(SYS_sigaltstack, stack, 0), -EPERM);
        },
        SA_ONSTACK);
    g.sys(SYS_kill, 2, SIGUSR1);
    g.store(stack, SignalStack{area, 0, 0, 2048});  // smaller than a frame
    EXPECT_EQ(g.sys(SYS_sigaltstack, stack, 0), 0);
    g.sys(SYS_kill, 2, SIGUSR1);
  }),
            SIGSEGV);
}

TEST(Signal, AlarmInterrupts) {
  KernelHarness harness;
  harness.run([](Guest& g) {
    g.handle(SIGALRM, [](Guest& h) { h.store<int>(kFlag, h.load<int>(kFlag) + 1); });
    uint64_t value = g.scratch();
    g.store(value, IntervalTimerValue{{0, 2000}, {0, 2000}});
    EXPECT_EQ(g.sys(SYS_setitimer, 0, value, 0), 0);
    while (g.load<int>(kFlag) < 3) g.sys(SYS_pause);
    g.store(value, IntervalTimerValue{});
    EXPECT_EQ(g.sys(SYS_setitimer, 0, value, value + 32), 0);
    EXPECT_EQ(g.load<IntervalTimerValue>(value + 32).interval.microseconds, 2000);
  });
}

TEST(Signal, PosixTimerCountsOverruns) {
  KernelHarness harness;
  harness.run([](Guest& g) {
    uint64_t set = g.scratch(), id = set + 8, spec = set + 16, info = set + 64;
    g.store<uint64_t>(set, 1ull << (SIGALRM - 1));
    g.sys(SYS_rt_sigprocmask, SIG_BLOCK, set, 0, 8);
    EXPECT_EQ(g.sys(SYS_timer_create, 1, 0, id), 0);
    g.store(spec, IntervalTimerSpec{{0, 1'000'000}, {0, 1'000'000}});
    EXPECT_EQ(g.sys(SYS_timer_settime, g.load<uint32_t>(id), 0, spec, 0), 0);
    sleep_ms(g, 20);
    EXPECT_EQ(g.sys(SYS_rt_sigtimedwait, set, info, 0, 8), SIGALRM);
    SigInfo taken = g.load<SigInfo>(info);
    EXPECT_EQ(taken.code, SI_TIMER);
    EXPECT_GE(taken.timer.overrun, 10);
    EXPECT_EQ(g.sys(SYS_timer_getoverrun, g.load<uint32_t>(id)), taken.timer.overrun);
    EXPECT_EQ(g.sys(SYS_timer_delete, g.load<uint32_t>(id)), 0);
    EXPECT_EQ(g.sys(SYS_timer_delete, g.load<uint32_t>(id)), -EINVAL);
  });
}

TEST(Futex, WaitAndWakeBetweenThreads) {
  KernelHarness harness;
  harness.run([](Guest& g) {
    constexpr uint64_t kWord = Guest::kMemory, kDone = kWord + 64;
    constexpr int kRounds = 300;
    g.clone(CLONE_VM | CLONE_SIGHAND | CLONE_THREAD, [](Guest& t) {
      for (int i = 0; i < kRounds; ++i) {
        while (t.load<int>(kWord) != 1) t.sys(SYS_futex, kWord, FUTEX_WAIT, 0, 0);
        t.store<int>(kWord, 0);
        t.sys(SYS_futex, kWord, FUTEX_WAKE, 1);
      }
      t.store<int>(kDone, 1);
      t.sys(SYS_futex, kDone, FUTEX_WAKE, 1);
      t.exit(0);
    });
    for (int i = 0; i < kRounds; ++i) {
      g.store<int>(kWord, 1);
      g.sys(SYS_futex, kWord, FUTEX_WAKE, 1);
      while (g.load<int>(kWord) != 0) g.sys(SYS_futex, kWord, FUTEX_WAIT, 1, 0);
    }
    while (g.load<int>(kDone) == 0) g.sys(SYS_futex, kDone, FUTEX_WAIT, 0, 0);
    g.store(kWord + 128, TimeSpec{0, 1'000'000});
    EXPECT_EQ(g.sys(SYS_futex, kWord, FUTEX_WAIT, 0, kWord + 128), -ETIMEDOUT);
    EXPECT_EQ(g.sys(SYS_futex, kWord, FUTEX_WAIT, 7, 0), -EAGAIN);
    EXPECT_EQ(g.sys(SYS_futex, kWord + 1, FUTEX_WAIT, 0, 0), -EINVAL);
    EXPECT_EQ(g.sys(SYS_futex, 0x10, FUTEX_WAIT, 0, 0), -EFAULT);
  });
}

}  // namespace
}  // namespace caisson::testing
