// Synchronous faults: signal number, si_code, si_addr, ucontext, and going on after a handler
// repaired the cause.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <csetjmp>
#include <csignal>
#include <thread>

#include "tests/util/child.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"
#include "tests/util/signals.h"
#include "tests/util/temp_dir.h"

namespace caisson::test {
namespace {

thread_local sigjmp_buf fault_jump;
thread_local siginfo_t fault_info;
thread_local ucontext_t fault_context;

void on_fault(int, siginfo_t* info, void* context) {
  fault_info = *info;
  fault_context = *static_cast<ucontext_t*>(context);
  siglongjmp(fault_jump, 1);
}

// Catches the fault of `body`; the signal, or 0.
template <typename Body>
int fault_of(Body body) {
  HandlerGuard segv(SIGSEGV, on_fault), bus(SIGBUS, on_fault), fpe(SIGFPE, on_fault),
      ill(SIGILL, on_fault), trap(SIGTRAP, on_fault);
  std::memset(&fault_info, 0, sizeof(fault_info));
  if (sigsetjmp(fault_jump, 1) == 0) {
    body();
    return 0;
  }
  return fault_info.si_signo;
}

long reg(int number) { return fault_context.uc_mcontext.gregs[number]; }

void touch(void* address) { asm volatile("movb $1, (%0)" ::"r"(address) : "memory"); }
char peek(void* address) { return *static_cast<volatile char*>(address); }

TEST(Segv, UnmappedAddress) {
  GuardedPages hole;
  char* address = hole.begin();
  munmap(address, kPageSize);
  ASSERT_EQ(fault_of([&] { touch(address + 123); }), SIGSEGV);
  EXPECT_EQ(fault_info.si_code, SEGV_MAPERR);
  EXPECT_EQ(fault_info.si_addr, address + 123);
  // Write (2), by user code (4), page not present (0).
  EXPECT_EQ(reg(REG_ERR), 6);
  EXPECT_EQ(reg(REG_TRAPNO), 14);
  EXPECT_EQ(reg(REG_CR2), reinterpret_cast<long>(address + 123));
  ASSERT_EQ(fault_of([&] { peek(address + 5); }), SIGSEGV);
  EXPECT_EQ(fault_info.si_code, SEGV_MAPERR);
  EXPECT_EQ(reg(REG_ERR), 4);
  mmap(address, kPageSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

TEST(Segv, NullPointer) {
  ASSERT_EQ(fault_of([] { touch(reinterpret_cast<void*>(8)); }), SIGSEGV);
  EXPECT_EQ(fault_info.si_code, SEGV_MAPERR);
  EXPECT_EQ(fault_info.si_addr, reinterpret_cast<void*>(8));
}

TEST(Segv, ProtectedPage) {
  Mapping page = Mapping::anonymous(kPageSize, PROT_READ);
  peek(page.address());
  ASSERT_EQ(fault_of([&] { touch(page.address() + 7); }), SIGSEGV);
  EXPECT_EQ(fault_info.si_code, SEGV_ACCERR);
  EXPECT_EQ(fault_info.si_addr, page.address() + 7);
  EXPECT_EQ(reg(REG_ERR) & 6, 6);
  Mapping none = Mapping::anonymous(kPageSize, PROT_NONE);
  ASSERT_EQ(fault_of([&] { peek(none.address()); }), SIGSEGV);
  EXPECT_EQ(fault_info.si_code, SEGV_ACCERR);
}

TEST(Segv, ExecuteNonExecutable) {
  Mapping page = Mapping::anonymous(kPageSize);
  page.address()[0] = '\xc3';
  ASSERT_EQ(fault_of([&] { reinterpret_cast<void (*)()>(page.address())(); }), SIGSEGV);
  EXPECT_EQ(fault_info.si_code, SEGV_ACCERR);
  EXPECT_EQ(fault_info.si_addr, page.address());
  EXPECT_EQ(reg(REG_RIP), reinterpret_cast<long>(page.address()));
}

TEST(Segv, NonCanonicalAddress) {
  ASSERT_EQ(fault_of([] { touch(bad_pointer()); }), SIGSEGV);
  EXPECT_EQ(fault_info.si_code, SI_KERNEL);
  EXPECT_EQ(fault_info.si_addr, nullptr);
  EXPECT_EQ(reg(REG_TRAPNO), 13);
}

TEST(Segv, KernelAddress) {
  auto* address = reinterpret_cast<void*>(0xffff'8000'0000'0000);
  ASSERT_EQ(fault_of([&] { touch(address); }), SIGSEGV);
  EXPECT_EQ(fault_info.si_code, SEGV_MAPERR);
  EXPECT_EQ(fault_info.si_addr, address);
}

TEST(Segv, PrivilegedInstructions) {
  EXPECT_EQ(fault_of([] { asm volatile("hlt"); }), SIGSEGV);
  EXPECT_EQ(fault_info.si_code, SI_KERNEL);
  EXPECT_EQ(fault_of([] { asm volatile("cli"); }), SIGSEGV);
  EXPECT_EQ(fault_of([] { asm volatile("outb %%al, $0x80" ::"a"(0)); }), SIGSEGV);
  EXPECT_EQ(fault_of([] { asm volatile("int $0x20"); }), SIGSEGV);
}

TEST(Bus, BeyondEndOfFile) {
  TempDir dir;
  write_file(dir.file("f"), std::string(kPageSize + 10, 'b'));
  UniqueFd fd = must_open(dir.file("f"), O_RDWR);
  Mapping memory = Mapping::map(4 * kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  EXPECT_EQ(memory.page(1)[9], 'b');
  EXPECT_EQ(memory.page(1)[10], 0);
  ASSERT_EQ(fault_of([&] { peek(memory.page(2) + 3); }), SIGBUS);
  EXPECT_EQ(fault_info.si_code, BUS_ADRERR);
  EXPECT_EQ(fault_info.si_addr, memory.page(2) + 3);
  must(ftruncate(fd.get(), 0), "ftruncate");
  EXPECT_EQ(fault_of([&] { peek(memory.address()); }), SIGBUS);
}

// EFLAGS.AC makes misaligned access fault.
TEST(Bus, AlignmentCheck) {
  Child child = Child::run([] {
    Mapping page = Mapping::anonymous(kPageSize);
    asm volatile(
        "pushfq\n orq $0x40000, (%%rsp)\n popfq\n"
        "movq 1(%0), %%rax\n" ::"r"(page.address())
        : "rax", "memory", "cc");
    return 0;
  });
  EXPECT_THAT(child.wait(), KilledBy(SIGBUS));
}

// Odd but legal flags at the system call instruction are no business of the kernel's, and come back
// as they were.
TEST(Flags, AlignmentAndDirectionSurviveSystemCalls) {
  for (uint64_t flag : {0x40000ul, 0x400ul}) {
    long result = SYS_getppid;
    uint64_t after;
    asm volatile(
        "pushfq\n orq %2, (%%rsp)\n popfq\n"
        "syscall\n"
        "pushfq\n popq %1\n"
        "pushfq\n andq %3, (%%rsp)\n popfq\n"
        : "+a"(result), "=&r"(after)
        : "r"(flag), "r"(~flag)
        : "rcx", "r11", "memory", "cc");
    EXPECT_EQ(result, getppid());
    EXPECT_EQ(after & flag, flag);
  }
}

TEST(Fpe, IntegerDivision) {
  ASSERT_EQ(fault_of([] {
              asm volatile("xor %%edx, %%edx\n xor %%ecx, %%ecx\n mov $1, %%eax\n div %%ecx" ::
                               : "rax", "rcx", "rdx");
            }),
            SIGFPE);
  EXPECT_EQ(fault_info.si_code, FPE_INTDIV);
  EXPECT_EQ(fault_info.si_addr, reinterpret_cast<void*>(reg(REG_RIP)));
  EXPECT_EQ(reg(REG_TRAPNO), 0);
}

TEST(Fpe, SseExceptions) {
  unsigned before;
  asm volatile("stmxcsr %0" : "=m"(before));
  ASSERT_EQ(fault_of([&] {
              const unsigned open = before & ~(1u << 9);  // divide by zero unmasked
              volatile double zero = 0;
              double one = 1;
              asm volatile("ldmxcsr %1\n divsd %2, %0" : "+x"(one) : "m"(open), "m"(zero));
            }),
            SIGFPE);
  EXPECT_EQ(fault_info.si_code, FPE_FLTDIV);
  EXPECT_EQ(reg(REG_TRAPNO), 19);
  asm volatile("ldmxcsr %0" ::"m"(before));
}

TEST(Fpe, X87Exceptions) {
  ASSERT_EQ(fault_of([] {
              const unsigned short open = 0x037f & ~0x4;
              asm volatile("fldcw %0\n fld1\n fldz\n fdivrp\n fwait" ::"m"(open));
            }),
            SIGFPE);
  EXPECT_EQ(fault_info.si_code, FPE_FLTDIV);
  EXPECT_EQ(reg(REG_TRAPNO), 16);
  asm volatile("fninit");
}

TEST(Ill, UndefinedInstruction) {
  ASSERT_EQ(fault_of([] { asm volatile("ud2"); }), SIGILL);
  EXPECT_EQ(fault_info.si_code, ILL_ILLOPN);
  EXPECT_EQ(fault_info.si_addr, reinterpret_cast<void*>(reg(REG_RIP)));
  const auto* code = static_cast<unsigned char*>(fault_info.si_addr);
  EXPECT_EQ(code[0], 0x0f);
  EXPECT_EQ(code[1], 0x0b);
}

TEST(Trap, Breakpoint) {
  ASSERT_EQ(fault_of([] { asm volatile("int3"); }), SIGTRAP);
  EXPECT_EQ(fault_info.si_code, SI_KERNEL);
  // The instruction pointer is behind the one-byte instruction.
  EXPECT_EQ(*reinterpret_cast<unsigned char*>(reg(REG_RIP) - 1), 0xcc);
  EXPECT_EQ(reg(REG_TRAPNO), 3);
}

TEST(Trap, SingleStep) {
  ASSERT_EQ(fault_of([] {
              asm volatile("pushfq\n orq $0x100, (%%rsp)\n popfq\n nop\n nop\n" ::: "memory", "cc");
            }),
            SIGTRAP);
  EXPECT_EQ(fault_info.si_code, TRAP_TRACE);
  EXPECT_EQ(reg(REG_TRAPNO), 1);
}

TEST(Faults, ContextHasTheRegisters) {
  ASSERT_EQ(fault_of([] {
              asm volatile(
                  "mov $0x1111, %%rbx\n mov $0x2222, %%rcx\n mov $0x3333, %%rdx\n"
                  "mov $0x4444, %%rsi\n mov $0x5555, %%rdi\n mov $0x6666, %%r8\n"
                  "mov $0x7777, %%r9\n mov $0x8888, %%r10\n mov $0x9999, %%r11\n"
                  "mov $0xaaaa, %%r12\n mov $0xbbbb, %%r13\n mov $0xcccc, %%r14\n"
                  "mov $0xdddd, %%r15\n mov $0x10, %%rax\n movb $1, (%%rax)" ::
                      : "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12",
                        "r13", "r14", "r15", "memory");
            }),
            SIGSEGV);
  const struct {
    int number;
    long value;
  } expected[] = {{REG_RAX, 0x10},   {REG_RBX, 0x1111}, {REG_RCX, 0x2222}, {REG_RDX, 0x3333},
                  {REG_RSI, 0x4444}, {REG_RDI, 0x5555}, {REG_R8, 0x6666},  {REG_R9, 0x7777},
                  {REG_R10, 0x8888}, {REG_R11, 0x9999}, {REG_R12, 0xaaaa}, {REG_R13, 0xbbbb},
                  {REG_R14, 0xcccc}, {REG_R15, 0xdddd}};
  for (const auto& want : expected) EXPECT_EQ(reg(want.number), want.value) << want.number;
  char local;
  EXPECT_LT(std::abs(reg(REG_RSP) - reinterpret_cast<long>(&local)), 1 << 20);
}

char* repaired_page;
volatile sig_atomic_t repairs;
void repair(int, siginfo_t* info, void*) {
  auto page = reinterpret_cast<uintptr_t>(info->si_addr) & ~(kPageSize - 1);
  if (reinterpret_cast<char*>(page) < repaired_page) _exit(77);
  mprotect(reinterpret_cast<void*>(page), kPageSize, PROT_READ | PROT_WRITE);
  repairs = repairs + 1;
}

// The garbage collector's way: protect, fault, open, go on.
TEST(Faults, HandlerRepairsAndInstructionRepeats) {
  HandlerGuard guard(SIGSEGV, repair);
  constexpr int kPages = 64;
  Mapping memory = Mapping::anonymous(kPages * kPageSize, PROT_NONE);
  repaired_page = memory.address();
  repairs = 0;
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < kPages; ++i) memory.page(i)[i] = static_cast<char>(i + round);
    for (int i = 0; i < kPages; ++i) EXPECT_EQ(memory.page(i)[i], i + round);
    must(mprotect(memory.address(), memory.size(), PROT_NONE), "mprotect");
  }
  EXPECT_EQ(repairs, 3 * kPages);
}

void skip_two(int, siginfo_t*, void* context) {
  static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP] += 2;
  static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RBX] = 0x77;
}

TEST(Faults, ChangedContextIsLoaded) {
  HandlerGuard guard(SIGILL, skip_two);
  long value = 0;
  asm volatile("mov $1, %%rbx\n ud2\n mov %%rbx, %0" : "=r"(value) : : "rbx");
  EXPECT_EQ(value, 0x77);
}

// A blocked or ignored synchronous fault kills all the same.
TEST(Faults, BlockedOrIgnoredFaultKills) {
  for (bool block : {false, true}) {
    Child child = Child::run([block] {
      const sigset_t set = signal_set({SIGSEGV});
      if (block) {
        sigprocmask(SIG_BLOCK, &set, nullptr);
        signal(SIGSEGV, [](int) { _exit(1); });
      } else {
        signal(SIGSEGV, SIG_IGN);
      }
      touch(nullptr);
      return 2;
    });
    EXPECT_THAT(child.wait(), KilledBy(SIGSEGV));
  }
}

TEST(Faults, SentSignalIsNotAFault) {
  HandlerGuard ignore(SIGSEGV, SIG_IGN);
  EXPECT_THAT(kill(getpid(), SIGSEGV), SucceedsWith(0));
}

TEST(Faults, FaultInHandlerOfSameSignalKills) {
  Child child = Child::run([] {
    HandlerGuard guard(SIGSEGV, [](int) { touch(nullptr); });
    touch(nullptr);
    return 0;
  });
  EXPECT_THAT(child.wait(), KilledBy(SIGSEGV));
}

[[gnu::noinline]] bool fault_lands(uintptr_t address) {
  if (sigsetjmp(fault_jump, 1) == 0) touch(reinterpret_cast<void*>(address));
  return fault_info.si_addr == reinterpret_cast<void*>(address);
}

TEST(Faults, TwoThreadsFaultAtOnce) {
  HandlerGuard guard(SIGSEGV, on_fault);
  auto loop = [](uintptr_t address) {
    for (int i = 0; i < 500; ++i) ASSERT_TRUE(fault_lands(address));
  };
  std::thread one(loop, 0x100), two(loop, 0x200);
  one.join();
  two.join();
}

TEST(Faults, DefaultActionDumpsOrKills) {
  EXPECT_THAT(Child::run([] { return touch(nullptr), 0; }).wait(), KilledBy(SIGSEGV));
  EXPECT_THAT(Child::run([] {
                asm volatile("ud2");
                return 0;
              }).wait(),
              KilledBy(SIGILL));
  EXPECT_THAT(Child::run([] {
                asm volatile("int3");
                return 0;
              }).wait(),
              KilledBy(SIGTRAP));
}

}  // namespace
}  // namespace caisson::test
