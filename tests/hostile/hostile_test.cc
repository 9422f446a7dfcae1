// Guest code that attacks its own stub. Each attack runs in a child: whatever happens to it, this
// process goes on, the victim (another guest process, running all the time) keeps its memory and
// its calls, and nothing hangs.
//
// Meaningful only inside Caisson: natively there is no stub, and every test is skipped.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <immintrin.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <functional>
#include <random>
#include <vector>

namespace {

constexpr uint64_t kSlotSize = 0x8000;
constexpr uint64_t kSlotSelf = 8;
constexpr uint64_t kSlotGate = 16;
constexpr uint64_t kSlotFrame = 72;
constexpr uint64_t kControl = 0x10000;
constexpr uint64_t kOrders = 0x20000;
constexpr uint64_t kSlots = 0x10000000;
constexpr size_t kVictimPages = 256;

struct Stub {
  uint64_t slot = 0;
  uint64_t text = 0;
  uint32_t text_size = 0;
};

// Where this thread's stub is; all zero outside Caisson.
Stub find_stub() {
  Stub stub;
  uint64_t gs = _readgsbase_u64();
  if (gs == 0 || gs % kSlotSize != 0) return stub;
  stub.slot = gs;
  stub.text = *reinterpret_cast<uint64_t*>(gs + kSlotGate) & ~uint64_t{0xffff};
  memcpy(&stub.text_size, reinterpret_cast<void*>(stub.text + 8), 4);
  return stub;
}

struct Victim {
  std::atomic<uint64_t> rounds;
  std::atomic<uint32_t> damaged;
  std::atomic<uint32_t> stop;
};

// Checks its private memory and makes calls until told to stop.
void be_victim(Victim& state) {
  std::vector<uint64_t> memory(kVictimPages * 512);
  for (size_t i = 0; i < memory.size(); ++i) memory[i] = i * 0x9e3779b97f4a7c15;
  int fds[2];
  if (pipe(fds) != 0) _exit(3);
  pid_t self = getpid();
  while (state.stop == 0) {
    for (size_t i = 0; i < memory.size(); ++i) {
      if (memory[i] != i * 0x9e3779b97f4a7c15) state.damaged = 1;
    }
    char out = static_cast<char>(state.rounds);
    char in = 0;
    if (write(fds[1], &out, 1) != 1 || read(fds[0], &in, 1) != 1 || in != out) state.damaged = 2;
    if (syscall(SYS_getpid) != self) state.damaged = 3;
    ++state.rounds;
    usleep(500);
  }
  _exit(0);
}

class Hostile : public testing::Test {
 protected:
  void SetUp() override {
    stub_ = find_stub();
    if (stub_.slot == 0) GTEST_SKIP() << "not inside Caisson: there is no stub to attack";
    void* shared = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(shared, MAP_FAILED);
    victim_ = new (shared) Victim{};
    victim_pid_ = fork();
    ASSERT_GE(victim_pid_, 0);
    if (victim_pid_ == 0) be_victim(*victim_);
  }
  void TearDown() override {
    if (stub_.slot == 0) return;
    uint64_t before = victim_->rounds;
    for (int i = 0; i < 400 && victim_->rounds < before + 3; ++i) usleep(10000);
    EXPECT_GE(victim_->rounds, before + 3) << "the victim stands still";
    victim_->stop = 1;
    int status = 0;
    EXPECT_EQ(waitpid(victim_pid_, &status, 0), victim_pid_);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    EXPECT_EQ(victim_->damaged, 0u);
    munmap(victim_, 4096);
  }

  // Runs `attack` in a child; after `limit_ms` it is killed. The child must be gone soon in any
  // case.
  void in_child(const std::function<void()>& attack, int limit_ms = 100) {
    start(attack);
    finish_all(limit_ms);
  }
  void start(const std::function<void()>& attack) {
    pid_t pid = fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      stub_ = find_stub();  // the child's own
      attack();
      _exit(0);
    }
    children_.push_back(pid);
  }
  void finish_all(int limit_ms) {
    for (int waited = 0; waited < limit_ms && !children_.empty(); waited += 2) {
      std::erase_if(children_, [](pid_t pid) { return waitpid(pid, nullptr, WNOHANG) == pid; });
      if (!children_.empty()) usleep(2000);
    }
    for (pid_t pid : children_) kill(pid, SIGKILL);
    for (pid_t pid : children_) EXPECT_EQ(waitpid(pid, nullptr, 0), pid);
    children_.clear();
  }

  Stub stub_;
  Victim* victim_ = nullptr;
  pid_t victim_pid_ = -1;
  std::vector<pid_t> children_;
};

