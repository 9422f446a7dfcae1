// x87, SSE and AVX registers and control words: kept across system calls, signals, fork and
// blocking; private to each thread; reset by exec; reachable through the signal frame.
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstring>
#include <thread>

#include "tests/util/child.h"
#include "tests/util/clock.h"
#include "tests/util/must.h"
#include "tests/util/program.h"
#include "tests/util/signals.h"

namespace caisson::test {
namespace {

struct alignas(32) VectorRegisters {
  uint64_t words[16][4] = {};
  bool operator==(const VectorRegisters&) const = default;
};

bool has_avx() { return __builtin_cpu_supports("avx"); }

VectorRegisters pattern(uint64_t seed) {
  VectorRegisters registers;
  for (uint64_t r = 0; r < 16; ++r) {
    for (uint64_t w = 0; w < 4; ++w) registers.words[r][w] = seed * 1'000'003 + r * 4 + w;
  }
  if (!has_avx()) {
    for (auto& words : registers.words) words[2] = words[3] = 0;
  }
  return registers;
}

// Loads all vector registers, runs one system call, stores them. One asm block: the compiler uses
// none in between.
#define VECTOR_LOAD_AVX                                                                      \
  "vmovdqa 0(%[in]), %%ymm0\n vmovdqa 32(%[in]), %%ymm1\n vmovdqa 64(%[in]), %%ymm2\n"       \
  "vmovdqa 96(%[in]), %%ymm3\n vmovdqa 128(%[in]), %%ymm4\n vmovdqa 160(%[in]), %%ymm5\n"    \
  "vmovdqa 192(%[in]), %%ymm6\n vmovdqa 224(%[in]), %%ymm7\n vmovdqa 256(%[in]), %%ymm8\n"   \
  "vmovdqa 288(%[in]), %%ymm9\n vmovdqa 320(%[in]), %%ymm10\n vmovdqa 352(%[in]), %%ymm11\n" \
  "vmovdqa 384(%[in]), %%ymm12\n vmovdqa 416(%[in]), %%ymm13\n"                              \
  "vmovdqa 448(%[in]), %%ymm14\n vmovdqa 480(%[in]), %%ymm15\n"
#define VECTOR_STORE_AVX                                                                         \
  "vmovdqa %%ymm0, 0(%[out])\n vmovdqa %%ymm1, 32(%[out])\n vmovdqa %%ymm2, 64(%[out])\n"        \
  "vmovdqa %%ymm3, 96(%[out])\n vmovdqa %%ymm4, 128(%[out])\n vmovdqa %%ymm5, 160(%[out])\n"     \
  "vmovdqa %%ymm6, 192(%[out])\n vmovdqa %%ymm7, 224(%[out])\n vmovdqa %%ymm8, 256(%[out])\n"    \
  "vmovdqa %%ymm9, 288(%[out])\n vmovdqa %%ymm10, 320(%[out])\n"                                 \
  "vmovdqa %%ymm11, 352(%[out])\n vmovdqa %%ymm12, 384(%[out])\n"                                \
  "vmovdqa %%ymm13, 416(%[out])\n vmovdqa %%ymm14, 448(%[out])\n vmovdqa %%ymm15, 480(%[out])\n" \
  "vzeroupper\n"
#define VECTOR_LOAD_SSE                                                                   \
  "movdqa 0(%[in]), %%xmm0\n movdqa 32(%[in]), %%xmm1\n movdqa 64(%[in]), %%xmm2\n"       \
  "movdqa 96(%[in]), %%xmm3\n movdqa 128(%[in]), %%xmm4\n movdqa 160(%[in]), %%xmm5\n"    \
  "movdqa 192(%[in]), %%xmm6\n movdqa 224(%[in]), %%xmm7\n movdqa 256(%[in]), %%xmm8\n"   \
  "movdqa 288(%[in]), %%xmm9\n movdqa 320(%[in]), %%xmm10\n movdqa 352(%[in]), %%xmm11\n" \
  "movdqa 384(%[in]), %%xmm12\n movdqa 416(%[in]), %%xmm13\n"                             \
  "movdqa 448(%[in]), %%xmm14\n movdqa 480(%[in]), %%xmm15\n"
#define VECTOR_STORE_SSE                                                                   \
  "movdqa %%xmm0, 0(%[out])\n movdqa %%xmm1, 32(%[out])\n movdqa %%xmm2, 64(%[out])\n"     \
  "movdqa %%xmm3, 96(%[out])\n movdqa %%xmm4, 128(%[out])\n movdqa %%xmm5, 160(%[out])\n"  \
  "movdqa %%xmm6, 192(%[out])\n movdqa %%xmm7, 224(%[out])\n movdqa %%xmm8, 256(%[out])\n" \
  "movdqa %%xmm9, 288(%[out])\n movdqa %%xmm10, 320(%[out])\n"                             \
  "movdqa %%xmm11, 352(%[out])\n movdqa %%xmm12, 384(%[out])\n"                            \
  "movdqa %%xmm13, 416(%[out])\n movdqa %%xmm14, 448(%[out])\n movdqa %%xmm15, 480(%[out])\n"
#define VECTOR_CLOBBERS                                                                           \
  "rcx", "r11", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", \
      "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"

[[gnu::noinline]] long call_with(const VectorRegisters& in, VectorRegisters* out, long number,
                                 long a = 0, long b = 0, long c = 0) {
  long result = number;
  if (has_avx()) {
    asm volatile(VECTOR_LOAD_AVX "syscall\n" VECTOR_STORE_AVX
                 : "+a"(result)
                 : [in] "r"(&in), [out] "r"(out), "D"(a), "S"(b), "d"(c)
                 : VECTOR_CLOBBERS);
  } else {
    asm volatile(VECTOR_LOAD_SSE "syscall\n" VECTOR_STORE_SSE
                 : "+a"(result)
                 : [in] "r"(&in), [out] "r"(out), "D"(a), "S"(b), "d"(c)
                 : VECTOR_CLOBBERS);
  }
  return result;
}

// Overwrites everything a handler could leave behind.
void trample() {
  static const VectorRegisters noise = pattern(0xbad);
  VectorRegisters unused;
  call_with(noise, &unused, SYS_getppid);
  const uint32_t mxcsr = 0x1f80 | (3 << 13);
  asm volatile("ldmxcsr %0" ::"m"(mxcsr));
  asm volatile("fninit\n fldpi\n fldpi");
}
void trampling_handler(int) { trample(); }

TEST(VectorState, KeptAcrossSystemCalls) {
  const VectorRegisters in = pattern(1);
  VectorRegisters out;
  EXPECT_EQ(call_with(in, &out, SYS_getpid), getpid());
  EXPECT_EQ(out, in);
  const timespec pause = {0, 5'000'000};
  EXPECT_EQ(call_with(in, &out, SYS_nanosleep, reinterpret_cast<long>(&pause)), 0);
  EXPECT_EQ(out, in);
  EXPECT_EQ(call_with(in, &out, 99'999), -ENOSYS);
  EXPECT_EQ(out, in);
}

TEST(VectorState, KeptAcrossHandlers) {
  HandlerGuard guard(SIGUSR1, trampling_handler);
  const VectorRegisters in = pattern(2);
  VectorRegisters out;
  EXPECT_EQ(call_with(in, &out, SYS_kill, getpid(), SIGUSR1), 0);
  EXPECT_EQ(out, in);
}

TEST(VectorState, KeptAcrossInterruptedWaits) {
  for (int flags : {0, SA_RESTART}) {
    HandlerGuard guard(SIGUSR1, trampling_handler, flags);
    Pipe pipe = must_pipe();
    const pid_t tid = gettid_now();
    Later later(15, [&] {
      tgkill_now(getpid(), tid, SIGUSR1);
      sleep_ms(15);
      write_all(pipe.write_end.get(), "x");
    });
    const VectorRegisters in = pattern(3);
    VectorRegisters out;
    char byte;
    const long result =
        call_with(in, &out, SYS_read, pipe.read_end.get(), reinterpret_cast<long>(&byte), 1);
    EXPECT_EQ(result, flags == 0 ? -EINTR : 1);
    EXPECT_EQ(out, in);
  }
}

TEST(VectorState, CopiedByFork) {
  const VectorRegisters in = pattern(4);
  VectorRegisters out;
  const long pid = call_with(in, &out, SYS_fork);
  if (pid == 0) _exit(out == in ? 0 : 1);
  EXPECT_EQ(out, in);
  EXPECT_THAT(Child::adopt(static_cast<pid_t>(pid)).wait(), ExitedWith(0));
}

TEST(VectorState, PrivateToThreads) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      const VectorRegisters in = pattern(100 + t);
      VectorRegisters out;
      for (int i = 0; i < 2000; ++i) {
        call_with(in, &out, i % 2 ? SYS_getppid : SYS_sched_yield);
        ASSERT_EQ(out, in);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// No system call at all between load and check: a signal may come anywhere.
TEST(VectorState, KeptAcrossAsynchronousSignals) {
  HandlerGuard guard(SIGUSR1, trampling_handler, SA_RESTART);
  std::atomic<bool> stop = false;
  const pid_t tid = gettid_now();
  std::thread sender([&] {
    while (!stop) {
      tgkill_now(getpid(), tid, SIGUSR1);
      sleep_us(200);
    }
  });
  const VectorRegisters in = pattern(5);
  Stopwatch watch;
  while (watch.ms() < 150) {
    VectorRegisters out;
    if (has_avx()) {
      asm volatile(VECTOR_LOAD_AVX "mov $20000, %%ecx\n 1: dec %%ecx\n jnz 1b\n" VECTOR_STORE_AVX
                   :
                   : [in] "r"(&in), [out] "r"(&out)
                   : VECTOR_CLOBBERS);
    } else {
      asm volatile(VECTOR_LOAD_SSE "mov $20000, %%ecx\n 1: dec %%ecx\n jnz 1b\n" VECTOR_STORE_SSE
                   :
                   : [in] "r"(&in), [out] "r"(&out)
                   : VECTOR_CLOBBERS);
    }
    if (out != in) {
      ADD_FAILURE() << "registers changed";
      break;
    }
  }
  stop = true;
  sender.join();
}

uint32_t mxcsr_now() {
  uint32_t value;
  asm volatile("stmxcsr %0" : "=m"(value));
  return value;
}
void set_mxcsr(uint32_t value) { asm volatile("ldmxcsr %0" ::"m"(value)); }
uint16_t control_word_now() {
  uint16_t value;
  asm volatile("fnstcw %0" : "=m"(value));
  return value;
}
void set_control_word(uint16_t value) { asm volatile("fldcw %0" ::"m"(value)); }

std::atomic<uint32_t> handler_mxcsr;
std::atomic<uint32_t> handler_control_word;
void note_control(int) {
  handler_mxcsr = mxcsr_now();
  handler_control_word = control_word_now();
  trample();
}

TEST(ControlWords, KeptEverywhereAndResetInHandlers) {
  HandlerGuard guard(SIGUSR1, note_control);
  const uint32_t mxcsr_before = mxcsr_now();
  const uint16_t word_before = control_word_now();
  constexpr uint32_t kMxcsr = 0x1f80 | (1 << 13) | (1 << 15);
  constexpr uint16_t kWord = 0x037f | (2 << 10);
  set_mxcsr(kMxcsr);
  set_control_word(kWord);
  syscall(SYS_getppid);
  sleep_us(10);
  EXPECT_EQ(mxcsr_now() & ~0x3fu, kMxcsr);
  EXPECT_EQ(control_word_now(), kWord);
  raise(SIGUSR1);
  EXPECT_EQ(mxcsr_now() & ~0x3fu, kMxcsr);
  EXPECT_EQ(control_word_now(), kWord);
  // Handlers start from the default state.
  EXPECT_EQ(handler_mxcsr, 0x1f80u);
  EXPECT_EQ(handler_control_word, 0x037fu);
  const pid_t pid = fork();
  if (pid == 0) _exit((mxcsr_now() & ~0x3fu) == kMxcsr && control_word_now() == kWord ? 0 : 1);
  EXPECT_THAT(Child::adopt(pid).wait(), ExitedWith(0));
  set_mxcsr(mxcsr_before);
  set_control_word(word_before);
}

int report_control(int, char**) {
  return mxcsr_now() == 0x1f80 && control_word_now() == 0x037f ? 21 : 22;
}
RegisterProbe report_control_probe("report_control", report_control);

TEST(ControlWords, ResetByExec) {
  const auto command = probe_command("report_control");
  const auto arguments = exec_vector(command);
  Child child = Child::run([&] {
    set_mxcsr(0x1f80 | (1 << 13));
    set_control_word(0x037f | (2 << 10));
    execv(arguments[0], arguments.data());
    return 90;
  });
  EXPECT_THAT(child.wait(), ExitedWith(21));
}

TEST(X87, StackKeptAcrossSignalAndCall) {
  HandlerGuard guard(SIGUSR1, trampling_handler);
  const long pid = getpid();
  double first = 0, second = 0;
  long result = SYS_kill;
  asm volatile(
      "fninit\n fld1\n fldpi\n"
      "syscall\n"
      "fstpl %1\n fstpl %2\n"
      : "+a"(result), "=m"(first), "=m"(second)
      : "D"(pid), "S"(static_cast<long>(SIGUSR1))
      : "rcx", "r11", "memory");
  EXPECT_EQ(result, 0);
  EXPECT_DOUBLE_EQ(first, 3.14159265358979323846);
  EXPECT_EQ(second, 1.0);
}

std::atomic<uint64_t> frame_xmm3;
void edit_frame(int, siginfo_t*, void* context) {
  auto* state = static_cast<ucontext_t*>(context)->uc_mcontext.fpregs;
  uint64_t low;
  std::memcpy(&low, &state->_xmm[3], 8);
  frame_xmm3 = low;
  low = 0x5555;
  std::memcpy(&state->_xmm[4], &low, 8);
}

TEST(Frame, HandlersSeeAndChangeVectorRegisters) {
  HandlerGuard guard(SIGUSR1, edit_frame);
  const VectorRegisters in = pattern(6);
  VectorRegisters out;
  EXPECT_EQ(call_with(in, &out, SYS_kill, getpid(), SIGUSR1), 0);
  EXPECT_EQ(frame_xmm3, in.words[3][0]);
  EXPECT_EQ(out.words[4][0], 0x5555u);
  EXPECT_EQ(out.words[3][0], in.words[3][0]);
  EXPECT_EQ(out.words[4][1], in.words[4][1]);
  if (has_avx()) {
    EXPECT_EQ(out.words[4][3], in.words[4][3]);
  }
}

std::atomic<uint32_t> frame_magic1, frame_magic2, frame_size;
void read_magic(int, siginfo_t*, void* context) {
  auto* bytes = reinterpret_cast<char*>(static_cast<ucontext_t*>(context)->uc_mcontext.fpregs);
  uint32_t words[3];
  std::memcpy(words, bytes + 464, sizeof(words));
  frame_magic1 = words[0];
  frame_size = words[1];
  std::memcpy(words, bytes + frame_size - 4, 4);
  frame_magic2 = words[0];
}

TEST(Frame, ExtendedStateIsMarked) {
  if (!has_avx()) GTEST_SKIP() << "needs XSAVE";
  HandlerGuard guard(SIGUSR1, read_magic);
  raise(SIGUSR1);
  EXPECT_EQ(frame_magic1, 0x46505853u);
  EXPECT_EQ(frame_magic2, 0x46505845u);
  EXPECT_GE(frame_size, 512u + 64 + 256);
}

// sigreturn with a broken frame kills; it never loads a state the CPU refuses.
TEST(Frame, BrokenFrameKills) {
  Child child = Child::run([] {
    HandlerGuard guard(SIGUSR1, [](int, siginfo_t*, void* context) {
      auto* bytes = reinterpret_cast<char*>(static_cast<ucontext_t*>(context)->uc_mcontext.fpregs);
      const uint32_t bad_mxcsr = 0xffff'ffff;
      std::memcpy(bytes + 24, &bad_mxcsr, 4);
    });
    raise(SIGUSR1);
    return 0;
  });
  const int status = child.wait();
  // Old CPUs mask the bits; current ones refuse.
  EXPECT_TRUE((WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV) || status == 0)
      << wait_status_name(status);
}

TEST(Frame, BadStatePointerKills) {
  Child child = Child::run([] {
    HandlerGuard guard(SIGUSR1, [](int, siginfo_t*, void* context) {
      static_cast<ucontext_t*>(context)->uc_mcontext.fpregs =
          reinterpret_cast<decltype(mcontext_t::fpregs)>(0xdead'0000'0000'0000);
    });
    raise(SIGUSR1);
    return 0;
  });
  EXPECT_THAT(child.wait(), KilledBy(SIGSEGV));
}

}  // namespace
}  // namespace caisson::test
