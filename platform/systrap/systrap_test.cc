// Drives the platform with hand-written guest code: no kernel above it.
#include "platform/systrap/systrap.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <atomic>
#include <cstring>
#include <optional>
#include <thread>

#include "platform/systrap/context.h"

namespace caisson::systrap {
namespace {

using platform::Backing;
using platform::Context;
using platform::EventKind;

constexpr GuestAddr kCode = 0x400000;
constexpr GuestAddr kData = 0x500000;

class NoWork : public platform::WorkSource {
 public:
  bool has_work() const override { return stop; }
  std::atomic<bool> stop{false};
};

// A sandbox with memory and a platform; the test's thread is the only worker.
class SystrapTest : public testing::Test {
 protected:
  void SetUp() override {
    FilePair pair = MUST(make_memory_file_pair("test-memory", uint64_t{1} << 32));
    memory_ = std::move(pair.read_write);
    memory_ro_ = std::move(pair.read_only);
    void* at = mmap(nullptr, kMapped, PROT_READ | PROT_WRITE, MAP_SHARED, memory_.get(), 0);
    ASSERT_NE(at, MAP_FAILED);
    bytes_ = static_cast<std::byte*>(at);
    loop_ = MUST(host::EventLoop::create());
    Options options;
    options.event_loop = loop_.get();
    options.memory_fd = memory_.get();
    options.memory_ro_fd = memory_ro_.get();
    options.on_fatal = [](const char* why) { fprintf(stderr, "fatal: %s\n", why); };
    systrap_ = MUST(Systrap::create(options));
    MUST(loop_->start());
  }
  void TearDown() override {
    int zygote = systrap_->zygote().pid();
    loop_->stop();
    munmap(bytes_, kMapped);
    kill(zygote, SIGKILL);
  }

  // A context whose code starts at kCode with `code`.
  std::unique_ptr<Context> make(Ref<platform::AddressSpace> space, std::span<const uint8_t> code) {
    memcpy(bytes_ + 0x1000, code.data(), code.size());
    space->map({kCode, 4096, PROT_READ | PROT_EXEC, Backing::kMemory, nullptr, 0x1000, false});
    space->map({kData, 8192, PROT_READ | PROT_WRITE, Backing::kMemory, nullptr, 0x2000, false});
    auto context = MUST(systrap_->new_context());
    context->regs() = {};
    context->regs().rip = kCode;
    context->regs().rsp = kData + 8192;
    context->regs().eflags = 0x202;
    context->regs().cs = kUserCs;
    context->attach(space.or_null());
    return context;
  }
  // Lets acknowledgements be seen while no context has an event.
  void settle() {
    NoWork now;
    now.stop = true;
    for (int i = 0; i < 100; ++i) {
      usleep(200);
      EXPECT_EQ(systrap_->next_event(0, now), nullptr);
    }
  }
  Context* next() { return systrap_->next_event(0, none_); }