// Jumps to `target` with registers from `seed`.
[[noreturn]] void jump_wild(uint64_t target, uint64_t seed, uint64_t slot) {
  std::mt19937_64 random(seed);
  uint64_t r[14];
  for (uint64_t& value : r) {
    switch (random() % 6) {
      case 0:
        value = 0;
        break;
      case 1:
        value = random() % 512;
        break;
      case 2:
        value = slot + random() % kSlotSize;
        break;
      case 3:
        value = target;
        break;
      case 4:
        value = reinterpret_cast<uint64_t>(&r) & ~uint64_t{63};
        break;
      default:
        value = random();
        break;
    }
  }
  static thread_local uint64_t jump_target;
  jump_target = target;
  __asm__ volatile(
      "mov %0, %%r15\n"
      "push %1\n"
      "mov 0(%%r15), %%rax\n mov 8(%%r15), %%rbx\n mov 16(%%r15), %%rcx\n mov 24(%%r15), %%rdx\n"
      "mov 32(%%r15), %%rsi\n mov 40(%%r15), %%rdi\n mov 48(%%r15), %%rbp\n mov 56(%%r15), %%r8\n"
      "mov 64(%%r15), %%r9\n mov 72(%%r15), %%r10\n mov 80(%%r15), %%r11\n mov 88(%%r15), %%r12\n"
      "mov 96(%%r15), %%r13\n mov 104(%%r15), %%r14\n"
      "ret\n"
      :
      : "r"(r), "r"(jump_target)
      : "memory");
  __builtin_unreachable();
}

// Every byte, so every instruction and every instruction that hides inside another. Some targets
// never answer an interrupt and last until its deadline: many children at a time.
TEST_F(Hostile, JumpsIntoStubTextAtEveryByte) {
  constexpr size_t kAtOnce = 512;
  for (uint64_t seed : {7, 1000}) {
    for (uint32_t offset = 0; offset < stub_.text_size; ++offset) {
      start([&] { jump_wild(stub_.text + offset, offset * 31 + seed, stub_.slot); });
      if (children_.size() == kAtOnce) finish_all(20);
    }
  }
  finish_all(20);
}

TEST_F(Hostile, EveryCallNumberAtEverySyscallInstructionOfTheStub) {
  constexpr size_t kAtOnce = 32;
  auto* text = reinterpret_cast<const unsigned char*>(stub_.text);
  for (uint32_t offset = 0; offset + 1 < stub_.text_size; ++offset) {
    if (text[offset] != 0x0f || text[offset + 1] != 0x05) continue;
    uint64_t site = stub_.text + offset;
    for (long nr = 0; nr < 470; nr += 1) {
      // One child tries seven numbers: a trapped call comes back to the stub, which then faults or
      // goes on wildly.
      start([&] {
        alarm(1);
        register long r10 __asm__("r10") = 0;
        __asm__ volatile("push %%rdx\n ret\n"
                         :
                         : "a"(nr), "D"(stub_.slot), "S"(1L), "d"(site), "r"(r10)
                         : "memory");
      });
      nr += 6;
      if (children_.size() == kAtOnce) finish_all(10);
    }
  }
  finish_all(10);
}

// Neither way says anything but ENOSYS, whatever the number.
TEST_F(Hostile, X32AndInt80AreNoWayIn) {
  for (long nr = 0; nr < 1024; ++nr) {
    long x32 = nr | 0x40000000;
    long int80 = nr;
    __asm__ volatile("syscall"
                     : "+a"(x32)
                     : "D"(stub_.slot), "S"(0L), "d"(0L)
                     : "rcx", "r11", "memory");
    __asm__ volatile("int $0x80" : "+a"(int80) : "b"(1L), "c"(0L), "d"(0L) : "memory");
    EXPECT_EQ(x32, -ENOSYS) << nr;
    EXPECT_EQ(int80, -ENOSYS) << nr;
  }
}

sigjmp_buf after_jump;
volatile uint64_t faulting_rax;

// pwrite64(fd, forged, 8, 0 or 8) from the instructions at `site`; its result, from the fault that
// comes next: what follows there reads memory by a register that is null here.
__attribute__((noinline)) int64_t pwrite_from(uint64_t site, long fd) {
  static const uint64_t forged = ~uint64_t{0} >> 1;
  if (sigsetjmp(after_jump, 1) == 0) {
    register long r10 __asm__("r10") = fd % 2 * 8;
    __asm__ volatile(
        "push %0\n xor %%ebx, %%ebx\n xor %%ebp, %%ebp\n xor %%r12d, %%r12d\n"
        "xor %%r13d, %%r13d\n xor %%r14d, %%r14d\n xor %%r15d, %%r15d\n ret"
        :
        : "a"(site), "D"(fd), "S"(&forged), "d"(8L), "r"(r10)
        : "memory");
  }
  return static_cast<int64_t>(faulting_rax);
}

