// Guest code that attacks its own stub. Each attack runs in a child: whatever happens to it, this
// process goes on, the victim (another guest process, running all the time) keeps its memory and
// its calls, and nothing hangs.
#include "tests/hostile/hostile.h"

namespace caisson::test {
namespace {

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
  uint32_t end_of_thread_code = 0;  // StubHeader::initial_vector_state
  memcpy(&end_of_thread_code, reinterpret_cast<void*>(stub_.text + 32), sizeof end_of_thread_code);
  for (uint64_t seed : {7, 1000}) {
    for (uint32_t offset = 0; offset < stub_.text_size; ++offset) {
      start([&] { jump_wild(stub_.text + offset, offset * 31 + seed, stub_.slot); });
      // Behind it is what mappers and the zygote run: they clone.
      const size_t at_once = offset < end_of_thread_code ? 512 : 16;
      if (children_.size() >= at_once) finish_all(20);
    }
  }
  finish_all(20);
}

// The table and the code of patched calls. Enough calls are made first that there are some.
class HostileToPatches : public Hostile {
 protected:
  void SetUp() override {
    Hostile::SetUp();
    if (IsSkipped()) return;
    for (int i = 0; i < 3000; ++i) getppid();
    if (munmap(reinterpret_cast<void*>(CALL_TABLE_END - 4096), 4096) != 0 ||
        mmap(reinterpret_cast<void*>(CALL_TABLE), 4096, PROT_READ,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != MAP_FAILED)
      GTEST_SKIP() << "this host does not allow patched calls";
  }
  static uint64_t table_entry(uint64_t index) {
    return reinterpret_cast<const volatile uint64_t*>(CALL_TABLE)[index];
  }
};

TEST_F(HostileToPatches, JumpsIntoTheirCodeAtEveryByte) {
  constexpr size_t kAtOnce = 256;
  uint64_t codes = stub_.text + STUB_CALLS;
  constexpr uint64_t kNoCompare = 1, kCompare = 0x600 / 8;  // indices, call_patches.cc
  for (uint64_t place : {uint64_t{0}, kNoCompare, kCompare, kCompare - 1}) {
    for (uint64_t at = 0; at < STUB_CALL_SIZE; ++at) {
      for (uint64_t seed : {1, 2, 3}) {
        start([&] {
          if (seed == 3) _writegsbase_u64(stub_.text + at * 8);  // within the region
          jump_wild(codes + place * STUB_CALL_SIZE + at, at * 31 + seed, stub_.slot);
        });
        if (children_.size() == kAtOnce) finish_all(20);
      }
    }
  }
  finish_all(20);
}

// What a guest does to the addresses of the table does not reach the next user of its stub.
TEST_F(HostileToPatches, TheirTableStays) {
  uint64_t first = table_entry(1);
  for (int i = 0; i < 40; ++i) {
    pid_t pid = fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      auto* low = reinterpret_cast<void*>(CALL_TABLE);
      constexpr size_t kSize = CALL_TABLE_END - CALL_TABLE;
      if (table_entry(1) != first) _exit(1);
      if (munmap(low, kSize) != 0 || munmap(nullptr, CALL_TABLE_END + 4096) != 0) _exit(2);
      if (mprotect(low, kSize, PROT_NONE) == 0) _exit(3);
      if (mmap(low, kSize, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) !=
              MAP_FAILED ||
          errno != EPERM)
        _exit(4);
      void* own = mmap(nullptr, kSize, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (mremap(own, kSize, kSize, MREMAP_MAYMOVE | MREMAP_FIXED, low) != MAP_FAILED ||
          errno != EPERM)
        _exit(5);
      void* hinted = mmap(low, kSize, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (hinted == MAP_FAILED || hinted < reinterpret_cast<void*>(CALL_TABLE_END)) _exit(6);
      if (madvise(low, kSize, MADV_DONTNEED) == 0) _exit(7);
      if (table_entry(1) != first || getppid() == 0) _exit(8);
      _exit(0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    ASSERT_EQ(status, 0) << i;
  }
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
        auto* entry = reinterpret_cast<std::atomic<uint32_t>*>(sibling.load() + SLOT_ENTRY);
        for (uint32_t i = 0; i < 100000; ++i) {
          *entry = i % 5;
          *state = i % 6;
        }
      },
      500);
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

}  // namespace
}  // namespace caisson::test
