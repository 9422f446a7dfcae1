// madvise(2), each advice; msync(2) and mincore(2).
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/util/child.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"
#include "tests/util/temp_dir.h"

namespace caisson::test {
namespace {

constexpr int kCold = 20, kPageOut = 21, kPopulateRead = 22, kPopulateWrite = 23,
              kDontNeedLocked = 24, kCollapse = 25;

// A file of pages "aaa…", "bbb…", mapped.
class MappedPages {
 public:
  explicit MappedPages(size_t pages, int type, int protection = PROT_READ | PROT_WRITE)
      : fd_(make(pages, directory_.file("file"))),
        mapping_(Mapping::map(pages * kPageSize, protection, type, fd_.get(), 0)) {}
  char* page(size_t index) const { return mapping_.page(index); }
  int fd() const { return fd_.get(); }

 private:
  static UniqueFd make(size_t pages, const std::string& path) {
    std::string content;
    for (size_t i = 0; i < pages; ++i)
      content += std::string(kPageSize, static_cast<char>('a' + i));
    write_file(path, content);
    return must_open(path, O_RDWR);
  }
  TempDir directory_;
  UniqueFd fd_;
  Mapping mapping_;
};

bool is_resident(const void* page) {
  unsigned char resident = 0;
  must(mincore(const_cast<void*>(page), kPageSize, &resident), "mincore");
  return (resident & 1) != 0;
}

TEST(Madvise, Errors) {
  Mapping mapping = Mapping::anonymous(4 * kPageSize);
  EXPECT_THAT(madvise(mapping.page(0) + 1, kPageSize, MADV_NORMAL), FailsWith(EINVAL));
  EXPECT_THAT(madvise(mapping.page(0), kPageSize, 5), FailsWith(EINVAL));
  EXPECT_THAT(madvise(mapping.page(0), kPageSize, 4711), FailsWith(EINVAL));
  EXPECT_THAT(madvise(mapping.page(0), kPageSize, -1), FailsWith(EINVAL));
  EXPECT_THAT(madvise(mapping.page(0), ~0ul, MADV_NORMAL), FailsWith(EINVAL));
  EXPECT_THAT(madvise(mapping.page(0), 0, MADV_DONTNEED), SucceedsWith(0));
  EXPECT_THAT(madvise(mapping.page(0) + 1, 0, MADV_DONTNEED), FailsWith(EINVAL));
  must(munmap(mapping.page(1), kPageSize), "munmap");
  mapping.page(0)[0] = mapping.page(2)[0] = 'x';
  // The hole is reported, and what is mapped is advised all the same.
  EXPECT_THAT(madvise(mapping.page(0), 3 * kPageSize, MADV_DONTNEED), FailsWith(ENOMEM));
  EXPECT_EQ(mapping.page(0)[0], 0);
  EXPECT_EQ(mapping.page(2)[0], 0);
  EXPECT_THAT(madvise(mapping.page(1), kPageSize, MADV_WILLNEED), FailsWith(ENOMEM));
}

TEST(Madvise, DontNeedBringsBackTheFile) {
  MappedPages file(2, MAP_PRIVATE);
  file.page(0)[0] = 'X';
  file.page(1)[0] = 'Y';
  EXPECT_THAT(madvise(file.page(0), kPageSize, MADV_DONTNEED), SucceedsWith(0));
  EXPECT_EQ(file.page(0)[0], 'a');
  EXPECT_EQ(file.page(1)[0], 'Y');
}

TEST(Madvise, DontNeedKeepsSharedMemory) {
  Mapping shared = Mapping::shared(kPageSize);
  shared.page(0)[0] = 's';
  EXPECT_THAT(madvise(shared.page(0), kPageSize, MADV_DONTNEED), SucceedsWith(0));
  EXPECT_EQ(shared.page(0)[0], 's');
}

TEST(Madvise, DontNeedWithoutAccess) {
  Mapping mapping = Mapping::anonymous(kPageSize);
  mapping.page(0)[0] = 'x';
  must(mprotect(mapping.page(0), kPageSize, PROT_NONE), "mprotect");
  EXPECT_THAT(madvise(mapping.page(0), kPageSize, MADV_DONTNEED), SucceedsWith(0));
  must(mprotect(mapping.page(0), kPageSize, PROT_READ), "mprotect");
  EXPECT_EQ(mapping.page(0)[0], 0);
}

TEST(Madvise, LockedMemoryIsNotGivenUp) {
  Mapping mapping = Mapping::anonymous(kPageSize);
  mapping.page(0)[0] = 'x';
  must(mlock(mapping.page(0), kPageSize), "mlock");
  for (int advice : {static_cast<int>(MADV_DONTNEED), kCold, kPageOut})
    EXPECT_THAT(madvise(mapping.page(0), kPageSize, advice), FailsWith(EINVAL)) << advice;
  EXPECT_EQ(mapping.page(0)[0], 'x');
  EXPECT_THAT(madvise(mapping.page(0), kPageSize, kDontNeedLocked), SucceedsWith(0));
  EXPECT_EQ(mapping.page(0)[0], 0);
}

TEST(Madvise, FreeIsForPrivateMemory) {
  Mapping mapping = Mapping::anonymous(kPageSize);
  mapping.page(0)[0] = 'x';
  EXPECT_THAT(madvise(mapping.page(0), kPageSize, MADV_FREE), SucceedsWith(0));
  const char now = *static_cast<volatile char*>(mapping.page(0));
  EXPECT_TRUE(now == 'x' || now == 0);
  mapping.page(0)[0] = 'y';  // a write keeps the page
  EXPECT_EQ(mapping.page(0)[0], 'y');
  Mapping shared = Mapping::shared(kPageSize);
  EXPECT_THAT(madvise(shared.page(0), kPageSize, MADV_FREE), FailsWith(EINVAL));
  MappedPages file(1, MAP_PRIVATE);
  EXPECT_THAT(madvise(file.page(0), kPageSize, MADV_FREE), FailsWith(EINVAL));
}

TEST(Madvise, RemovePunchesAHole) {
  Mapping shared = Mapping::shared(3 * kPageSize);
  for (int i = 0; i < 3; ++i) shared.page(i)[0] = 'x';
  EXPECT_THAT(madvise(shared.page(1), kPageSize, MADV_REMOVE), SucceedsWith(0));
  EXPECT_EQ(shared.page(0)[0], 'x');
  EXPECT_EQ(shared.page(1)[0], 0);
  EXPECT_EQ(shared.page(2)[0], 'x');
  Mapping own = Mapping::anonymous(kPageSize);
  EXPECT_THAT(madvise(own.page(0), kPageSize, MADV_REMOVE), FailsWith(EINVAL));
}

TEST(Madvise, RemoveReachesTheFile) {
  UniqueFd fd(memfd_create("hole", 0));
  must(ftruncate(fd.get(), 2 * kPageSize), "ftruncate");
  must(pwrite(fd.get(), "x", 1, kPageSize), "pwrite");
  Mapping mapping = Mapping::map(2 * kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  EXPECT_THAT(madvise(mapping.page(1), kPageSize, MADV_REMOVE), SucceedsWith(0));
  char byte = 'q';
  must(pread(fd.get(), &byte, 1, kPageSize), "pread");
  EXPECT_EQ(byte, 0);
  EXPECT_EQ(mapping.page(1)[0], 0);
  Mapping own = Mapping::map(kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd.get(), 0);
  EXPECT_THAT(madvise(own.page(0), kPageSize, MADV_REMOVE), FailsWith(EACCES));
  must(mlock(mapping.page(0), kPageSize), "mlock");
  EXPECT_THAT(madvise(mapping.page(0), kPageSize, MADV_REMOVE), FailsWith(EINVAL));
}

TEST(Madvise, DontForkAndDoFork) {
  Mapping mapping = Mapping::anonymous(3 * kPageSize);
  mapping.page(0)[0] = mapping.page(1)[0] = 'x';
  EXPECT_THAT(madvise(mapping.page(0), 2 * kPageSize, MADV_DONTFORK), SucceedsWith(0));
  EXPECT_THAT(madvise(mapping.page(1), kPageSize, MADV_DOFORK), SucceedsWith(0));
  Child child = Child::run([&] {
    unsigned char resident;
    REQUIRE(mincore(mapping.page(0), kPageSize, &resident) == -1 && errno == ENOMEM);
    REQUIRE(mapping.page(1)[0] == 'x');
    REQUIRE(mapping.page(2)[0] == 0);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
  EXPECT_EQ(mapping.page(0)[0], 'x');
}

TEST(Madvise, WipeOnForkAndKeepOnFork) {
  Mapping mapping = Mapping::anonymous(2 * kPageSize);
  mapping.page(0)[0] = mapping.page(1)[0] = 'x';
  EXPECT_THAT(madvise(mapping.page(0), 2 * kPageSize, MADV_WIPEONFORK), SucceedsWith(0));
  EXPECT_THAT(madvise(mapping.page(1), kPageSize, MADV_KEEPONFORK), SucceedsWith(0));
  Child child = Child::run([&] {
    REQUIRE(mapping.page(0)[0] == 0);
    REQUIRE(mapping.page(1)[0] == 'x');
    mapping.page(0)[0] = 'c';
    // Grandchildren are wiped too.
    Child grandchild = Child::run([&] { return mapping.page(0)[0]; });
    REQUIRE(grandchild.wait() == 0);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
  EXPECT_EQ(mapping.page(0)[0], 'x');
  Mapping shared = Mapping::shared(kPageSize);
  EXPECT_THAT(madvise(shared.page(0), kPageSize, MADV_WIPEONFORK), FailsWith(EINVAL));
  MappedPages file(1, MAP_PRIVATE);
  EXPECT_THAT(madvise(file.page(0), kPageSize, MADV_WIPEONFORK), FailsWith(EINVAL));
}

TEST(Madvise, PopulateWriteMakesPagesResident) {
  Mapping mapping = Mapping::anonymous(16 * kPageSize);
  EXPECT_THAT(madvise(mapping.page(0), 16 * kPageSize, kPopulateWrite), SucceedsWith(0));
  for (int i = 0; i < 16; ++i) EXPECT_TRUE(is_resident(mapping.page(i))) << i;
  EXPECT_EQ(mapping.page(7)[0], 0);
  // Content is not touched.
  mapping.page(3)[0] = 'x';
  EXPECT_THAT(madvise(mapping.page(0), 16 * kPageSize, kPopulateWrite), SucceedsWith(0));
  EXPECT_EQ(mapping.page(3)[0], 'x');
}

TEST(Madvise, PopulateWriteCopiesPrivatePages) {
  MappedPages file(3, MAP_PRIVATE);
  EXPECT_THAT(madvise(file.page(0), 3 * kPageSize, kPopulateWrite), SucceedsWith(0));
  must(pwrite(file.fd(), "Z", 1, kPageSize), "pwrite");
  EXPECT_EQ(file.page(1)[0], 'b');  // it was copied before the file changed
}

TEST(Madvise, PopulateErrors) {
  Mapping mapping = Mapping::anonymous(4 * kPageSize);
  must(mprotect(mapping.page(1), kPageSize, PROT_READ), "mprotect");
  EXPECT_THAT(madvise(mapping.page(0), 2 * kPageSize, kPopulateWrite), FailsWith(EINVAL));
  EXPECT_THAT(madvise(mapping.page(0), 2 * kPageSize, kPopulateRead), SucceedsWith(0));
  must(mprotect(mapping.page(1), kPageSize, PROT_NONE), "mprotect");
  EXPECT_THAT(madvise(mapping.page(0), 2 * kPageSize, kPopulateRead), FailsWith(EINVAL));
  for (int protection : {PROT_WRITE, PROT_EXEC}) {
    must(mprotect(mapping.page(1), kPageSize, protection), "mprotect");
    EXPECT_THAT(madvise(mapping.page(0), 2 * kPageSize, kPopulateRead), FailsWith(EINVAL));
  }
  must(munmap(mapping.page(1), kPageSize), "munmap");
  EXPECT_THAT(madvise(mapping.page(0), 2 * kPageSize, kPopulateRead), FailsWith(ENOMEM));
  // Beyond the end of the file.
  UniqueFd fd(memfd_create("short", 0));
  must(ftruncate(fd.get(), kPageSize), "ftruncate");
  Mapping file = Mapping::map(2 * kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  EXPECT_THAT(madvise(file.page(0), 2 * kPageSize, kPopulateRead), FailsWith(EFAULT));
  EXPECT_THAT(madvise(file.page(0), 2 * kPageSize, kPopulateWrite), FailsWith(EFAULT));
}

TEST(Madvise, HintsAreTaken) {
  Mapping mapping = Mapping::anonymous(2 * kPageSize);
  mapping.page(0)[0] = 'x';
  for (int advice : {static_cast<int>(MADV_NORMAL), static_cast<int>(MADV_RANDOM),
                     static_cast<int>(MADV_SEQUENTIAL), static_cast<int>(MADV_DONTDUMP),
                     static_cast<int>(MADV_DODUMP), static_cast<int>(MADV_HUGEPAGE),
                     static_cast<int>(MADV_NOHUGEPAGE), kCold, kPageOut})
    EXPECT_THAT(madvise(mapping.page(0), kPageSize, advice), SucceedsWith(0)) << advice;
  EXPECT_EQ(mapping.page(0)[0], 'x');
  MappedPages file(2, MAP_SHARED);
  EXPECT_THAT(madvise(file.page(0), 2 * kPageSize, MADV_WILLNEED), SucceedsWith(0));
}

TEST(Madvise, CollapseNeedsAWholeHugePage) {
  Mapping mapping = Mapping::anonymous(4 * kPageSize);
  mapping.page(0)[0] = 'x';
  // Smaller than a huge page: nothing to do.
  EXPECT_THAT(madvise(mapping.page(0), 4 * kPageSize, kCollapse), FailsWith(EINVAL));
  EXPECT_EQ(mapping.page(0)[0], 'x');
}

TEST(Msync, FlagsAndHoles) {
  MappedPages file(3, MAP_SHARED);
  file.page(0)[0] = 'M';
  EXPECT_THAT(msync(file.page(0), 3 * kPageSize, MS_SYNC), SucceedsWith(0));
  EXPECT_THAT(msync(file.page(0), 3 * kPageSize, MS_ASYNC), SucceedsWith(0));
  EXPECT_THAT(msync(file.page(0), 3 * kPageSize, MS_INVALIDATE), SucceedsWith(0));
  EXPECT_THAT(msync(file.page(0), 3 * kPageSize, 0), SucceedsWith(0));
  EXPECT_THAT(msync(file.page(0), 0, MS_SYNC), SucceedsWith(0));
  EXPECT_THAT(msync(file.page(0), kPageSize, MS_SYNC | MS_ASYNC), FailsWith(EINVAL));
  EXPECT_THAT(msync(file.page(0), kPageSize, 8), FailsWith(EINVAL));
  EXPECT_THAT(msync(file.page(0) + 1, kPageSize, MS_SYNC), FailsWith(EINVAL));
  EXPECT_THAT(msync(file.page(0), ~0ul - kPageSize, MS_SYNC), FailsWith(ENOMEM));
  char byte;
  must(pread(file.fd(), &byte, 1, 0), "pread");
  EXPECT_EQ(byte, 'M');
  must(munmap(file.page(1), kPageSize), "munmap");
  EXPECT_THAT(msync(file.page(0), 3 * kPageSize, MS_SYNC), FailsWith(ENOMEM));
  must(mlock(file.page(0), kPageSize), "mlock");
  EXPECT_THAT(msync(file.page(0), kPageSize, MS_INVALIDATE), FailsWith(EBUSY));
  EXPECT_THAT(msync(file.page(0), kPageSize, MS_SYNC), SucceedsWith(0));
}

TEST(Msync, GoesOnBehindHoles) {
  Mapping mapping = Mapping::anonymous(4 * kPageSize);
  must(munmap(mapping.page(1), kPageSize), "munmap");
  must(mlock(mapping.page(2), kPageSize), "mlock");
  EXPECT_THAT(msync(mapping.page(0), 3 * kPageSize, MS_INVALIDATE), FailsWith(EBUSY));
  EXPECT_THAT(msync(mapping.page(1), 2 * kPageSize, MS_SYNC | MS_INVALIDATE), FailsWith(EBUSY));
  EXPECT_THAT(msync(mapping.page(0), 2 * kPageSize, MS_INVALIDATE), FailsWith(ENOMEM));
  EXPECT_THAT(msync(mapping.page(0), 4 * kPageSize, MS_ASYNC), FailsWith(ENOMEM));
}

TEST(Mincore, ArgumentsAndAnswers) {
  Mapping mapping = Mapping::anonymous(4 * kPageSize);
  unsigned char pages[4] = {9, 9, 9, 9};
  mapping.page(1)[0] = 'x';
  EXPECT_THAT(mincore(mapping.page(0), 4 * kPageSize - 1, pages), SucceedsWith(0));
  EXPECT_EQ(pages[1] & 1, 1);
  EXPECT_EQ(pages[3] & 1, 0);
  EXPECT_THAT(mincore(mapping.page(0) + 1, kPageSize, pages), FailsWith(EINVAL));
  EXPECT_THAT(mincore(mapping.page(0), kPageSize, bad_pointer_to<unsigned char>()),
              FailsWith(EFAULT));
  EXPECT_THAT(mincore(mapping.page(0), ~0ul, pages), FailsWith(ENOMEM));
  EXPECT_THAT(mincore(mapping.page(0), 0, pages), SucceedsWith(0));
  must(munmap(mapping.page(2), kPageSize), "munmap");
  EXPECT_THAT(mincore(mapping.page(0), 4 * kPageSize, pages), FailsWith(ENOMEM));
}

constexpr size_t kHuge = 2 << 20;

// The first huge page's begin in a mapping that holds two.
char* huge_in(const Mapping& mapping) {
  return reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(mapping.address()) + kHuge - 1) &
                                 ~(kHuge - 1));
}

TEST(Madvise, CollapseFillsHugePagesThatHoldSomething) {
  Mapping mapping = Mapping::anonymous(3 * kHuge);
  char* at = huge_in(mapping);
  at[5 * kPageSize] = 'x';
  if (madvise(at, kHuge, kCollapse) != 0 &&
      access("/sys/kernel/mm/transparent_hugepage", F_OK) != 0)
    GTEST_SKIP() << "a kernel without huge pages";
  EXPECT_THAT(madvise(at, kHuge, kCollapse), SucceedsWith(0));
  EXPECT_TRUE(is_resident(at) && is_resident(at + kHuge - kPageSize));
  EXPECT_EQ(at[5 * kPageSize], 'x');
  EXPECT_EQ(at[4 * kPageSize], 0);
}

// Large memory, whatever pages are behind it: what is touched is there, what is given back is not.
TEST(Madvise, LargeMemoryPieceByPiece) {
  for (int advice : {MADV_NORMAL, MADV_HUGEPAGE, MADV_NOHUGEPAGE}) {
    Mapping mapping = Mapping::anonymous(5 * kHuge);
    char* at = huge_in(mapping);
    (void)madvise(at, 4 * kHuge, advice);  // a kernel without huge pages does not know it
    for (size_t i = 0; i < 4 * kHuge; i += kPageSize) {
      ASSERT_EQ(at[i], 0);
      at[i] = static_cast<char>(i / kPageSize);
    }
    must(madvise(at + 3 * kPageSize, 2 * kPageSize, MADV_DONTNEED), "madvise");
    must(mprotect(at + kHuge, kPageSize, PROT_READ), "mprotect");
    must(munmap(at + 2 * kHuge - kPageSize, 2 * kPageSize), "munmap");
    EXPECT_EQ(at[2 * kPageSize], 2);
    EXPECT_EQ(at[3 * kPageSize], 0);
    EXPECT_EQ(at[5 * kPageSize], 5);
    EXPECT_EQ(at[3 * kHuge + kPageSize], 1);
    Child child = Child::run([&] {
      at[0] = 'c';
      at[3 * kHuge] = 'c';
      return at[kHuge + kPageSize];
    });
    EXPECT_EQ(child.wait(), 1 << 8);
    EXPECT_EQ(at[0], 0);
    EXPECT_EQ(at[3 * kHuge], 0);
  }
}

size_t status_kib(const char* name) {
  const std::string text = read_file("/proc/self/status");
  const size_t at = text.find(name);
  return at == std::string::npos ? 0 : std::stoul(text.substr(text.find(':', at) + 1));
}

TEST(Resident, ThePeakStays) {
  constexpr size_t kSize = 32 << 20;
  // Linux counts pages on each CPU and adds them up now and then (percpu_counter): /proc may be
  // some hundred KiB behind.
  constexpr size_t kBehindKib = 2048;
  const size_t before = status_kib("VmRSS");
  {
    Mapping mapping = Mapping::anonymous(kSize);
    std::memset(mapping.address(), 1, kSize);
  }
  EXPECT_GE(status_kib("VmHWM") + kBehindKib, before + kSize / 1024);
  EXPECT_LT(status_kib("VmRSS"), before + kSize / 2048);
  struct rusage usage;
  must(getrusage(RUSAGE_SELF, &usage), "getrusage");
  EXPECT_GE(static_cast<size_t>(usage.ru_maxrss) + kBehindKib, before + kSize / 1024);
}

}  // namespace
}  // namespace caisson::test
