// Drives the platform with hand-written guest code: no kernel above it.
#include "platform/systrap/systrap.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <atomic>
#include <cstring>
#include <thread>

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

// mov $39,%eax; call *%gs:16; jmp back
constexpr uint8_t kGateLoop[] = {0xb8, 39, 0, 0, 0, 0x65, 0xff, 0x14,
                                 0x25, 16, 0, 0, 0, 0xeb, 0xf1};

TEST_F(SystrapTest, TheGateIsASystemCall) {
  auto space = MUST(systrap_->new_address_space(0));
  auto context = make(space, kGateLoop);
  for (int i = 0; i < 1000; ++i) {
    context->resume();
    ASSERT_EQ(next(), context.get());
    ASSERT_EQ(context->event(), EventKind::kSyscall);
    ASSERT_EQ(context->regs().orig_rax, 39u);
    ASSERT_EQ(context->regs().rip, kCode + 13);
    ASSERT_EQ(context->regs().rsp, kData + 8192);
  }
  EXPECT_FALSE(context->has_vector_state());
  context->fetch_vector_state();
  ASSERT_EQ(next(), context.get());
  EXPECT_EQ(context->event(), EventKind::kFrame);
  EXPECT_TRUE(context->has_vector_state());
  EXPECT_EQ(context->regs().rip, kCode + 13);
  context->resume();
  ASSERT_EQ(next(), context.get());
  EXPECT_EQ(context->event(), EventKind::kSyscall);
  context->attach(nullptr);
}

TEST_F(SystrapTest, DISABLED_Speed) {
  for (bool gate : {false, true}) {
    auto space = MUST(systrap_->new_address_space(0));
    auto context = gate ? make(space, kGateLoop) : make(space, kGetpidLoop);
    systrap_->bind_worker(1);
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
