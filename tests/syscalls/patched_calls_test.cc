// What a program may see of its system calls being patched, after enough of them: nothing.
#include <asm/prctl.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <fstream>
#include <sstream>
#include <thread>
#include <vector>

#include "tests/util/child.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"
#include "tests/util/signals.h"

namespace caisson::test {
namespace {

// Calls in the ways that are patched. The second instructions have names of their own.
__asm__(
    ".text\n"
    ".type call_getppid, @function\n"
    "call_getppid:\n  .cfi_startproc\n"
    "  mov $110, %eax\n"
    "call_any:\n"
    "  syscall\n"
    "  ret\n  .cfi_endproc\n  .size call_getppid, . - call_getppid\n"
    ".type call_read, @function\n"
    "call_read:\n  .cfi_startproc\n"
    "  xor %eax, %eax\n"
    "call_read_zero:\n"
    "  syscall\n"
    "  cmp $-4096, %rax\n"
    "  ja 1f\n"
    "  ret\n"
    "1: mov $-1, %rax\n"
    "  ret\n  .cfi_endproc\n  .size call_read, . - call_read\n"
    ".type call_for_flags, @function\n"
    "call_for_flags:\n  .cfi_startproc\n"
    "  push %rdi\n  popfq\n"
    "  mov $110, %eax\n  syscall\n"
    "  pushfq\n  pop %rax\n"
    "  ret\n  .cfi_endproc\n  .size call_for_flags, . - call_for_flags\n"
    ".type call_wake_for_flags, @function\n"
    "call_wake_for_flags:\n  .cfi_startproc\n"
    "  push %rcx\n  popfq\n"
    "  mov $202, %eax\n  syscall\n"
    "  pushfq\n  pop %rax\n"
    "  ret\n  .cfi_endproc\n  .size call_wake_for_flags, . - call_wake_for_flags\n"
    ".type call_number, @function\n"
    "call_number:\n  .cfi_startproc\n"
    "  mov %edi, %eax\n"
    "  mov %rsi, %rdi\n  mov %rdx, %rsi\n  mov %rcx, %rdx\n  xor %r10d, %r10d\n"
    "  mov $-1, %r9d\n"
    "call_number_call:\n"
    "  syscall\n"
    "call_number_compare:\n"
    "  cmp $-4095, %rax\n"
    "  jae 1f\n"
    "  ret\n"
    "1: neg %rax\n  or $0x1000000, %rax\n"
    "  ret\n  .cfi_endproc\n  .size call_number, . - call_number\n"
    ".type call_compared_flags, @function\n"
    "call_compared_flags:\n  .cfi_startproc\n"
    "  mov %edi, %eax\n"
    "  mov %rsi, %rdi\n  mov %rdx, %rsi\n"
    "  syscall\n  cmp $-4096, %rax\n"
    "  pushfq\n  pop %rax\n"
    "  ret\n  .cfi_endproc\n  .size call_compared_flags, . - call_compared_flags\n");
extern "C" {
long call_getppid();
long call_any();
long call_read(int fd, void* to, size_t length);
long call_read_zero();
uint64_t call_for_flags(uint64_t flags);
uint64_t call_wake_for_flags(int* word, int operation, int count, uint64_t flags);
// The result, or kFailed and the error.
long call_number(long number, uint64_t a1 = 0, uint64_t a2 = 0, uint64_t a3 = 0);
long call_number_call();
long call_number_compare();
uint64_t call_compared_flags(long number, uint64_t a1 = 0, uint64_t a2 = 0);
}
constexpr long kFailed = 0x1000000;
template <typename T>
uint64_t argument(T* pointer) {
  return reinterpret_cast<uint64_t>(pointer);
}

// With the five calls of each round more than it takes (CallPatcher::kDefaultAfter).
constexpr int kEnough = 500;

void make_enough_calls() {
  char byte;
  for (int i = 0; i < kEnough; ++i) {
    ASSERT_EQ(call_getppid(), getppid());
    ASSERT_EQ(call_read(-1, &byte, 1), -1);
    ASSERT_EQ(call_for_flags(0x202) & 0x8d5, 0u);
    ASSERT_EQ(call_number(SYS_close, ~0u), kFailed | EBADF);
  }
}

class PatchedCalls : public testing::Test {
 protected:
  static void SetUpTestSuite() { make_enough_calls(); }
};

struct Range {
  uintptr_t start, end;
};
std::vector<Range> executable_ranges() {
  std::vector<Range> ranges;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    std::istringstream words(line);
    std::string range, mode;
    words >> range >> mode;
    if (mode.size() < 3 || mode[2] != 'x') continue;
    size_t dash = range.find('-');
    ranges.push_back(
        {std::stoul(range, nullptr, 16), std::stoul(range.substr(dash + 1), nullptr, 16)});
  }
  return ranges;
}

TEST_F(PatchedCalls, ResultsAndErrors) {
  Pipe pipe = must_pipe();
  char byte = 0;
  for (int i = 0; i < 100; ++i) {
    ASSERT_EQ(write(pipe.write_end.get(), "x", 1), 1);
    ASSERT_EQ(call_read(pipe.read_end.get(), &byte, 1), 1);
    ASSERT_EQ(byte, 'x');
    ASSERT_EQ(call_read(pipe.read_end.get(), nullptr, 0), 0);
    errno = 0;
    ASSERT_EQ(pread(-1, &byte, 1, 0), -1);
    ASSERT_EQ(errno, EBADF);
  }
}

TEST_F(PatchedCalls, FlagsStay) {
  for (uint64_t flags : {0x202u, 0x203u, 0xa02u, 0x2d7u, 0xad7u, 0x602u})
    EXPECT_EQ(call_for_flags(flags) & 0xcd5, flags & 0xcd5) << flags;
  __asm__ volatile("cld");
}

TEST_F(PatchedCalls, JumpsToTheCallItself) {
  for (int i = 0; i < 100; ++i) {
    long result;
    uint64_t flags;
    __asm__ volatile("call *%2\n mov %%r11, %1"
                     : "=a"(result), "=&r"(flags)
                     : "r"(call_any), "0"(SYS_getpid)
                     : "rcx", "r11", "memory");
    ASSERT_EQ(result, getpid());
    ASSERT_EQ(flags & ~0x8d5u, 0x202u) << "what syscall leaves in r11";
  }
  Pipe pipe = must_pipe();
  must(write(pipe.write_end.get(), "yz", 2), "write");
  char byte = 0;
  long result;
  __asm__ volatile("call *%1"
                   : "=a"(result)
                   : "r"(call_read_zero), "0"(0), "D"(pipe.read_end.get()), "S"(&byte), "d"(1)
                   : "rcx", "r11", "memory");
  EXPECT_EQ(result, 1);
  EXPECT_EQ(byte, 'y');
}

// The number comes from anywhere, and the result is compared at once.
TEST_F(PatchedCalls, NumbersFromElsewhere) {
  Pipe pipe = must_pipe();
  for (int i = 0; i < 100; ++i) {
    ASSERT_EQ(call_number(SYS_getpid), getpid());
    ASSERT_EQ(call_number(SYS_getppid), getppid());
    ASSERT_EQ(call_number(100'000), kFailed | ENOSYS);
    char byte = 'a';
    ASSERT_EQ(
        call_number(SYS_write, static_cast<uint64_t>(pipe.write_end.get()), argument(&byte), 1), 1);
    byte = 0;
    ASSERT_EQ(call_number(SYS_read, static_cast<uint64_t>(pipe.read_end.get()), argument(&byte), 1),
              1);
    ASSERT_EQ(byte, 'a');
    constexpr uint64_t kArithmetic = 0x8d5;
    ASSERT_EQ(call_compared_flags(SYS_getpid) & kArithmetic & ~0x4u, 0x1u);
    ASSERT_EQ(call_compared_flags(SYS_close, ~0u) & kArithmetic & ~0x4u, 0x0u);
  }
  for (int i = 0; i < 20; ++i) {
    auto child = static_cast<pid_t>(call_number(SYS_fork));
    if (child == 0) _exit(call_number(SYS_getppid) == getppid() ? 7 : 8);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_EQ(status, 7 << 8);
  }
}

// Where no instruction of the program's own jumps to.
TEST_F(PatchedCalls, JumpsToTheComparison) {
  for (long value : {0L, 5L, -4096L, -4095L, -1L, -9L}) {
    long result;
    __asm__ volatile("call *%1" : "=a"(result) : "r"(call_number_compare), "0"(value) : "memory");
    EXPECT_EQ(result, value < 0 && value >= -4095 ? (-value | kFailed) : value);
    __asm__ volatile("call *%1"
                     : "=a"(result)
                     : "r"(call_number_call), "0"(SYS_getpid)
                     : "rcx", "r11", "memory");
    EXPECT_EQ(result, getpid());
  }
}

std::atomic<int> handled{0};
void count(int) { ++handled; }

// futex(2) through the same place as all other calls.
TEST_F(PatchedCalls, FutexWaits) {
  std::atomic<uint32_t> word{0};
  auto futex = [&](int operation, uint64_t value) {
    return call_number(SYS_futex, argument(&word), static_cast<uint64_t>(operation), value);
  };
  for (int i = 0; i < 2 * kEnough; ++i) {
    ASSERT_EQ(futex(FUTEX_WAKE_PRIVATE, 1), 0);
    ASSERT_EQ(futex(FUTEX_WAKE, 1), 0);
    ASSERT_EQ(futex(FUTEX_WAIT_PRIVATE, 1), kFailed | EAGAIN);
    ASSERT_EQ(call_number(SYS_futex, 8, FUTEX_WAIT_PRIVATE, 1), kFailed | EFAULT);
  }
  for (int flags : {SA_RESTART, 0}) {
    for (int operation : {FUTEX_WAIT_PRIVATE, FUTEX_WAIT}) {
      word = 0;
      handled = 0;
      HandlerGuard guard(SIGUSR1, count, flags);
      pthread_t self = pthread_self();
      std::atomic<bool> done{false};
      std::thread other([&] {
        while (!done && (handled < 5 || flags != SA_RESTART)) {
          pthread_kill(self, SIGUSR1);
          usleep(1000);
        }
        word = 1;
        futex(operation == FUTEX_WAIT ? FUTEX_WAKE : FUTEX_WAKE_PRIVATE, 1);
      });
      long got = futex(operation, 0);
      done = true;
      other.join();
      EXPECT_GT(handled, 0);
      if (flags == 0)
        EXPECT_EQ(got, kFailed | EINTR);
      else
        EXPECT_TRUE(got == 0 || got == (kFailed | EAGAIN)) << got;
    }
  }
}

// A handler interrupts a call that waits: it begins again, or fails.
TEST_F(PatchedCalls, RestartAfterAHandler) {
  for (int flags : {SA_RESTART, 0}) {
    Pipe pipe = must_pipe();
    handled = 0;
    HandlerGuard guard(SIGUSR1, count, flags);
    pthread_t self = pthread_self();
    std::atomic<bool> done{false};
    std::thread other([&] {
      // It may come before the call; one that fails needs one while it waits.
      while (!done && (handled == 0 || flags != SA_RESTART)) {
        pthread_kill(self, SIGUSR1);
        usleep(1000);
      }
      if (flags == SA_RESTART) must(write(pipe.write_end.get(), "x", 1), "write");
    });
    char byte = 0;
    long got = call_read(pipe.read_end.get(), &byte, 1);
    done = true;
    other.join();
    EXPECT_GT(handled, 0);
    EXPECT_EQ(got, flags == SA_RESTART ? 1 : -1);
    EXPECT_EQ(byte, flags == SA_RESTART ? 'x' : 0);
  }
}

std::vector<Range> text;
std::atomic<int> outside{0};
void look_where(int, siginfo_t*, void* context) {
  auto at = static_cast<uintptr_t>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
  ++handled;
  for (const Range& range : text)
    if (at >= range.start && at < range.end) return;
  ++outside;
}

// A profiler's signals, among many calls: each call works, and each handler sees an address in the
// program's text.
TEST_F(PatchedCalls, HandlersSeeTheProgramsText) {
  text = executable_ranges();
  handled = 0;
  outside = 0;
  HandlerGuard guard(SIGALRM, look_where, SA_RESTART);
  itimerval timer{{0, 300}, {0, 300}};
  must(setitimer(ITIMER_REAL, &timer, nullptr), "setitimer");
  Pipe pipe = must_pipe();
  pid_t parent = getppid();
  for (int i = 0; i < 200'000 && handled < 100; ++i) {
    char byte = 0;
    ASSERT_EQ(call_getppid(), parent);
    ASSERT_EQ(call_for_flags(0x243) & 0x8d5, 0x41u);
    ASSERT_EQ(call_number(SYS_getppid), parent);
    ASSERT_EQ(call_number(SYS_futex, argument(&byte) & ~3ul, FUTEX_WAKE_PRIVATE, 1), 0);
    ASSERT_EQ(write(pipe.write_end.get(), "x", 1), 1);
    ASSERT_EQ(call_read(pipe.read_end.get(), &byte, 1), 1);
  }
  timer = {};
  must(setitimer(ITIMER_REAL, &timer, nullptr), "setitimer");
  EXPECT_GT(handled, 0);
  EXPECT_EQ(outside, 0);
}

// futex(2) decides more things before it comes to the kernel.
TEST_F(PatchedCalls, FlagsStayWhereHandlersInterruptAWakeUp) {
  int word = 0;
  for (int i = 0; i < kEnough; ++i) call_wake_for_flags(&word, FUTEX_WAKE_PRIVATE, 1, 0x202);
  handled = 0;
  HandlerGuard guard(SIGALRM, count, SA_RESTART);
  itimerval timer{{0, 100}, {0, 100}};
  must(setitimer(ITIMER_REAL, &timer, nullptr), "setitimer");
  uint64_t different = 0;
  for (int i = 0; i < 5'000'000 && handled < 2000; ++i)
    different |= (call_wake_for_flags(&word, FUTEX_WAKE_PRIVATE, 1, 0xad7) ^ 0xad7) & 0x8d5;
  timer = {};
  must(setitimer(ITIMER_REAL, &timer, nullptr), "setitimer");
  EXPECT_GT(handled, 0);
  EXPECT_EQ(different, 0u);
}

TEST_F(PatchedCalls, AGsBaseOfOnesOwn) {
  uint64_t word = 0x1122334455667788;
  must(syscall(SYS_arch_prctl, ARCH_SET_GS, &word), "arch_prctl");
  for (int i = 0; i < 100; ++i) {
    ASSERT_EQ(call_getppid(), getppid());
    char byte;
    ASSERT_EQ(call_read(-1, &byte, 1), -1);
    ASSERT_EQ(call_number(SYS_getppid), getppid());
    uint64_t seen;
    __asm__ volatile("mov %%gs:0, %0" : "=r"(seen));
    ASSERT_EQ(seen, word);
  }
  must(syscall(SYS_arch_prctl, ARCH_SET_GS, 0), "arch_prctl");
  EXPECT_EQ(call_getppid(), getppid());
}

TEST_F(PatchedCalls, ChildrenAndThreads) {
  for (int i = 0; i < 5; ++i) {
    pid_t self = getpid();
    Child child = Child::run([&] {
      char byte;
      for (int k = 0; k < 100; ++k)
        if (call_getppid() != self || call_read(-1, &byte, 1) != -1) return 1;
      return 0;
    });
    ASSERT_EQ(child.wait(), 0);
  }
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  pid_t parent = getppid();
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      for (int k = 0; k < 500; ++k)
        if (call_getppid() != parent) ++wrong;
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

// Text that is opened for writing is the file's own again.
TEST_F(PatchedCalls, TextThatIsWritten) {
  auto* call = reinterpret_cast<unsigned char*>(call_getppid);
  auto* page = reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(call) & ~uintptr_t{4095});
  must(mprotect(page, 8192, PROT_READ | PROT_WRITE | PROT_EXEC), "mprotect");
  volatile unsigned char* number = call + 1;
  unsigned char was = *number;
  *number = SYS_getpid;
  EXPECT_EQ(call[0], 0xb8);
  EXPECT_EQ(call[5], 0x0f);
  EXPECT_EQ(call_getppid(), getpid());
  *number = SYS_getppid;
  EXPECT_EQ(call_getppid(), getppid());
  must(mprotect(page, 8192, PROT_READ | PROT_EXEC), "mprotect");
  EXPECT_EQ(call_getppid(), getppid());
  (void)was;
}

std::vector<uintptr_t> steps;
void note_step(int, siginfo_t* info, void* context) {
  auto* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  auto at = static_cast<uintptr_t>(registers[REG_RIP]);
  if (reinterpret_cast<uintptr_t>(info->si_addr) != at) ++outside;
  if (steps.size() < steps.capacity())
    steps.push_back(at);
  else
    registers[REG_EFL] &= ~0x100;
}

// A program that traces itself.
TEST_F(PatchedCalls, StepByStep) {
  steps.reserve(200);
  outside = 0;
  HandlerGuard guard(SIGTRAP, note_step, 0);
  for (int round = 0; round < 3; ++round) {
    steps.clear();
    char byte;
    auto got = static_cast<long>(call_for_flags(0x302));
    long parent = call_getppid();
    long read = call_read(-1, &byte, 1);
    long same = call_number(SYS_getppid);
    __asm__ volatile("pushfq\n andl $~0x100, (%%rsp)\n popfq" ::: "memory", "cc");
    ASSERT_LT(steps.size(), 200u) << "the same step again and again";
    EXPECT_EQ(got & 0x100, 0x100);
    EXPECT_EQ(parent, getppid());
    EXPECT_EQ(read, -1);
    EXPECT_EQ(same, parent);
    std::vector<Range> ranges = executable_ranges();
    for (uintptr_t at : steps)
      EXPECT_TRUE(std::any_of(ranges.begin(), ranges.end(), [at](const Range& range) {
        return at >= range.start && at < range.end;
      }));
    auto first = reinterpret_cast<uintptr_t>(call_getppid);
    auto last = reinterpret_cast<uintptr_t>(call_read_zero);
    EXPECT_TRUE(std::count(steps.begin(), steps.end(), first + 5)) << "behind mov";
    EXPECT_TRUE(std::count(steps.begin(), steps.end(), last)) << "behind xor";
    auto far = reinterpret_cast<uintptr_t>(call_number_call);
    EXPECT_EQ(std::count(steps.begin(), steps.end(), far), 1);
    EXPECT_EQ(outside, 0);
  }
}

// Long text becomes writable without being written: what is patched there stays so, and works.
TEST_F(PatchedCalls, TextThatCouldBeWritten) {
  char byte;
  for (const Range& range : executable_ranges()) {
    auto at = reinterpret_cast<uintptr_t>(call_read);
    if (at < range.start || at >= range.end) continue;
    auto* start = reinterpret_cast<void*>(range.start);
    must(mprotect(start, range.end - range.start, PROT_READ | PROT_WRITE | PROT_EXEC), "mprotect");
    for (int i = 0; i < 20; ++i) {
      Pipe pipe = must_pipe();
      handled = 0;
      HandlerGuard guard(SIGALRM, count, SA_RESTART);
      itimerval timer{{0, 0}, {0, 2000}};
      must(setitimer(ITIMER_REAL, &timer, nullptr), "setitimer");
      std::thread other([&] {
        while (handled == 0) std::this_thread::yield();
        must(write(pipe.write_end.get(), "x", 1), "write");
      });
      EXPECT_EQ(call_read(pipe.read_end.get(), &byte, 1), 1);
      other.join();
    }
    must(mprotect(start, range.end - range.start, PROT_READ | PROT_EXEC), "mprotect");
    EXPECT_EQ(call_read(-1, &byte, 1), -1);
    return;
  }
  FAIL() << "the text was not found";
}

// A flag that calls do not pass, as nothing but popf changes it, is in a handler's frame and stays.
uint64_t flags_in_handler = 0;

TEST_F(PatchedCalls, TheIdFlagIsInHandlersFrames) {
  constexpr uint64_t kId = 1 << 21;
  struct sigaction action {};
  action.sa_flags = SA_SIGINFO;
  action.sa_sigaction = [](int, siginfo_t*, void* context) {
    flags_in_handler =
        static_cast<uint64_t>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_EFL]);
  };
  must(sigaction(SIGUSR1, &action, nullptr), "sigaction");
  for (int i = 0; i < 2 * kEnough; ++i) {
    bool wanted = i % 2 == 0;
    uint64_t flags = __builtin_ia32_readeflags_u64();
    __builtin_ia32_writeeflags_u64(wanted ? flags | kId : flags & ~kId);
    raise(SIGUSR1);
    ASSERT_EQ((flags_in_handler & kId) != 0, wanted);
    ASSERT_EQ((__builtin_ia32_readeflags_u64() & kId) != 0, wanted);
  }
  signal(SIGUSR1, SIG_DFL);
}

// The program's own file, mapped a second time elsewhere: it works there too.
TEST_F(PatchedCalls, ASecondMappingOfTheFile) {
  std::ifstream maps("/proc/self/maps");
  auto call = reinterpret_cast<uintptr_t>(call_getppid);
  for (std::string line; std::getline(maps, line);) {
    unsigned long start, end, offset;
    if (sscanf(line.c_str(), "%lx-%lx %*s %lx", &start, &end, &offset) != 3 || call < start ||
        call >= end)
      continue;
    UniqueFd file(must(open("/proc/self/exe", O_RDONLY), "open"));
    void* other = mmap(nullptr, end - start, PROT_READ | PROT_EXEC, MAP_PRIVATE, file.get(),
                       static_cast<off_t>(offset));
    ASSERT_NE(other, MAP_FAILED);
    auto second = reinterpret_cast<long (*)()>(reinterpret_cast<uintptr_t>(other) + (call - start));
    for (int i = 0; i < 2 * kEnough; ++i) ASSERT_EQ(second(), getppid());
    void* moved = mremap(other, end - start, end - start, MREMAP_MAYMOVE | MREMAP_FIXED,
                         static_cast<char*>(other) - 2 * (end - start));
    if (moved != MAP_FAILED) {
      auto third =
          reinterpret_cast<long (*)()>(reinterpret_cast<uintptr_t>(moved) + (call - start));
      for (int i = 0; i < 100; ++i) ASSERT_EQ(third(), getppid());
      munmap(moved, end - start);
    }
    return;
  }
  FAIL() << "the text was not found";
}

}  // namespace
}  // namespace caisson::test
