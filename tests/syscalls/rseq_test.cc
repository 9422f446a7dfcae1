// rseq(2): registration and its errors, who inherits it, and sequences that begin again when they
// were interrupted. libc registers a struct rseq for each thread; tests of the call take it back
// first.
#include <fcntl.h>
#include <sched.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstring>
#include <thread>
#include <vector>

#include "tests/util/child.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"
#include "tests/util/require.h"

namespace caisson::test {
namespace {

constexpr uint32_t kSize = 32;
constexpr unsigned long kAtRseqFeatureSize = 27, kAtRseqAlign = 28;

volatile struct rseq& libc_area() {
  return *reinterpret_cast<volatile struct rseq*>(static_cast<char*>(__builtin_thread_pointer()) +
                                                  __rseq_offset);
}

long rseq(volatile void* area, uint32_t length, int flags, uint32_t signature) {
  return syscall(SYS_rseq, area, length, flags, signature);
}

void drop_libc_area() { REQUIRE(rseq(&libc_area(), kSize, 1, RSEQ_SIG) == 0); }

#define REQUIRE_ERROR(call, error) REQUIRE((call) == -1 && errno == (error))

class Rseq : public testing::Test {
 protected:
  void SetUp() override {
    if (__rseq_size == 0) GTEST_SKIP() << "this kernel has no rseq(2)";
  }
  static int ended_well(const std::function<int()>& body) { return Child::run(body).wait(); }
};

cpu_set_t allowed_cpus() {
  cpu_set_t cpus;
  must(sched_getaffinity(0, sizeof cpus, &cpus), "sched_getaffinity");
  return cpus;
}

void run_on(int cpu) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  REQUIRE(sched_setaffinity(0, sizeof one, &one) == 0);
}

TEST_F(Rseq, LibcHasItsArea) {
  EXPECT_GE(static_cast<int>(libc_area().cpu_id), 0);
  EXPECT_EQ(libc_area().cpu_id, libc_area().cpu_id_start);
}

TEST_F(Rseq, AuxvTellsTheSizes) {
  if (getauxval(kAtRseqFeatureSize) == 0) GTEST_SKIP() << "a kernel that does not tell";
  EXPECT_GE(getauxval(kAtRseqFeatureSize), 20u);
  EXPECT_GE(getauxval(kAtRseqAlign), 32u);
}

TEST_F(Rseq, CpuIdIsWhereTheThreadRuns) {
  const cpu_set_t cpus = allowed_cpus();
  std::thread([&] {
    for (int round = 0; round < 50; ++round) {
      for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (!CPU_ISSET(cpu, &cpus)) continue;
        run_on(cpu);
        unsigned seen = ~0u;
        REQUIRE(syscall(SYS_getcpu, &seen, nullptr, nullptr) == 0);
        REQUIRE(seen == static_cast<unsigned>(cpu));
        REQUIRE(libc_area().cpu_id == seen && libc_area().cpu_id_start == seen);
        REQUIRE(sched_getcpu() == cpu);
      }
    }
  }).join();
}

alignas(64) struct rseq own_area;

