// brk, mmap, munmap, mprotect, mremap, madvise, msync, mincore: layout, flags, errors, sharing.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>
#include <thread>

#include "tests/util/child.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"
#include "tests/util/signals.h"
#include "tests/util/temp_dir.h"

namespace caisson::test {
namespace {

constexpr int kAnonymous = MAP_PRIVATE | MAP_ANONYMOUS;
constexpr int kReadWrite = PROT_READ | PROT_WRITE;

// A mapping as the kernel returns it; compares as a pointer and, for the matchers, as a number.
struct Mapped {
  long value;
  operator void*() const { return reinterpret_cast<void*>(value); }
  explicit operator long() const { return value; }
  explicit operator char*() const { return reinterpret_cast<char*>(value); }
};
Mapped map(void* address, size_t size, int protection, int flags, int fd = -1, off_t offset = 0) {
  return {syscall(SYS_mmap, address, size, protection, flags, fd, offset)};
}
Mapped remap(void* address, size_t old_size, size_t new_size, int flags) {
  return {syscall(SYS_mremap, address, old_size, new_size, flags, 0)};
}
// Does this much as the kernel would: can a byte be read / written there?
bool can_read(const void* address) {
  Pipe pipe = must_pipe();
  return write(pipe.write_end.get(), address, 1) == 1;
}
bool can_write(void* address) {
  UniqueFd zero = must_open("/dev/zero", O_RDONLY);
  return read(zero.get(), address, 1) == 1;
}

TEST(Brk, GrowsShrinksAndZeroes) {
  const auto start = static_cast<uintptr_t>(syscall(SYS_brk, 0));
  ASSERT_EQ(static_cast<uintptr_t>(syscall(SYS_brk, start + 3 * kPageSize)), start + 3 * kPageSize);
  auto* memory = reinterpret_cast<char*>(start);
  for (size_t i = 0; i < 3 * kPageSize; ++i) ASSERT_EQ(memory[i], 0);
  std::memset(memory, 1, 3 * kPageSize);
  EXPECT_EQ(static_cast<uintptr_t>(syscall(SYS_brk, start)), start);
  EXPECT_EQ(static_cast<uintptr_t>(syscall(SYS_brk, start + 3 * kPageSize)), start + 3 * kPageSize);
  const uintptr_t page = (start + kPageSize - 1) & ~(kPageSize - 1);
  EXPECT_EQ(*reinterpret_cast<char*>(page), 0);
  EXPECT_EQ(static_cast<uintptr_t>(syscall(SYS_brk, start)), start);
}

TEST(Brk, RefusalReturnsTheOldEnd) {
  const long now = syscall(SYS_brk, 0);
  EXPECT_EQ(syscall(SYS_brk, 4096), now);
  EXPECT_EQ(syscall(SYS_brk, 1L << 60), now);
  Child child = Child::run([now] {
    rlimit limit = {1 << 20, 1 << 20};
    REQUIRE(setrlimit(RLIMIT_DATA, &limit) == 0);
    REQUIRE(syscall(SYS_brk, now + (64L << 20)) == now);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

TEST(Mmap, AnonymousIsZeroAndWritable) {
  Mapping memory = Mapping::anonymous(64 * kPageSize);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.address()) % kPageSize, 0u);
  for (size_t i = 0; i < memory.size(); i += 64) ASSERT_EQ(memory.address()[i], 0);
  std::memset(memory.address(), 0x5a, memory.size());
}

TEST(Mmap, LengthIsRoundedUp) {
  char* memory = static_cast<char*>(map(nullptr, 1, kReadWrite, kAnonymous));
  ASSERT_NE(memory, MAP_FAILED);
  memory[kPageSize - 1] = 1;
  EXPECT_THAT(munmap(memory, 1), SucceedsWith(0));
  EXPECT_FALSE(can_read(memory));
}

TEST(Mmap, ArgumentErrors) {
  EXPECT_THAT(map(nullptr, 0, kReadWrite, kAnonymous), FailsWith(EINVAL));
  EXPECT_THAT(map(nullptr, kPageSize, kReadWrite, MAP_ANONYMOUS), FailsWith(EINVAL));
  EXPECT_THAT(map(nullptr, kPageSize, kReadWrite, MAP_PRIVATE), FailsWith(EBADF));
  EXPECT_THAT(map(nullptr, 1ULL << 62, kReadWrite, kAnonymous), FailsWith(ENOMEM));
  EXPECT_THAT(map(nullptr, ~0ULL, kReadWrite, kAnonymous), FailsWith(ENOMEM));
  EXPECT_THAT(map(reinterpret_cast<void*>(123), kPageSize, kReadWrite, kAnonymous | MAP_FIXED),
              FailsWith(EINVAL));
  EXPECT_THAT(
      map(reinterpret_cast<void*>(1ULL << 60), kPageSize, kReadWrite, kAnonymous | MAP_FIXED),
      FailsWith(ENOMEM));
  Pipe pipe = must_pipe();
  EXPECT_THAT(map(nullptr, kPageSize, PROT_READ, MAP_PRIVATE, pipe.read_end.get()),
              FailsWith(ENODEV));
  TempDir dir;
  write_file(dir.file("f"), "x");
  UniqueFd read_only = must_open(dir.file("f"), O_RDONLY);
  UniqueFd write_only = must_open(dir.file("f"), O_WRONLY);
  EXPECT_THAT(map(nullptr, kPageSize, kReadWrite, MAP_SHARED, read_only.get()), FailsWith(EACCES));
  EXPECT_THAT(map(nullptr, kPageSize, PROT_READ, MAP_SHARED, write_only.get()), FailsWith(EACCES));
  EXPECT_THAT(map(nullptr, kPageSize, PROT_READ, MAP_SHARED, read_only.get(), 100),
              FailsWith(EINVAL));
  EXPECT_THAT(map(nullptr, kPageSize, PROT_READ, 0x3 | (1 << 24), read_only.get()), Fails());
  // Writing to a private mapping of a read-only file is fine.
  void* copy = map(nullptr, kPageSize, kReadWrite, MAP_PRIVATE, read_only.get());
  ASSERT_NE(copy, MAP_FAILED);
  *static_cast<char*>(copy) = 'y';
  munmap(copy, kPageSize);
  EXPECT_EQ(read_file(dir.file("f")), "x");
}

TEST(Mmap, FixedReplacesWhatWasThere) {
  Mapping memory = Mapping::anonymous(4 * kPageSize);
  std::memset(memory.address(), 7, memory.size());
  EXPECT_EQ(map(memory.page(1), 2 * kPageSize, kReadWrite, kAnonymous | MAP_FIXED), memory.page(1));
  EXPECT_EQ(memory.page(0)[0], 7);
  EXPECT_EQ(memory.page(1)[0], 0);
  EXPECT_EQ(memory.page(2)[kPageSize - 1], 0);
  EXPECT_EQ(memory.page(3)[0], 7);
}

TEST(Mmap, FixedNoreplaceRefuses) {
  Mapping memory = Mapping::anonymous(3 * kPageSize);
  const int flags = kAnonymous | MAP_FIXED_NOREPLACE;
  EXPECT_THAT(map(memory.page(1), kPageSize, kReadWrite, flags), FailsWith(EEXIST));
  must(munmap(memory.page(1), kPageSize), "munmap");
  EXPECT_THAT(map(memory.page(0), 2 * kPageSize, kReadWrite, flags), FailsWith(EEXIST));
  // The place comes before the rest.
  const int bad = MAP_SHARED | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE;
  EXPECT_THAT(map(memory.page(0), kPageSize, kReadWrite, bad), FailsWith(EEXIST));
  EXPECT_THAT(map(memory.page(1), kPageSize, kReadWrite, bad), FailsWith(EINVAL));
  EXPECT_EQ(map(memory.page(1), kPageSize, kReadWrite, flags), memory.page(1));
}

TEST(Mmap, HintsAreTakenWhenFree) {
  char* memory = static_cast<char*>(map(nullptr, 16 * kPageSize, kReadWrite, kAnonymous));
  ASSERT_NE(memory, MAP_FAILED);
  munmap(memory, 16 * kPageSize);
  EXPECT_EQ(map(memory, kPageSize, kReadWrite, kAnonymous), memory);
  void* other = map(memory, kPageSize, kReadWrite, kAnonymous);
  EXPECT_NE(other, MAP_FAILED);
  EXPECT_NE(other, memory);
  munmap(other, kPageSize);
  munmap(memory, kPageSize);
}

TEST(Mmap, LowAddressesBelong32Bit) {
  void* memory = map(nullptr, kPageSize, kReadWrite, kAnonymous | MAP_32BIT);
  ASSERT_NE(memory, MAP_FAILED);
  EXPECT_LT(reinterpret_cast<uintptr_t>(memory), 1ULL << 32);
  munmap(memory, kPageSize);
}

TEST(Munmap, HolesErrorsAndParts) {
  Mapping memory = Mapping::anonymous(5 * kPageSize);
  std::memset(memory.address(), 9, memory.size());
  EXPECT_THAT(munmap(memory.page(1), kPageSize), SucceedsWith(0));
  // Over a hole, again and again.
  EXPECT_THAT(munmap(memory.page(1), 2 * kPageSize), SucceedsWith(0));
  EXPECT_THAT(munmap(memory.page(1), 2 * kPageSize), SucceedsWith(0));
  EXPECT_EQ(memory.page(0)[0], 9);
  EXPECT_EQ(memory.page(3)[0], 9);
  EXPECT_FALSE(can_read(memory.page(1)));
  EXPECT_THAT(munmap(memory.page(0) + 1, kPageSize), FailsWith(EINVAL));
  EXPECT_THAT(munmap(memory.page(0), 0), FailsWith(EINVAL));
  EXPECT_THAT(munmap(reinterpret_cast<void*>(1ULL << 62), kPageSize), FailsWith(EINVAL));
  EXPECT_THAT(munmap(memory.page(0), ~0ULL - kPageSize), FailsWith(EINVAL));
}

TEST(Mprotect, ChangesAndSplits) {
  Mapping memory = Mapping::anonymous(4 * kPageSize);
  memory.page(1)[0] = 5;
  EXPECT_THAT(mprotect(memory.page(1), kPageSize, PROT_READ), SucceedsWith(0));
  EXPECT_TRUE(can_read(memory.page(1)));
  EXPECT_FALSE(can_write(memory.page(1)));
  EXPECT_TRUE(can_write(memory.page(0)));
  EXPECT_TRUE(can_write(memory.page(2)));
  EXPECT_THAT(mprotect(memory.page(1), kPageSize, PROT_NONE), SucceedsWith(0));
  EXPECT_FALSE(can_read(memory.page(1)));
  EXPECT_THAT(mprotect(memory.page(0), memory.size(), kReadWrite), SucceedsWith(0));
  EXPECT_EQ(memory.page(1)[0], 5);
}

TEST(Mprotect, Errors) {
  Mapping memory = Mapping::anonymous(3 * kPageSize);
  EXPECT_THAT(mprotect(memory.address() + 1, kPageSize, PROT_READ), FailsWith(EINVAL));
  EXPECT_THAT(mprotect(memory.address(), kPageSize, 0x1000), FailsWith(EINVAL));
  EXPECT_THAT(mprotect(memory.address(), 0, PROT_READ), SucceedsWith(0));
  must(munmap(memory.page(1), kPageSize), "munmap");
  EXPECT_THAT(mprotect(memory.address(), 3 * kPageSize, PROT_READ), FailsWith(ENOMEM));
  // What came before the hole is changed.
  EXPECT_FALSE(can_write(memory.page(0)));
  EXPECT_TRUE(can_write(memory.page(2)));
  EXPECT_THAT(mprotect(memory.page(1), kPageSize, PROT_READ), FailsWith(ENOMEM));
  TempDir dir;
  write_file(dir.file("f"), std::string(kPageSize, 'x'));
  UniqueFd fd = must_open(dir.file("f"), O_RDONLY);
  Mapping shared = Mapping::map(kPageSize, PROT_READ, MAP_SHARED, fd.get(), 0);
  EXPECT_THAT(mprotect(shared.address(), kPageSize, kReadWrite), FailsWith(EACCES));
}

TEST(Mprotect, MakesCodeExecutable) {
  Mapping page = Mapping::anonymous(kPageSize);
  // mov $0x2a, %eax; ret
  const unsigned char code[] = {0xb8, 0x2a, 0, 0, 0, 0xc3};
  std::memcpy(page.address(), code, sizeof(code));
  must(mprotect(page.address(), kPageSize, PROT_READ | PROT_EXEC), "mprotect");
  EXPECT_EQ(reinterpret_cast<int (*)()>(page.address())(), 42);
  must(mprotect(page.address(), kPageSize, kReadWrite), "mprotect");
  page.address()[1] = 0x2b;
  must(mprotect(page.address(), kPageSize, PROT_READ | PROT_EXEC), "mprotect");
  EXPECT_EQ(reinterpret_cast<int (*)()>(page.address())(), 43);
}

TEST(Mmap, FilePrivateAndShared) {
  TempDir dir;
  write_file(dir.file("f"), std::string(2 * kPageSize, 'a'));
  UniqueFd fd = must_open(dir.file("f"), O_RDWR);
  Mapping shared = Mapping::map(2 * kPageSize, kReadWrite, MAP_SHARED, fd.get(), 0);
  Mapping second = Mapping::map(kPageSize, PROT_READ, MAP_SHARED, fd.get(), kPageSize);
  Mapping copy = Mapping::map(2 * kPageSize, kReadWrite, MAP_PRIVATE, fd.get(), 0);
  shared.page(1)[5] = 'S';
  EXPECT_EQ(second.address()[5], 'S');
  EXPECT_EQ(copy.page(1)[5], 'S');
  copy.page(0)[0] = 'P';
  EXPECT_EQ(shared.page(0)[0], 'a');
  EXPECT_EQ(read_file(dir.file("f")).substr(0, 1), "a");
  EXPECT_EQ(read_file(dir.file("f"))[kPageSize + 5], 'S');
  must(pwrite(fd.get(), "W", 1, 10), "pwrite");
  EXPECT_EQ(shared.address()[10], 'W');
  EXPECT_THAT(msync(shared.address(), shared.size(), MS_SYNC), SucceedsWith(0));
  EXPECT_THAT(msync(shared.address() + 1, 1, MS_SYNC), FailsWith(EINVAL));
  EXPECT_THAT(msync(shared.address(), 1, MS_SYNC | MS_ASYNC), FailsWith(EINVAL));
}

TEST(Mmap, MappingOutlivesDescriptorAndName) {
  TempDir dir;
  write_file(dir.file("f"), "still here");
  UniqueFd fd = must_open(dir.file("f"), O_RDWR);
  Mapping memory = Mapping::map(kPageSize, kReadWrite, MAP_SHARED, fd.get(), 0);
  fd.reset();
  must(unlink(dir.file("f").c_str()), "unlink");
  EXPECT_STREQ(memory.address(), "still here");
}

TEST(Mmap, OffsetsOfFilesEndBelow2To63) {
  UniqueFd fd = must_open("/proc/self/exe", O_RDONLY);
  UniqueFd memory(memfd_create("offset", 0));
  for (int file : {fd.get(), memory.get()}) {
    auto at = [&](uint64_t offset, size_t length) {
      return syscall(SYS_mmap, nullptr, length, PROT_READ, MAP_PRIVATE, file, offset);
    };
    EXPECT_THAT(at(uint64_t{1} << 63, kPageSize), FailsWith(EOVERFLOW));
    EXPECT_THAT(at((uint64_t{1} << 63) - kPageSize, kPageSize), FailsWith(EOVERFLOW));
    EXPECT_THAT(at(~uint64_t{0} - kPageSize + 1, kPageSize), FailsWith(EOVERFLOW));
    EXPECT_THAT(at((uint64_t{1} << 63) + 1, kPageSize), FailsWith(EINVAL));
  }
  // Without a file it says nothing.
  const long anywhere = syscall(SYS_mmap, nullptr, kPageSize, PROT_READ,
                                MAP_PRIVATE | MAP_ANONYMOUS, -1, ~uint64_t{0} - kPageSize + 1);
  ASSERT_THAT(anywhere, Succeeds());
  munmap(reinterpret_cast<void*>(anywhere), kPageSize);
}

TEST(Mmap, DevZero) {
  UniqueFd zero = must_open("/dev/zero", O_RDWR);
  Mapping memory = Mapping::map(kPageSize, kReadWrite, MAP_PRIVATE, zero.get(), 0);
  EXPECT_EQ(memory.address()[100], 0);
  memory.address()[100] = 1;
}

TEST(Mremap, GrowsShrinksMoves) {
  void* memory = map(nullptr, 2 * kPageSize, kReadWrite, kAnonymous);
  ASSERT_NE(memory, MAP_FAILED);
  std::memset(memory, 3, 2 * kPageSize);
  void* grown = mremap(memory, 2 * kPageSize, 64 * kPageSize, MREMAP_MAYMOVE);
  ASSERT_NE(grown, MAP_FAILED);
  EXPECT_EQ(static_cast<char*>(grown)[2 * kPageSize - 1], 3);
  EXPECT_EQ(static_cast<char*>(grown)[2 * kPageSize], 0);
  EXPECT_EQ(mremap(grown, 64 * kPageSize, kPageSize, 0), grown);
  EXPECT_FALSE(can_read(static_cast<char*>(grown) + kPageSize));
  Mapping target = Mapping::anonymous(kPageSize);
  EXPECT_EQ(mremap(grown, kPageSize, kPageSize, MREMAP_MAYMOVE | MREMAP_FIXED, target.address()),
            target.address());
  EXPECT_EQ(target.address()[0], 3);
  EXPECT_FALSE(can_read(grown));
  EXPECT_THAT(remap(target.address(), kPageSize, 0, 0), FailsWith(EINVAL));
  EXPECT_THAT(remap(target.address() + 1, kPageSize, kPageSize, 0), FailsWith(EINVAL));
  EXPECT_THAT(remap(grown, kPageSize, 2 * kPageSize, MREMAP_MAYMOVE), FailsWith(EFAULT));
}

TEST(Madvise, DontneedZeroesAndErrors) {
  Mapping memory = Mapping::anonymous(2 * kPageSize);
  std::memset(memory.address(), 4, memory.size());
  EXPECT_THAT(madvise(memory.page(1), kPageSize, MADV_DONTNEED), SucceedsWith(0));
  EXPECT_EQ(memory.page(0)[0], 4);
  EXPECT_EQ(memory.page(1)[0], 0);
  EXPECT_THAT(madvise(memory.page(0) + 1, kPageSize, MADV_DONTNEED), FailsWith(EINVAL));
  EXPECT_THAT(madvise(memory.page(0), kPageSize, 9999), FailsWith(EINVAL));
  EXPECT_THAT(madvise(memory.page(0), kPageSize, MADV_WILLNEED), SucceedsWith(0));
  must(munmap(memory.page(1), kPageSize), "munmap");
  EXPECT_THAT(madvise(memory.page(0), 2 * kPageSize, MADV_DONTNEED), FailsWith(ENOMEM));
}

TEST(Mincore, TellsMappedFromNot) {
  Mapping memory = Mapping::anonymous(2 * kPageSize);
  memory.page(0)[0] = 1;
  unsigned char resident[2] = {};
  EXPECT_THAT(mincore(memory.address(), 2 * kPageSize, resident), SucceedsWith(0));
  EXPECT_EQ(resident[0] & 1, 1);
  must(munmap(memory.page(1), kPageSize), "munmap");
  EXPECT_THAT(mincore(memory.address(), 2 * kPageSize, resident), FailsWith(ENOMEM));
  EXPECT_THAT(mincore(memory.address() + 1, kPageSize, resident), FailsWith(EINVAL));
}

TEST(Mmap, AddressSpaceLimit) {
  Child child = Child::run([] {
    rlimit limit = {16ull << 30, 16ull << 30};
    REQUIRE(setrlimit(RLIMIT_AS, &limit) == 0);
    const int flags = kAnonymous | MAP_NORESERVE;
    REQUIRE(map(nullptr, 32ull << 30, kReadWrite, flags) == MAP_FAILED && errno == ENOMEM);
    REQUIRE(map(nullptr, 1 << 20, kReadWrite, flags) != MAP_FAILED);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

TEST(Mmap, StackGrowsOnTouch) {
  Child child = Child::run([] {
    volatile char* here = static_cast<volatile char*>(__builtin_frame_address(0));
    for (size_t down = 0; down < 4 << 20; down += 1024) here[-static_cast<long>(down)] = 1;
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

TEST(Mmap, ManyMappings) {
  std::vector<Mapping> mappings;
  for (int i = 0; i < 1000; ++i) {
    // Neighbours with different protections don't merge.
    mappings.push_back(Mapping::anonymous(kPageSize, i % 2 ? kReadWrite : PROT_READ));
    if (i % 2) mappings.back().address()[0] = static_cast<char>(i);
  }
  for (int i = 1; i < 1000; i += 2) EXPECT_EQ(mappings[i].address()[0], static_cast<char>(i));
}

TEST(Mmap, ThreadsMapAndUnmapAtOnce) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([t] {
      for (int i = 0; i < 300; ++i) {
        Mapping memory = Mapping::anonymous((1 + i % 7) * kPageSize);
        memory.address()[0] = static_cast<char>(t);
        *(memory.end() - 1) = static_cast<char>(i);
        mprotect(memory.address(), kPageSize, PROT_READ);
        ASSERT_EQ(memory.address()[0], t);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(Mmap, UnmapWhileOtherThreadTouches) {
  Child child = Child::run([] {
    Mapping memory = Mapping::anonymous(kPageSize);
    std::thread([&] {
      while (true) *static_cast<volatile char*>(memory.address()) = 1;
    }).detach();
    syscall(SYS_sched_yield);
    usleep(5000);
    munmap(memory.address(), kPageSize);
    while (true) pause();
    return 0;
  });
  EXPECT_THAT(child.wait(), KilledBy(SIGSEGV));
}

}  // namespace
}  // namespace caisson::test