  static constexpr size_t kMapped = 1 << 20;
  UniqueFd memory_;
  UniqueFd memory_ro_;
  std::byte* bytes_ = nullptr;
  std::unique_ptr<host::EventLoop> loop_;
  std::unique_ptr<Systrap> systrap_;
  NoWork none_;
};

// mov $39,%eax; syscall; jmp back
constexpr uint8_t kGetpidLoop[] = {0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7};

TEST_F(SystrapTest, SystemCallsTrap) {
  auto space = MUST(systrap_->new_address_space(0));
  auto context = make(space, kGetpidLoop);
  for (int i = 0; i < 1000; ++i) {
    context->resume();
    ASSERT_EQ(next(), context.get());
    ASSERT_EQ(context->event(), EventKind::kSyscall);
    ASSERT_EQ(context->regs().orig_rax, 39u);
    ASSERT_EQ(context->regs().rip, kCode + 7);
    context->regs().rax = 1234;
  }
  context->attach(nullptr);
}

TEST_F(SystrapTest, FaultsAreReported) {
  // mov 0x10(%rax),%rbx with rax = 0
  constexpr uint8_t kFault[] = {0x48, 0x8b, 0x58, 0x10};
  auto space = MUST(systrap_->new_address_space(0));
  auto context = make(space, kFault);
  context->resume();
  ASSERT_EQ(next(), context.get());
  ASSERT_EQ(context->event(), EventKind::kFault);
  EXPECT_EQ(context->fault().signo, SIGSEGV);
  EXPECT_EQ(context->fault().addr, 0x10u);
  EXPECT_EQ(context->fault().trapno, 14u);
  context->attach(nullptr);
}

TEST_F(SystrapTest, InterruptsAnEndlessLoop) {
  constexpr uint8_t kLoop[] = {0xeb, 0xfe};
  auto space = MUST(systrap_->new_address_space(0));
  auto context = make(space, kLoop);
  context->resume();
  std::thread other([&] {
    usleep(20000);
    context->interrupt();
  });
  ASSERT_EQ(next(), context.get());
  EXPECT_EQ(context->event(), EventKind::kInterrupt);
  EXPECT_EQ(context->regs().rip, kCode);
  other.join();
  context->attach(nullptr);
}

TEST_F(SystrapTest, StubsAreUsedAgain) {
  for (int i = 0; i < 50; ++i) {
    auto space = MUST(systrap_->new_address_space(0));
    auto context = make(space, kGetpidLoop);
    context->resume();
    ASSERT_EQ(next(), context.get());
    ASSERT_EQ(context->event(), EventKind::kSyscall);
    context->attach(nullptr);
  }
}

// Patched calls. Guest code at kCode is an image in which `patches` were made.
class PatchedCallTest : public SystrapTest {
 protected:
  struct Patch {
    size_t at;
    platform::CallShape shape;
    uint32_t number;
  };
  std::unique_ptr<Context> make_patched(Ref<platform::AddressSpace> space,
                                        std::span<const uint8_t> code,
                                        std::initializer_list<Patch> patches) {
    auto context = make(space, code);
    auto image = MUST(systrap_->new_patched_image(4096));
    memcpy(image.bytes.data(), code.data(), code.size());
    for (const Patch& patch : patches) {
      auto bytes = MUST(systrap_->new_patched_call(image, patch.shape, patch.number, patch.at));
      memcpy(image.bytes.data() + patch.at, bytes.data(), bytes.size());
    }
    EXPECT_TRUE(space->claim_image(image.id, kCode));
    EXPECT_FALSE(space->claim_image(image.id, kCode + 4096));
    EXPECT_FALSE(space->claim_image(image.id + 1, 0)) << "the mark of an image that is nowhere";
    space->map(
        {kCode, 4096, PROT_READ | PROT_EXEC, Backing::kPatched, nullptr, image.offset, false});
    return context;
  }
  static constexpr auto kMov = platform::CallShape::kMov;
  static constexpr auto kCompare = platform::CallShape::kCompare;
  static constexpr uint32_t kErrors = 0xfffff000;
};

TEST_F(PatchedCallTest, ComesWithoutATrapAndChangesNothing) {
  if (!systrap_->calls().enabled()) GTEST_SKIP() << "low addresses are refused here";
  auto space = MUST(systrap_->new_address_space(0));
  auto context = make_patched(space, kGetpidLoop, {{0, kMov, 39}});
  Registers& regs = context->regs();
  regs.rbx = 1, regs.rdx = 2, regs.rsi = 3, regs.rdi = 4, regs.rbp = 5, regs.r8 = 6, regs.r9 = 7;
  regs.r10 = 8, regs.r12 = 9, regs.r13 = 10, regs.r14 = 11, regs.r15 = 12;
  regs.fs_base = kData;
  regs.ss = kUserSs;
  for (uint64_t flags : {0x202u, 0xa93u, 0x247u}) {
    regs.eflags = flags;
    regs.rip = kCode;
    Registers want = regs;
    // Written back by the frame at first, then by the gate.
    for (int i = 0; i < 100; ++i) {
      context->resume();
      ASSERT_EQ(next(), context.get());
      ASSERT_EQ(context->event(), EventKind::kSyscall);
      EXPECT_FALSE(context->is_trapped());
      want.rax = want.orig_rax = 39;
      want.rip = want.rcx = kCode + 7;
      want.r11 = want.eflags = flags;
      ASSERT_EQ(memcmp(&regs, &want, sizeof want), 0) << i;
      regs.rax = 1234;
    }
    regs.rbx ^= 1;  // so that the next round begins with all registers
  }
  context->attach(nullptr);
}

TEST_F(PatchedCallTest, AGuestWithAGsBaseOfItsOwn) {
  if (!systrap_->calls().enabled()) GTEST_SKIP() << "low addresses are refused here";
  // mov $39,%eax; syscall; mov $0x500000,%eax; wrgsbase %rax; jmp to the beginning
  constexpr uint8_t kOwnGs[] = {0xb8, 39, 0,    0,    0,    0x0f, 0x05, 0xb8, 0,   0,
                                0x50, 0,  0xf3, 0x48, 0x0f, 0xae, 0xd8, 0xeb, 0xed};
  auto space = MUST(systrap_->new_address_space(0));
  auto context = make_patched(space, kOwnGs, {{0, kMov, 39}});
  for (int i = 0; i < 10; ++i) {
    context->resume();
    ASSERT_EQ(next(), context.get());
    ASSERT_EQ(context->event(), EventKind::kSyscall);
    ASSERT_EQ(context->regs().orig_rax, 39u);
    ASSERT_EQ(context->regs().rip, kCode + 7);
    ASSERT_EQ(context->regs().gs_base, i == 0 ? 0 : kData);
    context->regs().rax = 1;
  }
  context->attach(nullptr);
}

// xor %eax,%eax; syscall; cmp $-4096,%rax; ja 1f; jmp to the beginning; 1: mov $39,%eax; syscall;
// jmp to the beginning
constexpr uint8_t kReadLoop[] = {0x31, 0xc0, 0x0f, 0x05, 0x48, 0x3d, 0x00, 0xf0,
                                 0xff, 0xff, 0x77, 0x02, 0xeb, 0xf2, 0xb8, 39,
                                 0,    0,    0,    0x0f, 0x05, 0xeb, 0xe9};

TEST_F(PatchedCallTest, WithTheComparisonThatFollows) {
  if (!systrap_->calls().enabled()) GTEST_SKIP() << "low addresses are refused here";
  auto space = MUST(systrap_->new_address_space(0));
  auto context = make_patched(space, kReadLoop, {{2, kCompare, kErrors}});
  for (int i = 0; i < 100; ++i) {
    context->resume();
    ASSERT_EQ(next(), context.get());
    ASSERT_EQ(context->event(), EventKind::kSyscall);
    ASSERT_EQ(context->regs().orig_rax, 0u);
    ASSERT_FALSE(context->is_trapped());
    ASSERT_EQ(context->regs().rip, kCode + 4);
    ASSERT_EQ(context->regs().rcx, kCode + 4);
    bool fails = i % 3 == 1;
    context->regs().rax = fails ? static_cast<uint64_t>(-EINTR) : 7;
    if (!fails) continue;
    context->resume();
    ASSERT_EQ(next(), context.get());
    ASSERT_EQ(context->regs().orig_rax, 39u) << "the comparison went wrong";
    ASSERT_EQ(context->regs().rip, kCode + 21);
  }
  context->attach(nullptr);
}

// The kernel above mends these.
TEST_F(PatchedCallTest, OtherInstructionsInThePatchFault) {
  if (!systrap_->calls().enabled()) GTEST_SKIP() << "low addresses are refused here";
  struct {
    std::span<const uint8_t> code;
    Patch patch;
    uint64_t at;
    int signo;
    uint64_t trapno;
  } cases[] = {{kGetpidLoop, {0, kMov, 39}, 5, SIGILL, 6},
               {kReadLoop, {2, kCompare, kErrors}, 4, SIGSEGV, 13}};
  for (auto& [code, patch, at, signo, trapno] : cases) {
    auto space = MUST(systrap_->new_address_space(0));
    auto context = make_patched(space, code, {patch});
    context->regs().rip = kCode + at;
    context->resume();
    ASSERT_EQ(next(), context.get());
    ASSERT_EQ(context->event(), EventKind::kFault);
    EXPECT_EQ(context->fault().signo, signo);
    EXPECT_EQ(context->fault().trapno, trapno);
    EXPECT_EQ(context->regs().rip, kCode + at);
    EXPECT_EQ(context->regs().rax, 0u);
    context->attach(nullptr);
  }
}

// Interrupts, soon after each of `calls` that the guest is given.
class Interrupter {
 public:
  explicit Interrupter(Context& context)
      : thread_([this, &context] {
          for (int seen = 0; !done_;) {
            if (calls == seen) continue;  // it may take the host long to run the guest
            seen = calls;
            for (int i = std::rand() % 300; i > 0; --i) __builtin_ia32_pause();
            context.interrupt();
          }
        }) {}
  ~Interrupter() {
    done_ = true;
    thread_.join();
  }
  std::atomic<int> calls{0};

