// What hostile guest code knows of its own stub, and the victim that must not notice.
//
// Meaningful only inside Caisson: natively there is no stub, and every test is skipped.
#pragma once

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
#include <string>
#include <vector>

#include "platform/systrap/sysmsg/sysmsg.h"

namespace caisson::test {

constexpr uint64_t kSlotSize = SLOT_SIZE;
constexpr uint64_t kSlotSelf = SLOT_SELF;
constexpr uint64_t kSlotGate = SLOT_GATE;
constexpr uint64_t kSlotFrame = SLOT_FRAME;
constexpr uint64_t kControl = STUB_CONTROL;
constexpr uint64_t kOrders = STUB_ORDERS;
constexpr uint64_t kSlots = STUB_SLOTS;
constexpr size_t kVictimPages = 256;

struct Stub {
  uint64_t slot = 0;
  uint64_t text = 0;
  uint32_t text_size = 0;
};

// Where this thread's stub is; all zero outside Caisson.
inline Stub find_stub() {
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
inline void be_victim(Victim& state) {
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
      setpgid(0, 0);
      stub_ = find_stub();  // the child's own
      attack();
      _exit(0);
    }
    children_.push_back(pid);
  }
  void finish_all(int limit_ms) {
    // With whoever it has made: one that runs the mapper's code clones as fast as it can.
    auto kill_all_of = [](pid_t pid) {
      kill(-pid, SIGKILL);
      kill(pid, SIGKILL);
    };
    for (int waited = 0; waited < limit_ms && !children_.empty(); waited += 2) {
      std::erase_if(children_, [](pid_t pid) {
        if (waitpid(pid, nullptr, WNOHANG) != pid) return false;
        kill(-pid, SIGKILL);
        return true;
      });
      if (!children_.empty()) usleep(2000);
    }
    for (pid_t pid : children_) kill_all_of(pid);
    for (pid_t pid : children_) EXPECT_EQ(waitpid(pid, nullptr, 0), pid);
    children_.clear();
  }

  Stub stub_;
  Victim* victim_ = nullptr;
  pid_t victim_pid_ = -1;
  std::vector<pid_t> children_;
};

// The addresses of `mov $nr, %eax; syscall` in the stub.
inline std::vector<uint64_t> sites_of(const Stub& stub, unsigned char nr) {
  const unsigned char pattern[] = {0xb8, nr, 0, 0, 0, 0x0f, 0x05};
  auto* text = reinterpret_cast<const unsigned char*>(stub.text);
  std::vector<uint64_t> found;
  for (uint32_t i = 0; i + sizeof pattern < stub.text_size; ++i)
    if (memcmp(text + i, pattern, sizeof pattern) == 0) found.push_back(stub.text + i);
  return found;
}

}  // namespace caisson::test