// The mapper acknowledges by pwrite64 to a descriptor that it shares with this thread. From the
// mapper's own instructions, as from anywhere, the call is the guest's and finds no such file.
TEST_F(Hostile, AcknowledgementsCannotBeForged) {
  static const unsigned char kPattern[] = {0xb8, SYS_pwrite64, 0, 0, 0, 0x0f, 0x05};
  auto* text = reinterpret_cast<const unsigned char*>(stub_.text);
  static unsigned char stack[32768];
  const stack_t alternate{stack, 0, sizeof stack};
  ASSERT_EQ(sigaltstack(&alternate, nullptr), 0);
  struct sigaction action {
  }, before{};
  action.sa_sigaction = [](int, siginfo_t*, void* context) {
    faulting_rax =
        static_cast<uint64_t>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RAX]);
    siglongjmp(after_jump, 1);
  };
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  ASSERT_EQ(sigaction(SIGSEGV, &action, &before), 0);
  int sites = 0;
  for (uint32_t i = 0; i + sizeof kPattern < stub_.text_size; ++i) {
    if (memcmp(text + i, kPattern, sizeof kPattern) != 0) continue;
    ++sites;
    for (long fd = 3; fd < 256; ++fd) {
      if (fcntl(static_cast<int>(fd), F_GETFD) >= 0) continue;
      EXPECT_EQ(pwrite_from(stub_.text + i, fd), -EBADF) << fd;
    }
  }
  EXPECT_GE(sites, 2);
  sigaction(SIGSEGV, &before, nullptr);
}

// Threads that make calls while another scribbles over every slot of the process.
void scribble(const Stub& stub, uint64_t seed, bool keep_state) {
  constexpr int kThreads = 3;
  static std::atomic<uint64_t> slots[kThreads];
  for (auto& slot : slots) slot = 0;
  for (int i = 0; i < kThreads; ++i) {
    pthread_t thread;
    pthread_create(
        &thread, nullptr,
        [](void* place) -> void* {
          static_cast<std::atomic<uint64_t>*>(place)->store(_readgsbase_u64());
          for (;;) {
            syscall(SYS_getppid);
            struct pollfd none;
            poll(&none, 0, 0);
          }
        },
        &slots[i]);
  }
  for (auto& slot : slots) {
    while (slot == 0) usleep(100);
  }
  std::mt19937_64 random(seed);
  for (int i = 0; i < 200000; ++i) {
    uint64_t slot = slots[random() % kThreads];
    if (random() % 16 == 0) slot = stub.slot;
    uint64_t where = random() % 4 == 0 ? random() % 512 : random() % kSlotSize;
    if (keep_state && where < 8) continue;
    uint64_t value = random() % 3 == 0 ? random() : random() % 8;
    memcpy(reinterpret_cast<void*>(slot + (where & ~uint64_t{3})), &value, 4);
  }
}

TEST_F(Hostile, ScribblesOverSlotsWhileSiblingsRun) {
  for (uint64_t seed = 0; seed < 16; ++seed)
    in_child([&] { scribble(stub_, seed, seed % 2 == 0); }, 150);
}

TEST_F(Hostile, SharedPagesAreReadOnly) {
  for (uint64_t page : {stub_.text, stub_.text + kControl, stub_.text + kOrders}) {
    pid_t pid = fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      *reinterpret_cast<volatile uint32_t*>(page) = 1;
      _exit(0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV)
        << std::hex << page << " " << status;
  }
}

TEST_F(Hostile, ForgesRequestsOfAParkedSibling) {
  in_child(
      [&] {
        static std::atomic<uint64_t> sibling{0};
        pthread_t thread;
        pthread_create(
            &thread, nullptr,
            [](void*) -> void* {
              sibling = _readgsbase_u64();
              sleep(100);
              return nullptr;
            },
            nullptr);
        while (sibling == 0) usleep(100);
        usleep(2000);
        auto* state = reinterpret_cast<std::atomic<uint32_t>*>(sibling.load());
        auto* entry = reinterpret_cast<std::atomic<uint32_t>*>(sibling.load() + 64);
        for (uint32_t i = 0; i < 100000; ++i) {
          *entry = i % 5;
          *state = i % 6;
        }
      },
      500);
}