 private:
  std::atomic<bool> done_{false};
  std::thread thread_;
};

// Wherever an interrupt comes, the guest is somewhere in its own text.
TEST_F(PatchedCallTest, InterruptsDoNotShowTheCodeBehindPatches) {
  if (!systrap_->calls().enabled()) GTEST_SKIP() << "low addresses are refused here";
  auto space = MUST(systrap_->new_address_space(0));
  auto context = make_patched(space, kReadLoop, {{2, kCompare, kErrors}, {14, kMov, 39}});
  int interrupts = 0;
  std::optional<Interrupter> other(std::in_place, *context);
  std::atomic<int>& calls = other->calls;
  bool ok = true;
  for (int i = 0; i < 500'000 && interrupts < 1000 && ok; ++i) {
    context->resume();
    Context* got = next();
    uint64_t at = context->regs().rip - kCode;
    ok = got == context.get() && at < sizeof kReadLoop;
    if (context->event() == EventKind::kSyscall) {
      ++calls;
      ok = ok && (at == 4 || at == 21);
      context->regs().rax = calls % 2 == 0 ? static_cast<uint64_t>(-1) : 1;
    } else if (context->event() == EventKind::kFault) {
      ok = ok && at == 4 && context->fault().trapno == 13;  // for the kernel above to mend
      context->regs().rip = kCode;
    } else {
      ++interrupts;
      ok = ok && context->event() == EventKind::kInterrupt;
    }
    EXPECT_TRUE(ok) << "at " << at << " event " << static_cast<int>(context->event());
  }
  EXPECT_GT(calls, 0);
  EXPECT_GT(interrupts, 0);
  other.reset();
  context->attach(nullptr);
}

// Calls that are patched, and calls that trap.
class InterruptedCallTest : public PatchedCallTest, public testing::WithParamInterface<bool> {
 protected:
  std::unique_ptr<Context> make_calls(Ref<platform::AddressSpace> space,
                                      std::span<const uint8_t> code, Patch patch) {
    return GetParam() ? make_patched(space, code, {patch}) : make(space, code);
  }
  // Lets the guest run until its next call; what interrupts it on the way is counted.
  testing::AssertionResult next_call(Context& context, size_t code_size) {
    for (;;) {
      context.resume();
      if (next() != &context) return testing::AssertionFailure() << "another context";
      if (context.event() == EventKind::kSyscall) return testing::AssertionSuccess();
      if (context.event() != EventKind::kInterrupt || context.regs().rip - kCode >= code_size)
        return testing::AssertionFailure() << "event " << static_cast<int>(context.event())
                                           << std::hex << " at " << context.regs().rip;
      ++interrupts_;
    }
  }
  uint64_t stored() const {
    uint64_t value;
    memcpy(&value, bytes_ + 0x2000, sizeof value);
    return value;
  }
  int interrupts_ = 0;
};
INSTANTIATE_TEST_SUITE_P(, InterruptedCallTest, testing::Bool(),
                         [](const auto& info) { return info.param ? "Patched" : "Trapped"; });

// Vector state that the kernel writes is there even if an interrupt comes on the way back.
TEST_P(InterruptedCallTest, VectorStateThatWasWrittenArrives) {
  if (GetParam() && !systrap_->calls().enabled()) GTEST_SKIP() << "low addresses are refused here";
  // mov $39,%eax; syscall; movq %xmm0,0x500000; jmp to the beginning
  constexpr uint8_t kStore[] = {0xb8, 39,   0,    0,    0,    0x0f, 0x05, 0x66, 0x0f,
                                0xd6, 0x04, 0x25, 0x00, 0x00, 0x50, 0x00, 0xeb, 0xee};
  constexpr size_t kXmm0 = 160;
  auto space = MUST(systrap_->new_address_space(0));
  auto context = make_calls(space, kStore, {0, kMov, 39});
  std::vector<std::byte> state(systrap_->vector_state_size());
  context->read_vector_state(state);
  {
    Interrupter other(*context);
    uint64_t written = 0;
    for (int i = 0; i < 200'000 && interrupts_ < 1000; ++i) {
      ASSERT_TRUE(next_call(*context, sizeof kStore));
      if (other.calls > 0) {
        ASSERT_EQ(stored(), written);
      }
      written = 0x1111'0000'0000'0000 + static_cast<uint64_t>(i);
      memcpy(state.data() + kXmm0, &written, sizeof written);
      state[512] |= std::byte{3};  // x87 and SSE are in use
      context->write_vector_state(state);
      ++other.calls;
    }
  }
  EXPECT_GT(interrupts_, 100);
  context->attach(nullptr);
}

// Nothing that the guest has is lost or done twice, whether or not the kernel looked at its vector
// state or changed a register.
TEST_P(InterruptedCallTest, EverythingElseStays) {
  if (GetParam() && !systrap_->calls().enabled()) GTEST_SKIP() << "low addresses are refused here";
  // std; inc %rbx; movq %rbx,%xmm0; mov $39,%eax; syscall; movq %xmm0,0x500000; jmp
  constexpr uint8_t kCount[] = {0xfd, 0x48, 0xff, 0xc3, 0x66, 0x48, 0x0f, 0x6e, 0xc3,
                                0xb8, 39,   0,    0,    0,    0x0f, 0x05, 0x66, 0x0f,
                                0xd6, 0x04, 0x25, 0x00, 0x00, 0x50, 0x00, 0xeb, 0xe5};
  auto space = MUST(systrap_->new_address_space(0));
  auto context = make_calls(space, kCount, {9, kMov, 39});
  Registers& regs = context->regs();
  std::vector<std::byte> state(systrap_->vector_state_size());
  {
    Interrupter other(*context);
    uint64_t count = 0;
    for (int i = 0; i < 200'000 && interrupts_ < 2000; ++i) {
      ASSERT_TRUE(next_call(*context, sizeof kCount));
      ASSERT_EQ(regs.rbx, ++count);
      if (count > 1) {
        ASSERT_EQ(stored(), count - 1);
      }
      ASSERT_EQ(regs.r15, count / 3);
      ASSERT_NE(context->is_trapped() ? regs.eflags & kDirectionFlag : 1, 0u);
      if (i % 5 == 0 && !context->has_vector_state()) {
        context->fetch_vector_state();
        ASSERT_EQ(next(), context.get());
        ASSERT_EQ(context->event(), EventKind::kFrame);
        ASSERT_EQ(regs.rbx, count);
      }
      if (context->has_vector_state()) {
        context->read_vector_state(state);
        if (i % 7 == 0) context->write_vector_state(state);
      }
      if ((count + 1) % 3 == 0) ++regs.r15;
      ++other.calls;
    }
  }
  EXPECT_GT(interrupts_, 100);
  context->attach(nullptr);
}

// Guest code, copied from here: position-independent, data at kData.
__asm__(
    ".section .rodata\n"
    "dirty_code:\n"
    "  movl $0x500000, %eax\n"
    "  movl $0x9fc0, 0x100(%rax)\n  ldmxcsr 0x100(%rax)\n"
    "  movw $0x077f, 0x108(%rax)\n  fldcw 0x108(%rax)\n  fld1\n"
    "  pcmpeqd %xmm0, %xmm0\n  pcmpeqd %xmm15, %xmm15\n"
    "  wrfsbase %rax\n"
    "  movl $39, %eax\n  syscall\n"
    "dirty_code_end:\n"
    "look_code:\n"
    "  movl $0x500000, %r8d\n"
    "  stmxcsr (%r8)\n  fnstcw 8(%r8)\n  fnstsw 16(%r8)\n"
    "  movups %xmm0, 32(%r8)\n  movups %xmm15, 48(%r8)\n"
    "  rdfsbase %rax\n  movq %rax, 64(%r8)\n"
    "  pushfq\n  popq 72(%r8)\n"
    "  movl $39, %eax\n  syscall\n"
    "look_code_end:\n"
    ".text\n");
extern "C" {
extern const uint8_t dirty_code[], dirty_code_end[], look_code[], look_code_end[];
}

struct Looked {
  uint64_t mxcsr, control_word, status_word, pad;
  uint64_t xmm0[2], xmm15[2];
  uint64_t fs_base, flags;
};

// One thread, two guest processes: the second must find nothing of the first.
TEST_F(SystrapTest, AReusedThreadStartsFromTheResetState) {
  Slot* first_slot = nullptr;
  uint64_t used_before = 0;
  std::vector<Ref<platform::AddressSpace>> spaces;
  for (int round = 0, others = 0; round < 6;) {
    bool dirty = round % 2 == 0;
    spaces.push_back(MUST(systrap_->new_address_space(0)));
    auto code = dirty ? std::span(dirty_code, dirty_code_end) : std::span(look_code, look_code_end);
    auto context = make(spaces.back(), code);
    memset(bytes_ + 0x2000, 0xee, 4096);
    context->resume();
    ASSERT_EQ(next(), context.get());
    ASSERT_EQ(context->event(), EventKind::kSyscall) << context->fault().signo;
    StubThread* thread = static_cast<SystrapContext*>(context.get())->thread();
    if (first_slot == nullptr) first_slot = &thread->slot();
    if (&thread->slot() != first_slot) {
      // Its stub is not empty yet, on a busy machine; this one is kept out of the way.
      ASSERT_LT(++others, 50) << "the thread was not used again";
      context->attach(nullptr);
      settle();
      continue;
    }
    ++round;
    uint64_t used = thread->host_cpu_ns();
    EXPECT_LE(context->cpu_time_ns(), used - used_before)
        << "CPU time of an earlier task is counted";
    used_before = used;
    if (!dirty) {
      Looked looked;
      memcpy(&looked, bytes_ + 0x2000, sizeof looked);
      EXPECT_EQ(static_cast<uint32_t>(looked.mxcsr), 0x1f80u);
      EXPECT_EQ(static_cast<uint16_t>(looked.control_word), 0x37fu);
      EXPECT_EQ(static_cast<uint16_t>(looked.status_word), 0u);
      EXPECT_EQ(looked.xmm0[0] | looked.xmm0[1] | looked.xmm15[0] | looked.xmm15[1], 0u);
      EXPECT_EQ(looked.fs_base, 0u);
      EXPECT_EQ(looked.flags & 0xcd5, 0u);
    }
    context->attach(nullptr);
    context.reset();
    spaces.pop_back();  // the last reference: recycled
    settle();
  }
}

// What the host says of a stub thread.
int host_cpus(int tid) {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(tid, sizeof set, &set) < 0 ? -1 : CPU_COUNT(&set);
}
int host_nice(int tid) { return getpriority(PRIO_PROCESS, static_cast<id_t>(tid)); }

TEST_F(SystrapTest, AReusedThreadRunsWhereEveryThreadMayAndAsEagerly) {
  const int all = host_cpus(0);
  int pinned_tid = 0;
  for (int round = 0; round < 4; ++round) {
    auto space = MUST(systrap_->new_address_space(0));
    auto context = make(space, kGetpidLoop);
    platform::Scheduling pinned{{}, host_nice(0)};
    CPU_ZERO(&pinned.cpus);
    CPU_SET(sched_getcpu(), &pinned.cpus);
    if (round % 2 == 0) context->set_scheduling(pinned);
    context->resume();
    ASSERT_EQ(next(), context.get());
    int tid = static_cast<SystrapContext*>(context.get())->thread()->tid;
    EXPECT_EQ(host_cpus(tid), round % 2 == 0 ? 1 : all);
    EXPECT_EQ(host_nice(tid), host_nice(0));
    if (pinned_tid == 0) pinned_tid = tid;
    EXPECT_EQ(tid, pinned_tid) << "the thread was not used again";
    context->attach(nullptr);
    context.reset();
    space = MUST(systrap_->new_address_space(1));
    settle();
  }
}

// The host takes a higher nice value from anybody, a lower one back from few.
TEST_F(SystrapTest, AThreadWithANiceValueIsNotUsedAgain) {
  int nice_tid = 0;
  for (bool nice : {true, false}) {
    auto space = MUST(systrap_->new_address_space(0));
    auto context = make(space, kGetpidLoop);
    platform::Scheduling scheduling{{}, 19};
    sched_getaffinity(0, sizeof scheduling.cpus, &scheduling.cpus);
    if (nice) context->set_scheduling(scheduling);
    context->resume();
    ASSERT_EQ(next(), context.get());
    int tid = static_cast<SystrapContext*>(context.get())->thread()->tid;
    EXPECT_EQ(host_nice(tid), nice ? 19 : host_nice(0));
    if (nice)
      nice_tid = tid;
    else
      EXPECT_NE(tid, nice_tid);
    context->attach(nullptr);
    context.reset();
    space = MUST(systrap_->new_address_space(1));
    settle();
  }
}

TEST_F(SystrapTest, KilledStubReportsDeath) {
  constexpr uint8_t kLoop[] = {0xeb, 0xfe};
  auto space = MUST(systrap_->new_address_space(0));
  auto context = make(space, kLoop);
  context->resume();
  std::thread other([&] {
    usleep(20000);
    context->kill();
  });
  ASSERT_EQ(next(), context.get());
  EXPECT_EQ(context->event(), EventKind::kDied);
  other.join();
  context->resume();
  ASSERT_EQ(next(), context.get());
  EXPECT_EQ(context->event(), EventKind::kDied);
  context->attach(nullptr);
}

// mov $39,%eax; lea 8(%rip),%rcx; jmp *%gs:SLOT_GATE; jmp back
constexpr uint8_t kGateLoop[] = {0xb8,      39, 0, 0, 0,    0x48, 0x8d, 0x0d,
                                 8,         0,  0, 0, 0x65, 0xff, 0x24, 0x25,
                                 SLOT_GATE, 0,  0, 0, 0xeb, 0xea};

TEST_F(SystrapTest, TheGateIsASystemCall) {
  auto space = MUST(systrap_->new_address_space(0));
  auto context = make(space, kGateLoop);
  for (int i = 0; i < 1000; ++i) {
    context->resume();
    ASSERT_EQ(next(), context.get());
    ASSERT_EQ(context->event(), EventKind::kSyscall);
    ASSERT_EQ(context->regs().orig_rax, 39u);
    ASSERT_EQ(context->regs().rip, kCode + 20);
    ASSERT_EQ(context->regs().rsp, kData + 8192);
  }
  EXPECT_FALSE(context->has_vector_state());
  context->fetch_vector_state();
  ASSERT_EQ(next(), context.get());
  EXPECT_EQ(context->event(), EventKind::kFrame);
  EXPECT_TRUE(context->has_vector_state());
  EXPECT_EQ(context->regs().rip, kCode + 20);
  context->resume();
  ASSERT_EQ(next(), context.get());
  EXPECT_EQ(context->event(), EventKind::kSyscall);
  context->attach(nullptr);
}

TEST_F(SystrapTest, DISABLED_Speed) {
  systrap_->bind_worker(0);
  for (bool gate : {false, true}) {
    auto space = MUST(systrap_->new_address_space(0));
    auto context = gate ? make(space, kGateLoop) : make(space, kGetpidLoop);
    context->resume();
    ASSERT_EQ(next(), context.get());
    constexpr int kCount = 200000;
    uint64_t begin = host::monotonic_ns();
    for (int i = 0; i < kCount; ++i) {
      context->resume();
      ASSERT_EQ(next(), context.get());
    }
    printf("%s: %.0f ns\n", gate ? "gate" : "trap",
           static_cast<double>(host::monotonic_ns() - begin) / kCount);
    context->attach(nullptr);
  }
}

}  // namespace
}  // namespace caisson::systrap
