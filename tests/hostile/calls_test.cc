// Guest code that makes host calls: by every way in, and from the stub's own instructions, where it
// can see what they answer.
#include "tests/hostile/hostile.h"

namespace caisson::test {
namespace {

sigjmp_buf after_jump;
volatile uint64_t faulting_rax;

// Makes a call from the instructions at `site`. Its result comes from the fault that follows: the
// code there goes on by registers that are null here.
__attribute__((noinline)) int64_t call_from(uint64_t site, uint64_t a, uint64_t b, uint64_t c,
                                            uint64_t d) {
  static unsigned char stack[32768];
  const stack_t alternate{stack, 0, sizeof stack};
  sigaltstack(&alternate, nullptr);
  struct sigaction action {
  }, before{};
  action.sa_sigaction = [](int, siginfo_t*, void* context) {
    faulting_rax =
        static_cast<uint64_t>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RAX]);
    siglongjmp(after_jump, 1);
  };
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &action, &before);
  if (sigsetjmp(after_jump, 1) == 0) {
    register uint64_t r10 __asm__("r10") = d;
    __asm__ volatile(
        "push %0\n xor %%ebx, %%ebx\n xor %%ebp, %%ebp\n xor %%r12d, %%r12d\n"
        "xor %%r13d, %%r13d\n mov $1, %%r14d\n xor %%r15d, %%r15d\n ret"
        :
        : "a"(site), "D"(a), "S"(b), "d"(c), "r"(r10)
        : "memory");
  }
  sigaction(SIGSEGV, &before, nullptr);
  return static_cast<int64_t>(faulting_rax);
}

// Whether it is refused or not.
__attribute__((noinline)) void try_to_write(volatile char* at) {
  struct sigaction action {
  }, before{};
  action.sa_handler = [](int) { siglongjmp(after_jump, 1); };
  sigaction(SIGSEGV, &action, &before);
  if (sigsetjmp(after_jump, 1) == 0) at[0] = 'Y';
  sigaction(SIGSEGV, &before, nullptr);
}

// The mapper acknowledges by pwrite64 to a descriptor that it shares with this thread. From the
// mapper's own instructions, as from anywhere, the call is the guest's and finds no such file.
TEST_F(Hostile, AcknowledgementsCannotBeForged) {
  static const uint64_t forged = ~uint64_t{0} >> 1;
  const std::vector<uint64_t> sites = sites_of(stub_, SYS_pwrite64);
  EXPECT_GE(sites.size(), 2u);
  for (uint64_t site : sites) {
    for (uint64_t fd = 3; fd < 256; ++fd) {
      if (fcntl(static_cast<int>(fd), F_GETFD) >= 0) continue;
      EXPECT_EQ(call_from(site, fd, reinterpret_cast<uint64_t>(&forged), 8, fd % 2 * 8), -EBADF)
          << fd;
    }
  }
}

