// fork of processes small and large: what parent and child write stays theirs, however the kernel
// shares the memory behind it.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "tests/util/child.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"

namespace caisson::test {
namespace {

// 24 MiB and a bit: beyond what any kernel would copy for the sake of speed.
constexpr size_t kPages = 6151;

uint32_t canary(size_t page) { return static_cast<uint32_t>(page * 2654435761u + 1); }

class ForkMemory : public testing::TestWithParam<size_t> {
 protected:
  ForkMemory() { fill(0); }
  uint32_t* word(size_t page) { return reinterpret_cast<uint32_t*>(memory_.page(page)); }
  size_t pages() const { return GetParam(); }
  void fill(uint32_t salt) {
    for (size_t i = 0; i < pages(); ++i) *word(i) = canary(i) + salt;
  }
  // The first page that is not as filled; pages() if all are.
  size_t first_wrong(uint32_t salt) {
    for (size_t i = 0; i < pages(); ++i)
      if (*word(i) != canary(i) + salt) return i;
    return pages();
  }

  Mapping memory_ = Mapping::anonymous(GetParam() * kPageSize);
};

struct Steps {
  Pipe to_child = must_pipe(), to_parent = must_pipe();
  static void tell(Pipe& pipe) { must(write(pipe.write_end.get(), "", 1), "write"); }
  static void await(Pipe& pipe) {
    char byte;
    must(read(pipe.read_end.get(), &byte, 1), "read");
  }
};

TEST_P(ForkMemory, NeitherSeesWhatTheOtherWrites) {
  Steps steps;
  Child child = Child::run([&] {
    Steps::await(steps.to_child);  // the parent has written
    REQUIRE(first_wrong(0) == pages());
    fill(7);
    Steps::tell(steps.to_parent);
    Steps::await(steps.to_child);
    REQUIRE(first_wrong(7) == pages());
    return 0;
  });
  for (size_t i = 0; i < pages(); i += 3) *word(i) = 5;
  Steps::tell(steps.to_child);
  Steps::await(steps.to_parent);
  for (size_t i = 0; i < pages(); ++i) ASSERT_EQ(*word(i), i % 3 == 0 ? 5 : canary(i)) << i;
  fill(9);
  Steps::tell(steps.to_child);
  EXPECT_EQ(child.wait(), 0);
  EXPECT_EQ(first_wrong(9), pages());
}

TEST_P(ForkMemory, GenerationsAndEndsInAnyOrder) {
  for (int order = 0; order < 4; ++order) {
    fill(0);
    Steps steps;
    Child child = Child::run([&] {
      for (size_t i = 1; i < pages(); i += 2) *word(i) = 1;
      Child grandchild = Child::run([&] {
        if ((order & 1) != 0) Steps::await(steps.to_child);  // the child's memory has changed
        for (size_t i = 0; i < pages(); ++i) REQUIRE(*word(i) == (i % 2 == 1 ? 1 : canary(i)));
        fill(2);
        REQUIRE(first_wrong(2) == pages());
        return 0;
      });
      if ((order & 2) != 0) {
        fill(3);
        REQUIRE(munmap(memory_.page(0), pages() / 2 * kPageSize) == 0);
      }
      Steps::tell(steps.to_child);
      return grandchild.wait();
    });
    *word(order) = canary(order);
    EXPECT_EQ(child.wait(), 0);
    EXPECT_EQ(first_wrong(0), pages()) << order;
  }
}

TEST_P(ForkMemory, ManyForksOneAfterTheOther) {
  for (uint32_t round = 0; round < 20; ++round) {
    *word(round * 7 % pages()) = round;
    *word(pages() - 1) = round;
    Child child = Child::run([&] {
      REQUIRE(*word(round * 7 % pages()) == round || round * 7 % pages() == pages() - 1);
      REQUIRE(*word(pages() - 1) == round);
      *word(round * 5 % pages()) = 77;
      return 0;
    });
    EXPECT_EQ(child.wait(), 0);
    EXPECT_EQ(*word(pages() - 1), round);
  }
}

TEST_P(ForkMemory, MovedProtectedDiscarded) {
  Child child = Child::run([&] {
    size_t half = pages() / 2;
    char* moved = static_cast<char*>(
        mremap(memory_.page(half), 8 * kPageSize, 16 * kPageSize, MREMAP_MAYMOVE));
    REQUIRE(moved != MAP_FAILED);
    uint32_t value;
    memcpy(&value, moved + 7 * kPageSize, sizeof value);
    REQUIRE(value == canary(half + 7));
    memset(moved, 1, 16 * kPageSize);
    REQUIRE(mprotect(memory_.page(0), 4 * kPageSize, PROT_READ) == 0);
    REQUIRE(mprotect(memory_.page(0), 4 * kPageSize, PROT_READ | PROT_WRITE) == 0);
    REQUIRE(*word(1) == canary(1));
    *word(1) = 1;
    REQUIRE(mprotect(memory_.page(2), kPageSize, PROT_NONE) == 0);
    REQUIRE(madvise(memory_.page(4), 4 * kPageSize, MADV_DONTNEED) == 0);
    REQUIRE(*word(4) == 0 && *word(7) == 0 && *word(8) == canary(8));
    *word(4) = 4;
    REQUIRE(madvise(memory_.page(5), 2 * kPageSize, MADV_FREE) == 0);
    *word(5) = 5;
    REQUIRE(*word(5) == 5);
    REQUIRE(munmap(memory_.page(9), kPageSize) == 0);
    REQUIRE(mmap(memory_.page(9), kPageSize, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == memory_.page(9));
    REQUIRE(*word(9) == 0);
    *word(9) = 9;
    return 0;
  });
  EXPECT_EQ(child.wait(), 0);
  EXPECT_EQ(first_wrong(0), pages());
  // The same in the parent while a child looks on.
  Steps steps;
  Child witness = Child::run([&] {
    Steps::await(steps.to_child);
    REQUIRE(first_wrong(0) == pages());
    return 0;
  });
  ASSERT_EQ(madvise(memory_.page(0), 4 * kPageSize, MADV_DONTNEED), 0);
  EXPECT_EQ(*word(0), 0u);
  *word(1) = 3;
  ASSERT_EQ(mprotect(memory_.page(8), kPageSize, PROT_READ), 0);
  ASSERT_EQ(mprotect(memory_.page(8), kPageSize, PROT_READ | PROT_WRITE), 0);
  *word(8) = 3;
  void* moved =
      mremap(memory_.page(12), kPageSize, kPageSize, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0);
  ASSERT_NE(moved, MAP_FAILED);
  *static_cast<uint32_t*>(moved) = 3;
  EXPECT_EQ(*word(12), 0u);
  munmap(moved, kPageSize);
  Steps::tell(steps.to_child);
  EXPECT_EQ(witness.wait(), 0);
}

// read(2), process_vm_writev(2), vfork's writes and futexes reach shared pages by the kernel's
// hand.
TEST_P(ForkMemory, TheKernelsWritesToo) {
  Steps steps;
  Child child = Child::run([&] {
    Steps::tell(steps.to_parent);
    Steps::await(steps.to_child);
    for (size_t i = 0; i < pages(); ++i) {
      if (i == 3)
        REQUIRE(*word(i) == 0x31313131);  // by process_vm_writev
      else
        REQUIRE(*word(i) == canary(i));
    }
    Pipe pipe = must_pipe();
    std::vector<char> bytes(3 * kPageSize, 'x');
    REQUIRE(write(pipe.write_end.get(), bytes.data(), bytes.size()) ==
            static_cast<ssize_t>(bytes.size()));
    REQUIRE(read(pipe.read_end.get(), memory_.page(20), bytes.size()) ==
            static_cast<ssize_t>(bytes.size()));
    REQUIRE(*word(20) == 0x78787878 && *word(23) == canary(23));
    return 0;
  });
  Steps::await(steps.to_parent);
  Pipe pipe = must_pipe();
  must(write(pipe.write_end.get(), "yyyyyyyy", 8), "write");
  ASSERT_EQ(read(pipe.read_end.get(), memory_.page(21), 8), 8);
  char text[] = "1111";
  iovec local{text, 4};
  iovec remote{memory_.page(3), 4};
  ASSERT_EQ(syscall(SYS_process_vm_writev, child.pid(), &local, 1, &remote, 1, 0), 4);
  EXPECT_EQ(*word(3), canary(3));
  EXPECT_EQ(*word(21), 0x79797979u);
  Steps::tell(steps.to_child);
  EXPECT_EQ(child.wait(), 0);
  EXPECT_EQ(*word(20), canary(20));
  EXPECT_EQ(*word(22), canary(22));
}

TEST_P(ForkMemory, SharedMemoryStaysShared) {
  Mapping shared = Mapping::anonymous(4 * kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED);
  shared.page(1)[0] = 1;
  Child child = Child::run([&] {
    REQUIRE(shared.page(1)[0] == 1);
    shared.page(1)[0] = 2;
    *word(0) = 2;
    shared.page(3)[5] = 6;
    return 0;
  });
  EXPECT_EQ(child.wait(), 0);
  EXPECT_EQ(shared.page(1)[0], 2);
  EXPECT_EQ(shared.page(3)[5], 6);
  EXPECT_EQ(*word(0), canary(0));
}

// Threads go on writing during forks: what each child has does not change under it, and no write is
// lost to the parent.
TEST_P(ForkMemory, ThreadsWriteDuringForks) {
  std::atomic<bool> stop = false;
  constexpr size_t kThreads = 2;
  std::vector<uint32_t> written(kThreads * 64);
  std::vector<std::thread> threads;
  size_t stride = pages() / (kThreads * 64);
  for (size_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      Pipe pipe = must_pipe();
      for (uint32_t round = 1; !stop; ++round) {
        for (size_t k = 0; k < 64; ++k) {
          size_t index = t * 64 + k;
          auto* at = reinterpret_cast<volatile uint32_t*>(memory_.page(index * stride)) + 1;
          if (*at != written[index]) _exit(90);  // a write was lost
          if (k % 8 == 7) {                      // by the kernel
            must(write(pipe.write_end.get(), &round, 4), "write");
            must(read(pipe.read_end.get(), const_cast<uint32_t*>(at), 4), "read");
          } else {
            *at = round;
          }
          written[index] = round;
        }
      }
    });
  }
  for (int i = 0; i < 8; ++i) {
    Child child = Child::run([&] {
      std::vector<uint32_t> seen(kThreads * 64);
      for (int look = 0; look < 4; ++look) {
        for (size_t index = 0; index < seen.size(); ++index) {
          uint32_t now = reinterpret_cast<volatile uint32_t*>(memory_.page(index * stride))[1];
          if (look == 0)
            seen[index] = now;
          else
            REQUIRE(now == seen[index]);
        }
        usleep(300);
      }
      return 0;
    });
    EXPECT_EQ(child.wait(), 0);
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(first_wrong(0), pages());
}

// Two threads fork at once.
TEST_P(ForkMemory, ForksAtOnce) {
  std::vector<std::thread> threads;
  std::atomic<int> failed = 0;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&, t] {
      for (uint32_t i = 0; i < 10; ++i) {
        size_t page = 40 + static_cast<size_t>(t);
        *word(page) = i;
        Child child = Child::run([&] {
          REQUIRE(*word(page) == i);
          *word(page) = 100;
          *word(41 - static_cast<size_t>(t)) = 100;
          REQUIRE(*word(30) == canary(30));
          return 0;
        });
        if (child.wait() != 0 || *word(page) != i) ++failed;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failed, 0);
}

INSTANTIATE_TEST_SUITE_P(Sizes, ForkMemory, testing::Values(200, kPages));

}  // namespace
}  // namespace caisson::test