// A slot passes on to later processes, without what was written into it.
TEST_F(Hostile, SlotsPassOnClean) {
  constexpr uint64_t kMark = 0x6d61726b6d61726b;
  for (int i = 0; i < 40; ++i) {
    pid_t pid = fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      Stub mine = find_stub();
      if (mine.slot == 0 || mine.text != stub_.text) _exit(1);
      auto* words = reinterpret_cast<uint64_t*>(mine.slot);
      if (words[kSlotSelf / 8] != mine.slot) _exit(2);
      // Registers of calls by the gate, and where the host's signal frames end.
      for (uint64_t at = 192; at < 336; at += 8) {
        if (words[at / 8] == kMark) _exit(3);
      }
      for (uint64_t at = kSlotSize - 0x2000; at < kSlotSize; at += 8) {
        if (words[at / 8] == kMark) _exit(4);
      }
      for (uint64_t at = 8; at < kSlotSize; at += 8) words[at / 8] = kMark;
      // Any call or fault ends this process: its frame is gone.
      __builtin_trap();
    }
    int status = 0;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT_FALSE(WIFEXITED(status)) << WEXITSTATUS(status);
  }
}

TEST_F(Hostile, TheStubRegionCannotBeUnmappedOrProtected) {
  pid_t pid = fork();
  ASSERT_GE(pid, 0);
  if (pid == 0) {
    stub_ = find_stub();
    uint64_t region = stub_.text;
    for (uint64_t at : {region, region + kControl, region + kOrders, region + kSlots, stub_.slot}) {
      if (munmap(reinterpret_cast<void*>(at), 4096) == 0) _exit(1);
      if (mprotect(reinterpret_cast<void*>(at), 4096, PROT_READ | PROT_WRITE | PROT_EXEC) == 0)
        _exit(2);
      if (mmap(reinterpret_cast<void*>(at), 4096, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED)
        _exit(3);
      if (mremap(reinterpret_cast<void*>(at), 4096, 8192, MREMAP_MAYMOVE) != MAP_FAILED) _exit(4);
      if (madvise(reinterpret_cast<void*>(at), 4096, MADV_DONTNEED) == 0) _exit(5);
    }
    // A range that ends in the region, and one that wraps.
    if (munmap(reinterpret_cast<void*>(region - 4096), 8192) == 0) _exit(6);
    if (munmap(reinterpret_cast<void*>(region), ~size_t{0} - region - 4095) == 0) _exit(7);
    _exit(_readgsbase_u64() == stub_.slot && syscall(SYS_getpid) == getpid() ? 0 : 8);
  }
  int status = 0;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << std::hex << status;
}

// The stub's own sigreturn site, `mov $15,%eax; syscall`; 0 if it is not found.
uint64_t sigreturn_site(const Stub& stub) {
  auto* text = reinterpret_cast<const unsigned char*>(stub.text);
  static const unsigned char kPattern[] = {0xb8, 15, 0, 0, 0, 0x0f, 0x05};
  for (uint32_t i = 0; i + sizeof kPattern < stub.text_size; ++i)
    if (memcmp(text + i, kPattern, sizeof kPattern) == 0) return stub.text + i;
  return 0;
}

// The host's struct ucontext, as far as frames of our own making need it.
struct HostFrame {
  uint64_t flags = 2;  // UC_SIGCONTEXT_SS
  uint64_t link = 0;
  stack_t stack{};
  uint64_t r8_to_rcx[15] = {};
  uint64_t rsp, rip;
  uint64_t eflags = 0x202;
  uint64_t segments = 0x33 | (uint64_t{0x2b} << 48);
  uint64_t rest[13] = {};  // no vector state: the initial one
  uint64_t mask = 0;
};
static_assert(offsetof(HostFrame, mask) == 37 * 8);

[[noreturn]] void host_sigreturn(const HostFrame& frame, uint64_t site) {
  __asm__ volatile("mov %0, %%rsp\n jmp *%1" : : "r"(&frame), "r"(site) : "memory");
  __builtin_unreachable();
}

// What of its thread a guest can tell.
struct Seen {
  std::atomic<uint64_t> slot;
  uint32_t frame, mxcsr, control_word, pkru;
  uint64_t flags;
};

bool has_pkru() {
  uint32_t a = 7, b, c = 0, d;
  __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  return (c & 16) != 0;
}

void look(const Stub& stub, Seen& seen) {
  syscall(SYS_getppid);
  seen.frame = *reinterpret_cast<volatile uint32_t*>(stub.slot + kSlotFrame);
  seen.mxcsr = _mm_getcsr();
  uint16_t control_word;
  __asm__ volatile("fnstcw %0\n pushfq\n pop %1" : "=m"(control_word), "=r"(seen.flags));
  seen.control_word = control_word;
  seen.pkru = 0;
  if (has_pkru()) __asm__ volatile("rdpkru" : "=a"(seen.pkru) : "c"(0) : "rdx");
  seen.slot = stub.slot;
}

// Leaves its thread in as bad a state as it can make and still end in good order.
[[noreturn]] void dirty_exit() {
  static const uint32_t mxcsr = 0x9fc0;
  static const uint16_t control_word = 0x77f;
  __asm__ volatile("ldmxcsr %0\n fldcw %1\n fld1\n pcmpeqd %%xmm7, %%xmm7"
                   :
                   : "m"(mxcsr), "m"(control_word));
  if (has_pkru()) __asm__ volatile("wrpkru" : : "a"(0x10), "c"(0), "d"(0));
  __asm__ volatile(
      "wrgsbase %0\n"
      "pushfq\n orl $0x244400, (%%rsp)\n popfq\n"  // DF, NT, AC, ID
      "mov $231, %%eax\n xor %%edi, %%edi\n syscall"
      :
      : "r"(0x123456789000)
      : "memory");
  __builtin_unreachable();
}

// A thread passes on to later processes of the same owner, from the reset state: the host's signal
// mask and alternate stack, which a frame of its own making changes, vector state, flags, bases.
// (systrap_test has affinity, nice value and CPU time, which guests can't change by themselves.)
TEST_F(Hostile, ThreadsPassOnInTheResetState) {
  auto* seen = static_cast<Seen*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(seen, MAP_FAILED);
  Seen& own = seen[0];
  look(stub_, own);
  int same = 0;
  for (int i = 0; i < 30; ++i) {
    Seen& dirty = seen[1];
    Seen& clean = seen[2];
    dirty.slot = clean.slot = 0;
    pid_t pid = fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      stub_ = find_stub();
      dirty.slot = stub_.slot;
      static unsigned char stack[16384];
      static HostFrame frame;
      frame.stack.ss_sp = reinterpret_cast<void*>(stub_.slot + 0x1000);
      frame.stack.ss_size = 0x5000;
      frame.rsp = reinterpret_cast<uint64_t>(stack + sizeof stack - 8);
      frame.rip = reinterpret_cast<uint64_t>(&dirty_exit);
      frame.mask = uint64_t{1} << (SIGUSR1 - 1);
      host_sigreturn(frame, sigreturn_site(stub_));
    }
    int status = 0;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    ASSERT_EQ(status, 0) << "the attack did not work";
    pid = fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      look(find_stub(), clean);
      for (;;) {
      }
    }
    for (int waited = 0; waited < 2000 && clean.slot == 0; ++waited) usleep(1000);
    ASSERT_NE(clean.slot, 0u);
    kill(pid, SIGTERM);
    // Not only at the deadline of an interrupt that is never answered.
    for (int waited = 0; waited < 1500 && waitpid(pid, &status, WNOHANG) == 0; ++waited)
      usleep(1000);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM) << status;
    if (clean.slot == dirty.slot) ++same;
    EXPECT_EQ(clean.frame, own.frame);
    EXPECT_EQ(clean.mxcsr, own.mxcsr);
    EXPECT_EQ(clean.control_word, own.control_word);
    EXPECT_EQ(clean.pkru, own.pkru);
    EXPECT_EQ(clean.flags & 0x244400, 0u);
  }
  EXPECT_GT(same, 0) << "no thread was used again: nothing was tested";
  munmap(seen, 4096);
}

// A frame of its own making lets guest code block the interrupt signal on the host: the thread then
// never answers.
TEST_F(Hostile, AThreadThatNeverAnswersIsKilled) {
  pid_t pid = fork();
  ASSERT_GE(pid, 0);
  if (pid == 0) {
    stub_ = find_stub();
    auto* code = static_cast<unsigned char*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                                                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    code[0] = 0xeb;
    code[1] = 0xfe;
    HostFrame frame;
    frame.rsp = reinterpret_cast<uint64_t>(&frame);
    frame.rip = reinterpret_cast<uint64_t>(code);
    frame.mask = ~uint64_t{0};
    host_sigreturn(frame, sigreturn_site(stub_));
  }
  usleep(100000);
  int status = 0;
  if (waitpid(pid, &status, WNOHANG) == pid)
    GTEST_FAIL() << "the attack did not work: status " << status;
  kill(pid, SIGKILL);
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
}

}  // namespace