// Guest code may make the stub's own mprotect. It opens nothing that the kernel gave for reading.
TEST_F(Hostile, MemoryForReadingCannotBeOpened) {
  const std::vector<uint64_t> sites = sites_of(stub_, SYS_mprotect);
  if (sites.empty()) GTEST_SKIP() << "stub threads don't protect memory";
  // It works on what is the guest's own to write.
  auto* own = static_cast<volatile char*>(
      mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(const_cast<char*>(own), MAP_FAILED);
  int opened = 0;
  for (uint64_t site : sites)
    if (call_from(site, reinterpret_cast<uint64_t>(own), 4096, PROT_READ | PROT_WRITE, 0) == 0)
      ++opened;
  EXPECT_GE(opened, 1);
  try_to_write(own);
  EXPECT_EQ(own[0], 'Y');

  int file = memfd_create("target", 0);
  ASSERT_EQ(pwrite(file, "original", 8, 0), 8);
  ASSERT_EQ(ftruncate(file, 4096), 0);
  int reader = open(("/proc/self/fd/" + std::to_string(file)).c_str(), O_RDONLY);
  ASSERT_GE(reader, 0);
  int program = open("/proc/self/exe", O_RDONLY);
  ASSERT_GE(program, 0);
  struct Target {
    const char* name;
    int fd;
    int flags;
  };
  for (const Target& target : {Target{"a file opened for reading, shared", reader, MAP_SHARED},
                               Target{"the same, private", reader, MAP_PRIVATE},
                               Target{"a program, private", program, MAP_PRIVATE},
                               Target{"a program, shared", program, MAP_SHARED}}) {
    char before[8];
    ASSERT_EQ(pread(target.fd, before, 8, 0), 8);
    for (bool touched : {false, true}) {
      auto* at =
          static_cast<volatile char*>(mmap(nullptr, 4096, PROT_READ, target.flags, target.fd, 0));
      ASSERT_NE(const_cast<char*>(at), MAP_FAILED);
      if (touched) {
        EXPECT_EQ(at[0], before[0]);
      }
      const auto address = reinterpret_cast<uint64_t>(at);
      for (uint64_t site : sites) {
        int64_t result = call_from(site, address, 4096, PROT_READ | PROT_WRITE, 0);
        // Untouched, it may not be mapped yet.
        EXPECT_TRUE(result == 0 || result == -EACCES || (!touched && result == -ENOMEM))
            << target.name << ": " << result;
        pid_t pid = fork();
        ASSERT_GE(pid, 0);
        if (pid == 0) {
          at[0] = 'X';  // may be refused, by a fault
          _exit(0);
        }
        ASSERT_EQ(waitpid(pid, nullptr, 0), pid);
        char after[8];
        ASSERT_EQ(pread(target.fd, after, 8, 0), 8);
        EXPECT_EQ(memcmp(before, after, 8), 0) << target.name;
        try_to_write(at);
        ASSERT_EQ(pread(target.fd, after, 8, 0), 8);
        EXPECT_EQ(memcmp(before, after, 8), 0) << target.name;
      }
      munmap(const_cast<char*>(at), 4096);
    }
  }
  close(file);
  close(reader);
  close(program);
}

// Nor does it reach the stub, or anything else above the guest's addresses.
TEST_F(Hostile, TheStubCannotBeProtected) {
  constexpr uint64_t kUserEnd = STUB_USER_END;
  const auto everything = uint64_t{PROT_READ | PROT_WRITE | PROT_EXEC};
  for (uint64_t site : sites_of(stub_, SYS_mprotect)) {
    for (uint64_t at : {stub_.text, stub_.text + kControl, stub_.text + kOrders, stub_.slot,
                        kUserEnd, uint64_t{0x7fffffffe000}}) {
      EXPECT_LT(call_from(site, at, 4096, everything, 0), 0) << std::hex << at;
      EXPECT_LT(call_from(site, at, 4096, PROT_NONE, 0), 0) << std::hex << at;
    }
    // Ranges that begin below.
    EXPECT_LT(call_from(site, kUserEnd - 4096, stub_.text - kUserEnd + 8192, PROT_NONE, 0), 0);
    EXPECT_LT(call_from(site, 4096, stub_.text + 4096, PROT_NONE, 0), 0);
    EXPECT_LT(call_from(site, kUserEnd - 4096, ~uint64_t{4095}, PROT_NONE, 0), 0);
  }
}

// Memory that the guest has unmapped may stay in the stub for a while: what is written there by
// force is not what anybody is given later.
TEST_F(Hostile, UnmappedMemoryIsNotKept) {
  constexpr size_t kSize = 64 * 1024;
  for (uint64_t site : sites_of(stub_, SYS_mprotect)) {
    auto* memory = static_cast<char*>(
        mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(memory, MAP_FAILED);
    memset(memory, 'x', kSize);
    ASSERT_EQ(munmap(memory, kSize), 0);
    (void)call_from(site, reinterpret_cast<uint64_t>(memory), kSize, PROT_READ | PROT_WRITE, 0);
    try_to_write(memory);
    void* again = mmap(memory, kSize, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    ASSERT_EQ(again, memory);
    for (size_t i = 0; i < kSize; ++i) ASSERT_EQ(memory[i], 0) << i;
    munmap(memory, kSize);
  }
}

// The word at `at`, or 0 if it can't be read.
__attribute__((noinline)) uint64_t try_to_read(const volatile uint64_t* at) {
  struct sigaction action {
  }, before{};
  action.sa_handler = [](int) { siglongjmp(after_jump, 1); };
  sigaction(SIGSEGV, &action, &before);
  sigaction(SIGBUS, &action, nullptr);
  volatile uint64_t value = 0;
  if (sigsetjmp(after_jump, 1) == 0) value = *at;
  sigaction(SIGSEGV, &before, nullptr);
  return value;
}

// A neighbour fills memory with its secret and frees it, over and over. A guest that says for the
// mapper that its unmapping is done, and opens again what it has unmapped, must never read it.
TEST_F(Hostile, FreedMemoryOfOthersIsNeverSeen) {
  constexpr uint64_t kSecret = 0xc0ffee11c0ffee11;
  const std::vector<uint64_t> openers = sites_of(stub_, SYS_mprotect);
  const std::vector<uint64_t> reporters = sites_of(stub_, SYS_pwrite64);
  auto* rounds = static_cast<std::atomic<uint32_t>*>(
      mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(static_cast<void*>(rounds), MAP_FAILED);
  const pid_t neighbour = fork();
  ASSERT_GE(neighbour, 0);
  if (neighbour == 0) {
    for (size_t size = 65536;; size = size == 4 << 20 ? 65536 : size * 2, ++*rounds) {
      auto* words = static_cast<uint64_t*>(
          mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
      if (words == MAP_FAILED) _exit(1);
      for (size_t i = 0; i < size / 8; ++i) words[i] = kSecret;
      munmap(words, size);
    }
  }
  struct Freed {
    char* at;
    size_t size;
  };
  std::vector<Freed> freed;
  int opened = 0;
  for (int round = 0; round < 200 || *rounds < 30; ++round) {
    const size_t size = size_t{65536} << round % 6;
    auto* memory = static_cast<char*>(
        mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(memory, MAP_FAILED);
    memset(memory, 'x', size);
    munmap(memory, size);
    freed.push_back({memory, size});
    if (freed.size() > 6) freed.erase(freed.begin());
    const uint64_t report = static_cast<uint64_t>(round) + 1;
    for (uint64_t site : reporters)
      (void)call_from(site, 3 + round % 60, reinterpret_cast<uint64_t>(&report), 8, 0);
    for (const Freed& range : freed) {
      for (uint64_t site : openers)
        (void)call_from(site, reinterpret_cast<uint64_t>(range.at), range.size,
                        PROT_READ | PROT_WRITE, 0);
      for (size_t offset = 0; offset < range.size; offset += range.size / 8) {
        const uint64_t word = try_to_read(reinterpret_cast<uint64_t*>(range.at + offset));
        ASSERT_NE(word, kSecret) << round;
        if (word != 0) ++opened;
      }
    }
  }
  EXPECT_TRUE(opened > 0 || openers.empty());  // the attack comes through to its own memory
  kill(neighbour, SIGKILL);
  EXPECT_EQ(waitpid(neighbour, nullptr, 0), neighbour);
  munmap(rounds, 4096);
}

}  // namespace
}  // namespace caisson::test
