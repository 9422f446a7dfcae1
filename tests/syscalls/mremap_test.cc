// mremap(2): every flag, several mappings at once, and the order of errors.
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "tests/util/child.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"
#include "tests/util/temp_dir.h"

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

namespace caisson::test {
namespace {

constexpr int kMove = MREMAP_MAYMOVE;
constexpr int kFixed = MREMAP_MAYMOVE | MREMAP_FIXED;
constexpr int kKeep = MREMAP_MAYMOVE | MREMAP_DONTUNMAP;

// The raw call: the library takes the fifth argument with some flags only.
long remap(void* old_address, size_t old_size, size_t new_size, int flags, void* target = nullptr) {
  return syscall(SYS_mremap, old_address, old_size, new_size, flags, target);
}
long address(const void* pointer) { return reinterpret_cast<long>(pointer); }
bool is_mapped(const void* page) {
  unsigned char resident;
  return mincore(const_cast<void*>(page), kPageSize, &resident) == 0;
}
// Pages of which the first `used` are mapped, the rest free.
struct Room {
  explicit Room(size_t pages) : mapping(Mapping::anonymous(pages * kPageSize)) {}
  void clear(size_t first, size_t count) const {
    must(munmap(mapping.page(first), count * kPageSize), "munmap");
  }
  char* page(size_t index) const { return mapping.page(index); }
  Mapping mapping;
};

TEST(Mremap, ShrinksInPlace) {
  Room room(4);
  room.page(1)[0] = 'a';
  EXPECT_THAT(remap(room.page(0), 4 * kPageSize, 2 * kPageSize - 5, 0),
              SucceedsWith(address(room.page(0))));
  EXPECT_EQ(room.page(1)[0], 'a');
  EXPECT_FALSE(is_mapped(room.page(2)));
  EXPECT_FALSE(is_mapped(room.page(3)));
}

TEST(Mremap, ShrinksOverSeveralMappings) {
  Room room(6);
  must(mprotect(room.page(2), kPageSize, PROT_READ), "mprotect");
  room.clear(4, 1);
  EXPECT_THAT(remap(room.page(0), 6 * kPageSize, kPageSize, 0),
              SucceedsWith(address(room.page(0))));
  for (size_t i = 1; i < 6; ++i) EXPECT_FALSE(is_mapped(room.page(i))) << i;
}

TEST(Mremap, GrowsInPlaceWhereThereIsRoom) {
  Room room(4);
  room.clear(2, 2);
  room.page(1)[0] = 'a';
  EXPECT_THAT(remap(room.page(0), 2 * kPageSize, 4 * kPageSize, 0),
              SucceedsWith(address(room.page(0))));
  EXPECT_EQ(room.page(1)[0], 'a');
  EXPECT_EQ(room.page(3)[0], 0);
}

TEST(Mremap, GrowsOnlyTheEndOfAMappingInPlace) {
  Room room(4);
  room.clear(3, 1);
  EXPECT_THAT(remap(room.page(0), 2 * kPageSize, 4 * kPageSize, 0), FailsWith(ENOMEM));
  EXPECT_THAT(remap(room.page(1), 2 * kPageSize, 3 * kPageSize, 0),
              SucceedsWith(address(room.page(1))));
  // Beyond the end of the mapping.
  EXPECT_THAT(remap(room.page(1), 4 * kPageSize, 5 * kPageSize, kMove), FailsWith(EFAULT));
}

TEST(Mremap, NoRoomWithoutMaymove) {
  Room room(3);
  must(mprotect(room.page(2), kPageSize, PROT_READ), "mprotect");
  EXPECT_THAT(remap(room.page(0), 2 * kPageSize, 3 * kPageSize, 0), FailsWith(ENOMEM));
  room.page(0)[0] = 'm';
  room.page(1)[0] = 'n';
  const long moved = remap(room.page(0), 2 * kPageSize, 8 * kPageSize, kMove);
  ASSERT_THAT(moved, Succeeds());
  char* at = reinterpret_cast<char*>(moved);
  EXPECT_EQ(at[0], 'm');
  EXPECT_EQ(at[kPageSize], 'n');
  EXPECT_EQ(at[7 * kPageSize], 0);
  EXPECT_FALSE(is_mapped(room.page(0)));
  EXPECT_TRUE(is_mapped(room.page(2)));
  munmap(at, 8 * kPageSize);
}

TEST(Mremap, FixedReplacesTheTarget) {
  Room room(6);
  room.page(0)[0] = 'a';
  room.page(4)[0] = 'z';
  EXPECT_THAT(remap(room.page(0), kPageSize, 2 * kPageSize, kFixed, room.page(3)),
              SucceedsWith(address(room.page(3))));
  EXPECT_FALSE(is_mapped(room.page(0)));
  EXPECT_EQ(room.page(3)[0], 'a');
  EXPECT_EQ(room.page(4)[0], 0);
  // Smaller: the rest of the source goes.
  room.page(1)[0] = 'b';
  EXPECT_THAT(remap(room.page(1), 2 * kPageSize, kPageSize, kFixed, room.page(5)),
              SucceedsWith(address(room.page(5))));
  EXPECT_EQ(room.page(5)[0], 'b');
  EXPECT_FALSE(is_mapped(room.page(2)));
}

TEST(Mremap, BadFlags) {
  Room room(4);
  EXPECT_THAT(remap(room.page(0), kPageSize, kPageSize, 8), FailsWith(EINVAL));
  EXPECT_THAT(remap(room.page(0), kPageSize, kPageSize, MREMAP_FIXED, room.page(2)),
              FailsWith(EINVAL));
  EXPECT_THAT(remap(room.page(0), kPageSize, kPageSize, MREMAP_DONTUNMAP), FailsWith(EINVAL));
  EXPECT_THAT(remap(room.page(0), kPageSize, 2 * kPageSize, kKeep), FailsWith(EINVAL));
}

TEST(Mremap, BadAddressesAndSizes) {
  Room room(4);
  EXPECT_THAT(remap(room.page(0) + 1, kPageSize, kPageSize, 0), FailsWith(EINVAL));
  EXPECT_THAT(remap(room.page(0), kPageSize, 0, 0), FailsWith(EINVAL));
  EXPECT_THAT(remap(room.page(0), kPageSize, kPageSize, kFixed, room.page(2) + 1),
              FailsWith(EINVAL));
  EXPECT_THAT(remap(room.page(0), 2 * kPageSize, 2 * kPageSize, kFixed, room.page(1)),
              FailsWith(EINVAL));
  EXPECT_THAT(remap(room.page(0), kPageSize, 2 * kPageSize, kFixed, room.page(0)),
              FailsWith(EINVAL));
  EXPECT_THAT(
      remap(room.page(0), kPageSize, kPageSize, kFixed, reinterpret_cast<void*>(0x7fff'ffff'f000)),
      FailsWith(EINVAL));
  EXPECT_THAT(remap(room.page(0), kPageSize, 1ul << 60, kMove), FailsWith(EINVAL));
  EXPECT_THAT(remap(room.page(0), kPageSize, 1ul << 46, kMove), FailsWith(ENOMEM));
  room.clear(1, 1);
  EXPECT_THAT(remap(room.page(1), kPageSize, kPageSize, kMove), FailsWith(EFAULT));
  EXPECT_THAT(remap(room.page(1), kPageSize, 2 * kPageSize, kMove), FailsWith(EFAULT));
  EXPECT_THAT(remap(room.page(0), 2 * kPageSize, 3 * kPageSize, kMove), FailsWith(EFAULT));
}

TEST(Mremap, WhatIsKeptMustNotOverlapWhatIsMade) {
  Room room(4);
  EXPECT_THAT(remap(room.page(0), 2 * kPageSize, 2 * kPageSize, kKeep, room.page(1)),
              FailsWith(EINVAL));
  EXPECT_THAT(remap(room.page(1), 2 * kPageSize, 2 * kPageSize, kKeep, room.page(0)),
              FailsWith(EINVAL));
}

TEST(Mremap, ShrinksOnItsWayToAFixedPlace) {
  Room room(8);
  room.page(0)[0] = 'a';
  room.clear(1, 2);
  // Only what arrives must be mapped as one.
  EXPECT_THAT(remap(room.page(0), 3 * kPageSize, kPageSize, kFixed, room.page(5)),
              SucceedsWith(address(room.page(5))));
  EXPECT_EQ(room.page(5)[0], 'a');
  EXPECT_FALSE(is_mapped(room.page(0)));
  EXPECT_TRUE(is_mapped(room.page(3)));
}

TEST(Mremap, OldSizesBeyondTheAddressSpace) {
  for (size_t old_size : {size_t{1} << 47, size_t{1} << 62, ~size_t{0} & ~(kPageSize - 1)}) {
    Room room(8);
    room.page(4)[0] = 'a';
    EXPECT_THAT(remap(room.page(4), old_size, kPageSize, 0), FailsWith(EINVAL)) << old_size;
    EXPECT_THAT(remap(room.page(4), old_size, kPageSize, kFixed, room.page(0)), FailsWith(EINVAL))
        << old_size;
    EXPECT_EQ(room.page(4)[0], 'a');
  }
}

TEST(Mremap, DontUnmapOfAPartLeavesOneMapping) {
  UniqueFd fd(memfd_create("part", 0));
  must(ftruncate(fd.get(), 8 * kPageSize), "ftruncate");
  Mapping file = Mapping::map(6 * kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  Room room(2);
  ASSERT_THAT(remap(file.page(1), 2 * kPageSize, 2 * kPageSize, kKeep | MREMAP_FIXED, room.page(0)),
              SucceedsWith(address(room.page(0))));
  room.page(0)[0] = 'p';
  EXPECT_EQ(file.page(1)[0], 'p');
  // An in-place change of several mappings would be refused.
  EXPECT_THAT(remap(file.page(0), 6 * kPageSize, 8 * kPageSize, kMove), Succeeds());
}

TEST(Mremap, ZeroOldSizeDuplicatesSharedMappingsOnly) {
  Mapping shared = Mapping::shared(2 * kPageSize);
  shared.page(1)[0] = 's';
  const long copy = remap(shared.page(0), 0, 2 * kPageSize, kMove);
  ASSERT_THAT(copy, Succeeds());
  char* at = reinterpret_cast<char*>(copy);
  EXPECT_EQ(at[kPageSize], 's');
  at[0] = 't';
  EXPECT_EQ(shared.page(0)[0], 't');
  munmap(at, 2 * kPageSize);
  EXPECT_THAT(remap(shared.page(0), 0, kPageSize, 0), FailsWith(ENOMEM));
  Mapping own = Mapping::anonymous(kPageSize);
  EXPECT_THAT(remap(own.page(0), 0, kPageSize, kMove), FailsWith(EINVAL));
}

TEST(Mremap, DontUnmapLeavesAnEmptyMapping) {
  Room room(2);
  room.page(0)[0] = 'a';
  room.page(1)[0] = 'b';
  const long moved = remap(room.page(0), 2 * kPageSize, 2 * kPageSize, kKeep);
  ASSERT_THAT(moved, Succeeds());
  char* at = reinterpret_cast<char*>(moved);
  EXPECT_EQ(at[0], 'a');
  EXPECT_EQ(at[kPageSize], 'b');
  EXPECT_EQ(room.page(0)[0], 0);
  room.page(0)[0] = 'c';
  EXPECT_EQ(at[0], 'a');
  munmap(at, 2 * kPageSize);
}

TEST(Mremap, DontUnmapToAChosenPlace) {
  Room room(4);
  room.page(0)[0] = 'a';
  EXPECT_THAT(remap(room.page(0), kPageSize, kPageSize, kKeep | MREMAP_FIXED, room.page(2)),
              SucceedsWith(address(room.page(2))));
  EXPECT_EQ(room.page(2)[0], 'a');
  EXPECT_EQ(room.page(0)[0], 0);
}

TEST(Mremap, DontUnmapOfSharedMemoryShowsItTwice) {
  Mapping shared = Mapping::shared(kPageSize);
  shared.page(0)[0] = 's';
  const long moved = remap(shared.page(0), kPageSize, kPageSize, kKeep);
  ASSERT_THAT(moved, Succeeds());
  char* at = reinterpret_cast<char*>(moved);
  EXPECT_EQ(at[0], 's');
  EXPECT_EQ(shared.page(0)[0], 's');
  munmap(at, kPageSize);
}

TEST(Mremap, DontUnmapOfAPrivateFile) {
  TempDir directory;
  write_file(directory.file("file"), std::string(2 * kPageSize, 'f'));
  UniqueFd fd = must_open(directory.file("file"), O_RDWR);
  Mapping mapping = Mapping::map(2 * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd.get(), 0);
  mapping.page(1)[0] = 'p';
  const long moved = remap(mapping.page(0), 2 * kPageSize, 2 * kPageSize, kKeep);
  ASSERT_THAT(moved, Succeeds());
  char* at = reinterpret_cast<char*>(moved);
  EXPECT_EQ(at[kPageSize], 'p');
  EXPECT_EQ(mapping.page(1)[0], 'f');
  munmap(at, 2 * kPageSize);
}

TEST(Mremap, FilesGrowToTheirOffsets) {
  TempDir directory;
  std::string content;
  for (char c : {'a', 'b', 'c', 'd'}) content += std::string(kPageSize, c);
  write_file(directory.file("file"), content);
  UniqueFd fd = must_open(directory.file("file"), O_RDWR);
  for (int type : {MAP_SHARED, MAP_PRIVATE}) {
    Room room(4);
    char* at = static_cast<char*>(mmap(room.page(0), kPageSize, PROT_READ | PROT_WRITE,
                                       type | MAP_FIXED, fd.get(), kPageSize));
    ASSERT_NE(at, MAP_FAILED);
    room.clear(1, 3);
    ASSERT_THAT(remap(at, kPageSize, 3 * kPageSize, 0), SucceedsWith(address(at)));
    EXPECT_EQ(at[0], 'b');
    EXPECT_EQ(at[2 * kPageSize], 'd');
    const long moved = remap(at + kPageSize, 2 * kPageSize, 2 * kPageSize, kFixed, room.page(0));
    EXPECT_THAT(moved, FailsWith(EINVAL));
    munmap(at, 3 * kPageSize);
  }
}

TEST(Mremap, ProtectionAndAdviceMoveAlong) {
  Room room(4);
  must(mprotect(room.page(0), 2 * kPageSize, PROT_READ), "mprotect");
  EXPECT_THAT(remap(room.page(0), kPageSize, kPageSize, kFixed, room.page(3)), Succeeds());
  Child child = Child::run([&] {
    *static_cast<volatile char*>(room.page(3)) = 1;
    return 0;
  });
  EXPECT_THAT(child.wait(), KilledBy(SIGSEGV));
}

// Since 6.17 Linux moves several mappings at once if the size stays.
bool moves_several() {
  utsname name;
  uname(&name);
  int major = 0, minor = 0;
  sscanf(name.release, "%d.%d", &major, &minor);
  return major > 6 || (major == 6 && minor >= 17) ||
         std::string(name.release).find("caisson") != std::string::npos;
}

TEST(Mremap, SeveralMappingsMoveTogether) {
  if (!moves_several()) GTEST_SKIP() << "older than 6.17";
  Room room(12);
  for (size_t i = 0; i < 5; ++i) room.page(i)[0] = static_cast<char>('a' + i);
  room.page(10)[0] = 'k';
  must(mprotect(room.page(1), kPageSize, PROT_READ), "mprotect");
  room.clear(3, 1);
  EXPECT_THAT(remap(room.page(0), 5 * kPageSize, 5 * kPageSize, kFixed, room.page(7)),
              SucceedsWith(address(room.page(7))));
  EXPECT_EQ(room.page(7)[0], 'a');
  EXPECT_EQ(room.page(8)[0], 'b');
  EXPECT_EQ(room.page(9)[0], 'c');
  EXPECT_EQ(room.page(10)[0], 'k');  // what lies where the hole comes to stays
  EXPECT_EQ(room.page(11)[0], 'e');
  for (size_t i = 0; i < 5; ++i) EXPECT_FALSE(is_mapped(room.page(i))) << i;
  room.page(7)[0] = 'x';
  Child child = Child::run([&] {
    *static_cast<volatile char*>(room.page(8)) = 1;
    return 0;
  });
  EXPECT_THAT(child.wait(), KilledBy(SIGSEGV));
}

TEST(Mremap, SeveralMappingsMoveOnlyWhole) {
  if (!moves_several()) GTEST_SKIP() << "older than 6.17";
  Room room(8);
  must(mprotect(room.page(1), kPageSize, PROT_READ), "mprotect");
  EXPECT_THAT(remap(room.page(0), 3 * kPageSize, 4 * kPageSize, kFixed, room.page(4)),
              FailsWith(EFAULT));
  EXPECT_THAT(remap(room.page(0), 3 * kPageSize, 3 * kPageSize, kMove),
              SucceedsWith(address(room.page(0))));
  room.clear(0, 1);
  EXPECT_THAT(remap(room.page(0), 3 * kPageSize, 3 * kPageSize, kFixed, room.page(4)),
              FailsWith(EFAULT));
}

TEST(Mremap, AddressSpaceLimit) {
  Child child = Child::run([] {
    Mapping mapping = Mapping::anonymous(16 * kPageSize);
    rlimit limit{};
    getrlimit(RLIMIT_AS, &limit);
    std::string statm = read_file("/proc/self/statm");
    limit.rlim_cur = std::stoul(statm) * kPageSize + 64 * kPageSize;
    REQUIRE(setrlimit(RLIMIT_AS, &limit) == 0);
    REQUIRE(remap(mapping.page(0), 16 * kPageSize, 4096 * kPageSize, kMove) == -1);
    REQUIRE(errno == ENOMEM);
    REQUIRE(remap(mapping.page(0), 16 * kPageSize, 8 * kPageSize, 0) != -1);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

TEST(Mremap, LockedMemoryCounts) {
  Child child = Child::run([] {
    if (geteuid() == 0) REQUIRE(setuid(65534) == 0);
    const rlimit limit{8 * kPageSize, 8 * kPageSize};
    REQUIRE(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
    Mapping mapping = Mapping::anonymous(8 * kPageSize);
    REQUIRE(mlock(mapping.page(0), 6 * kPageSize) == 0);
    REQUIRE(remap(mapping.page(0), 6 * kPageSize, 16 * kPageSize, kMove) == -1);
    REQUIRE(errno == EAGAIN);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

}  // namespace
}  // namespace caisson::test