TEST_F(Rseq, Errors) {
  EXPECT_EQ(ended_well([] {
              REQUIRE_ERROR(rseq(&own_area, kSize, 0, 5), EINVAL);  // libc's is there
              drop_libc_area();
              REQUIRE_ERROR(rseq(&libc_area(), kSize, 1, RSEQ_SIG), EINVAL);
              char* bytes = reinterpret_cast<char*>(&own_area);
              REQUIRE_ERROR(rseq(bytes, kSize, 2, 5), EINVAL);
              REQUIRE_ERROR(rseq(bytes, kSize, -1, 5), EINVAL);
              REQUIRE_ERROR(rseq(bytes, kSize - 1, 0, 5), EINVAL);
              REQUIRE_ERROR(rseq(bytes, 0, 0, 5), EINVAL);
              REQUIRE_ERROR(rseq(bytes + 16, kSize, 0, 5), EINVAL);
              REQUIRE_ERROR(rseq(bytes + 16, 2 * kSize, 0, 5), EINVAL);
              REQUIRE_ERROR(rseq(reinterpret_cast<void*>(~31ull), kSize, 0, 5), EFAULT);
              REQUIRE_ERROR(rseq(bad_pointer(), kSize, 0, 5), EFAULT);
              REQUIRE(rseq(bytes, kSize, 0, 5) == 0);
              REQUIRE_ERROR(rseq(bytes, kSize, 0, 5), EBUSY);
              REQUIRE_ERROR(rseq(bytes, kSize, 0, 6), EPERM);
              REQUIRE_ERROR(rseq(bytes, 2 * kSize, 0, 5), EINVAL);
              REQUIRE_ERROR(rseq(bytes + 32, kSize, 0, 5), EINVAL);
              REQUIRE_ERROR(rseq(bytes, kSize, 3, 5), EINVAL);
              REQUIRE_ERROR(rseq(bytes, kSize, 1, 6), EPERM);
              REQUIRE_ERROR(rseq(bytes, 2 * kSize, 1, 5), EINVAL);
              REQUIRE_ERROR(rseq(bytes + 32, kSize, 1, 5), EINVAL);
              REQUIRE(rseq(bytes, kSize, 1, 5) == 0);
              REQUIRE_ERROR(rseq(bytes, kSize, 1, 5), EINVAL);
              return 0;
            }),
            0);
}

TEST_F(Rseq, RegistrationFillsTheAreaAndItsEndEmptiesIt) {
  EXPECT_EQ(ended_well([] {
              drop_libc_area();
              auto& area = *const_cast<volatile struct rseq*>(&own_area);
              for (int i = 0; i < 1000; ++i) {
                area.cpu_id = 0x1234;
                area.cpu_id_start = 0x1234;
                REQUIRE(rseq(&area, kSize, 0, 7) == 0);
                REQUIRE(area.cpu_id < CPU_SETSIZE && area.cpu_id == area.cpu_id_start);
                REQUIRE(rseq(&area, kSize, 1, 7) == 0);
                REQUIRE(area.cpu_id == static_cast<uint32_t>(RSEQ_CPU_ID_UNINITIALIZED));
                REQUIRE(area.cpu_id_start == 0);
              }
              return 0;
            }),
            0);
}

void ignore_signal(int) {}

// Nobody can handle that: the frame of the handler would need the area as well.
TEST_F(Rseq, AnAreaThatCannotBeWrittenEndsTheProcess) {
  for (int way = 0; way < 3; ++way) {
    int status = ended_well([&] {
      drop_libc_area();
      struct sigaction action {};
      action.sa_handler = ignore_signal;
      must(sigaction(SIGSEGV, &action, nullptr), "sigaction");
      Mapping page = Mapping::anonymous(kPageSize);
      if (way == 0) must(mprotect(page.address(), kPageSize, PROT_READ), "mprotect");
      if (rseq(page.address(), kSize, 0, 7) != 0) return 1;
      if (way == 1) must(munmap(page.address(), kPageSize), "munmap");
      if (way == 2) must(mprotect(page.address(), kPageSize, PROT_NONE), "mprotect");
      for (int i = 0; i < 1000; ++i) usleep(1000);
      return 0;
    });
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV) << way << ": " << status;
  }
}

TEST_F(Rseq, ForkInheritsIt) {
  EXPECT_EQ(ended_well([] {
              drop_libc_area();
              REQUIRE(rseq(&own_area, kSize, 0, 9) == 0);
              Child child = Child::run([] {
                REQUIRE_ERROR(rseq(&own_area, kSize, 0, 9), EBUSY);
                const_cast<volatile struct rseq&>(own_area).cpu_id = 0x1234;
                usleep(1000);
                REQUIRE(const_cast<volatile struct rseq&>(own_area).cpu_id < CPU_SETSIZE);
                REQUIRE(rseq(&own_area, kSize, 1, 9) == 0);
                return 0;
              });
              REQUIRE(child.wait() == 0);
              REQUIRE_ERROR(rseq(&own_area, kSize, 0, 9), EBUSY);
              return 0;
            }),
            0);
}

int in_other_thread(void* result) {
  *static_cast<long*>(result) = rseq(&own_area, kSize, 0, 9);
  return 0;
}

TEST_F(Rseq, AThreadHasNone) {
  Mapping stack = Mapping::anonymous(64 * 1024);
  for (unsigned long flags :
       {static_cast<unsigned long>(CLONE_VM), static_cast<unsigned long>(CLONE_VM | CLONE_VFORK)}) {
    long result = -1;
    pid_t pid =
        clone(in_other_thread, stack.end() - 64, static_cast<int>(flags) | SIGCHLD, &result);
    ASSERT_GT(pid, 0);
    int status = 0;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT_EQ(status, 0);
    EXPECT_EQ(result, 0);
  }
  EXPECT_EQ(rseq(&libc_area(), kSize, 0, RSEQ_SIG), -1);
  EXPECT_EQ(errno, EBUSY);
}

// What libc registers in the new program fails if the old one's is still there.
TEST_F(Rseq, ExecDropsIt) {
  Child child = Child::run([] {
    execl("/proc/self/exe", "rseq_test", "--gtest_filter=Rseq.LibcHasItsArea", nullptr);
    return 1;
  });
  EXPECT_EQ(child.wait(), 0);
}

// ---- Sequences.

// Adds 1 to *counter, taking `rounds` turns of a loop over it. False: `cpu` is not the thread's, or
// it was interrupted and nothing was added.
__attribute__((noinline)) bool add_one(uint32_t cpu, uint64_t* counter, uint64_t rounds) {
  volatile struct rseq& area = libc_area();
  __asm__ goto(
      ".pushsection __rseq_cs, \"aw\"\n"
      ".balign 32\n"
      "3: .long 0, 0\n"
      ".quad 1f, 2f - 1f, 4f\n"
      ".popsection\n"
      "  leaq 3b(%%rip), %%rax\n"
      "  movq %%rax, %[sequence]\n"
      "1: cmpl %[cpu], %[cpu_id]\n"
      "  jne 4f\n"
      "  movq (%[counter]), %%rax\n"
      "  movq %[rounds], %%rcx\n"
      "5: decq %%rcx\n"
      "  jnz 5b\n"
      "  incq %%rax\n"
      "  movq %%rax, (%[counter])\n"
      "2:\n"
      ".pushsection .text.aborts, \"ax\"\n"
      "  .byte 0x0f, 0xb9, 0x3d\n"
      "  .long 0x53053053\n"
      "4: jmp %l[aborted]\n"
      ".popsection\n"
      :
      : [cpu] "r"(cpu), [cpu_id] "m"(area.cpu_id), [sequence] "m"(area.rseq_cs),
        [counter] "r"(counter), [rounds] "r"(rounds)
      : "rax", "rcx", "memory", "cc"
      : aborted);
  return true;
aborted:
  return false;
}

struct alignas(64) Counter {
  uint64_t value = 0;
};

struct Counted {
  uint64_t total = 0;
  uint64_t aborts = 0;
};

Counted count_in_threads(int threads, int additions, uint64_t rounds, bool on_one_cpu) {
  std::vector<Counter> counters(CPU_SETSIZE);
  std::atomic<uint64_t> aborts{0};
  cpu_set_t cpus = allowed_cpus();
  int first = 0;
  while (!CPU_ISSET(first, &cpus)) ++first;
  std::vector<std::thread> running;
  for (int i = 0; i < threads; ++i) {
    running.emplace_back([&] {
      if (on_one_cpu) run_on(first);
      for (int n = 0; n < additions; ++n) {
        for (;;) {
          uint32_t cpu = libc_area().cpu_id_start;
          if (add_one(cpu, &counters[cpu].value, rounds)) break;
          ++aborts;
        }
      }
    });
  }
  for (std::thread& thread : running) thread.join();
  Counted counted{0, aborts};
  for (const Counter& counter : counters) counted.total += counter.value;
  return counted;
}

TEST_F(Rseq, CountersPerCpuAreExact) {
  Counted counted = count_in_threads(8, 40'000, 50, false);
  EXPECT_EQ(counted.total, 8u * 40'000);
}

// Nearly all the time is spent in the sequence, so a thread that gives way to another is in it.
TEST_F(Rseq, PreemptionAbortsASequence) {
  Counted counted = count_in_threads(3, 1'000, 100'000, true);
  EXPECT_EQ(counted.total, 3u * 1'000);
  EXPECT_GT(counted.aborts, 0u);
}

volatile uint64_t seen_rip;
volatile uint64_t seen_sequence = 1;

void look_at_frame(int, siginfo_t*, void* context) {
  seen_rip = static_cast<uint64_t>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
  seen_sequence = libc_area().rseq_cs;
}

TEST_F(Rseq, ASignalAbortsASequence) {
  EXPECT_EQ(ended_well([] {
              struct sigaction action {};
              action.sa_sigaction = look_at_frame;
              action.sa_flags = SA_SIGINFO;
              must(sigaction(SIGALRM, &action, nullptr), "sigaction");
              run_on(sched_getcpu());
              for (int i = 0; i < 20; ++i) {
                itimerval soon{{0, 0}, {0, 5000}};
                must(setitimer(ITIMER_REAL, &soon, nullptr), "setitimer");
                seen_rip = 0;
                Counter counter;
                while (seen_rip == 0)
                  REQUIRE(!add_one(libc_area().cpu_id_start, &counter.value, ~0ull));
                uint32_t signature = 0;
                memcpy(&signature, reinterpret_cast<void*>(seen_rip - 4), 4);
                REQUIRE(signature == RSEQ_SIG);
                REQUIRE(seen_sequence == 0);
                REQUIRE(counter.value == 0);
              }
              return 0;
            }),
            0);
}

// A fault inside of a sequence is a signal as any other, if it is one at all.
TEST_F(Rseq, AFaultInASequenceGetsNowhereTwice) {
  Mapping fresh = Mapping::anonymous(64 * kPageSize);
  for (int page = 0; page < 64; ++page) {
    auto* counter = reinterpret_cast<uint64_t*>(fresh.page(page));
    while (!add_one(libc_area().cpu_id_start, counter, 1)) {
    }
    EXPECT_EQ(*counter, 1u);
  }
}

// A descriptor that makes no sense is a SIGSEGV, and no more than that.
TEST_F(Rseq, DescriptorsThatMakeNoSense) {
  struct rseq_cs descriptor {};
  auto run_with = [&](uint64_t pointer) {
    return ended_well([pointer] {
      libc_area().rseq_cs = pointer;
      for (int i = 0; i < 100; ++i) {
        libc_area().rseq_cs = pointer;
        usleep(100);
      }
      return 0;
    });
  };
  auto is_segv = [](int status) { return WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV; };
  EXPECT_TRUE(is_segv(run_with(16)));
  EXPECT_TRUE(is_segv(run_with(0xdead'0000'0000'0000)));
  descriptor.version = 77;
  EXPECT_TRUE(is_segv(run_with(reinterpret_cast<uint64_t>(&descriptor))));
  descriptor.version = 0;
  descriptor.start_ip = 0x1000;
  descriptor.post_commit_offset = 16;
  descriptor.abort_ip = 0x1008;  // inside of it
  EXPECT_TRUE(is_segv(run_with(reinterpret_cast<uint64_t>(&descriptor))));
  static const uint32_t signed_place[2] = {RSEQ_SIG, 0};
  descriptor.abort_ip = reinterpret_cast<uint64_t>(&signed_place[1]);
  EXPECT_EQ(run_with(reinterpret_cast<uint64_t>(&descriptor)), 0);  // never inside
}

// ---- The area's memory.

// Forks of a large process make what parent and child share read-only for a while; areas never are.
TEST_F(Rseq, ThreadsGoOnWhileTheProcessForks) {
  Mapping large = Mapping::anonymous(32 << 20);
  memset(large.address(), 1, large.size());
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < 6; ++i) {
    threads.emplace_back([&] {
      while (!stop) {
        usleep(50);
        REQUIRE(libc_area().cpu_id < CPU_SETSIZE);
        for (int spin = 0; spin < 20'000; ++spin) __asm__ volatile("pause");
      }
    });
  }
  for (int i = 0; i < 25; ++i) {
    Child child = Child::run([] {
      for (int n = 0; n < 10; ++n) {
        usleep(100);
        REQUIRE(libc_area().cpu_id < CPU_SETSIZE);
      }
      return 0;
    });
    memset(large.address() + (i << 20), 2, 1 << 16);
    EXPECT_EQ(child.wait(), 0);
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
}

// In memory that is given back without a word, in a private file mapping, in shared memory.
TEST_F(Rseq, TheAreaMayLieAnywhere) {
  int fd = open("/proc/self/exe", O_RDONLY);
  ASSERT_GE(fd, 0);
  std::vector<Mapping> places;
  places.push_back(Mapping::anonymous(8 * kPageSize));
  places.push_back(Mapping::shared(kPageSize));
  places.push_back(Mapping::map(4 * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0));
  places.push_back(Mapping::anonymous(4 << 20));
  close(fd);
  EXPECT_EQ(ended_well([&] {
              drop_libc_area();
              for (Mapping& place : places) {
                auto* area = reinterpret_cast<volatile struct rseq*>(place.address());
                memset(place.address(), 0, kSize);
                REQUIRE(rseq(area, kSize, 0, 11) == 0);
                for (int i = 0; i < 20; ++i) {
                  if (&place == &places[0] || &place == &places[3])
                    must(madvise(place.address(), place.size(), MADV_DONTNEED), "madvise");
                  REQUIRE(fork_running([&] {
                            usleep(100);
                            REQUIRE(area->cpu_id < CPU_SETSIZE);
                            return 0;
                          }) > 0);
                  usleep(100);
                  REQUIRE(area->cpu_id < CPU_SETSIZE);
                  int status = 1;
                  REQUIRE(wait(&status) > 0 && status == 0);
                }
                REQUIRE(rseq(area, kSize, 1, 11) == 0);
              }
              return 0;
            }),
            0);
}

// Threads that end leave nothing behind where their stacks were.
TEST_F(Rseq, StacksGoWithTheirThreads) {
  EXPECT_EQ(ended_well([] {
              for (int round = 0; round < 200; ++round) {
                pthread_t threads[6];
                std::vector<Mapping> stacks;
                for (pthread_t& thread : threads) {
                  stacks.push_back(Mapping::anonymous(128 * 1024));
                  pthread_attr_t attr;
                  pthread_attr_init(&attr);
                  pthread_attr_setstack(&attr, stacks.back().address(), stacks.back().size());
                  REQUIRE(pthread_create(
                              &thread, &attr,
                              [](void*) -> void* {
                                REQUIRE(libc_area().cpu_id < CPU_SETSIZE);
                                return nullptr;
                              },
                              nullptr) == 0);
                }
                for (pthread_t thread : threads) pthread_join(thread, nullptr);
                stacks.clear();
                if (round % 8 == 0) {
                  REQUIRE(fork_running([] { return 0; }) > 0);
                  REQUIRE(wait(nullptr) > 0);
                }
              }
              return 0;
            }),
            0);
}

}  // namespace
}  // namespace caisson::test
