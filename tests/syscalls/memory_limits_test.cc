// Limits of memory: the mlock(2) family, RLIMIT_AS, DATA and STACK, growing stacks and their guard
// gaps, MAP_FIXED_NOREPLACE, and the files of /proc that show memory.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <sstream>

#include "tests/util/child.h"
#include "tests/util/clock.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"

namespace caisson::test {
namespace {

using ::testing::HasSubstr;

constexpr size_t kMiB = 1024 * 1024;

// "VmLck:  12 kB" of /proc/self/status, in bytes.
size_t status_bytes(const std::string& key) {
  std::istringstream lines(read_file("/proc/self/status"));
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with(key + ":")) return std::stoul(line.substr(key.size() + 1)) * 1024;
  return ~size_t{0};
}
void become_nobody() {
  if (geteuid() == 0) REQUIRE(setgid(65534) == 0 && setuid(65534) == 0);
}
void limit(int resource, size_t bytes) {
  const rlimit value{bytes, bytes};
  REQUIRE(setrlimit(static_cast<__rlimit_resource>(resource), &value) == 0);
}
void in_child(const std::function<void()>& body) {
  Child child = Child::run([&] {
    body();
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
}
char* map_pages(size_t pages, int flags = 0, int protection = PROT_READ | PROT_WRITE) {
  void* at =
      mmap(nullptr, pages * kPageSize, protection, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
  return at == MAP_FAILED ? nullptr : static_cast<char*>(at);
}
// The line of smaps that begins with `key`, for the mapping at `address`; "" if there is none.
std::string smaps_field(const void* address, const std::string& key) {
  std::istringstream lines(read_file("/proc/self/smaps"));
  char start[32];
  snprintf(start, sizeof start, "%lx-", reinterpret_cast<long>(address));
  bool here = false;
  for (std::string line; std::getline(lines, line);) {
    const size_t dash = line.find('-');
    if (dash != std::string::npos && dash < 17 && line.find(':') > dash)
      here = line.starts_with(start);
    if (here && line.starts_with(key + ":"))
      return line.substr(line.find_first_not_of(' ', key.size() + 1));
  }
  return "";
}

TEST(Mlock, CountsWholePages) {
  in_child([] {
    const size_t before = status_bytes("VmLck");
    char* at = map_pages(8);
    REQUIRE(mlock(at + 100, 2 * kPageSize) == 0);  // touches three pages
    REQUIRE(status_bytes("VmLck") == before + 3 * kPageSize);
    REQUIRE(mlock(at, kPageSize) == 0);  // again
    REQUIRE(status_bytes("VmLck") == before + 3 * kPageSize);
    unsigned char resident[3];
    REQUIRE(mincore(at, 3 * kPageSize, resident) == 0);
    REQUIRE((resident[0] & resident[1] & resident[2] & 1) == 1);
    REQUIRE(munlock(at + kPageSize, 1) == 0);
    REQUIRE(status_bytes("VmLck") == before + 2 * kPageSize);
    REQUIRE(munmap(at, 8 * kPageSize) == 0);
    REQUIRE(status_bytes("VmLck") == before);
  });
}

TEST(Mlock, Errors) {
  in_child([] {
    char* at = map_pages(3);
    REQUIRE(munmap(at + kPageSize, kPageSize) == 0);
    REQUIRE(mlock(at, 3 * kPageSize) == -1 && errno == ENOMEM);
    REQUIRE(munlock(at, 3 * kPageSize) == -1 && errno == ENOMEM);
    REQUIRE(mlock(at, ~0ul - kPageSize) == -1 && (errno == EINVAL || errno == ENOMEM));
    REQUIRE(syscall(SYS_mlock2, at, kPageSize, 2) == -1 && errno == EINVAL);
    REQUIRE(mlock(at, 0) == 0);
    REQUIRE(mlockall(0) == -1 && errno == EINVAL);
    REQUIRE(mlockall(8) == -1 && errno == EINVAL);
    REQUIRE(mlockall(MCL_ONFAULT) == -1 && errno == EINVAL);
  });
}

TEST(Mlock, WhatCannotBeTouchedIsAnError) {
  in_child([] {
    char* at = map_pages(3);
    REQUIRE(mprotect(at + kPageSize, kPageSize, PROT_NONE) == 0);
    const size_t before = status_bytes("VmLck");
    REQUIRE(mlock(at, 3 * kPageSize) == -1 && errno == ENOMEM);
    REQUIRE(status_bytes("VmLck") == before + 3 * kPageSize);  // all the same
    REQUIRE(syscall(SYS_mlock2, at, 3 * kPageSize, 1) == 0);
    REQUIRE(mprotect(at + kPageSize, kPageSize, PROT_WRITE) == 0);
    REQUIRE(mlock(at, 3 * kPageSize) == 0);
    UniqueFd fd(memfd_create("short", 0));
    REQUIRE(ftruncate(fd.get(), kPageSize + 1) == 0);
    void* file = mmap(nullptr, 3 * kPageSize, PROT_READ, MAP_PRIVATE, fd.get(), 0);
    REQUIRE(mlock(file, 2 * kPageSize) == 0);
    REQUIRE(mlock(file, 3 * kPageSize) == -1 && errno == ENOMEM);
  });
}

TEST(Mlock, LimitForOthersThanRoot) {
  in_child([] {
    become_nobody();
    limit(RLIMIT_MEMLOCK, 4 * kPageSize);
    char* at = map_pages(8);
    REQUIRE(mlock(at, 5 * kPageSize) == -1 && errno == ENOMEM);
    REQUIRE(mlock(at, 4 * kPageSize) == 0);
    REQUIRE(mlock(at + kPageSize, 3 * kPageSize) == 0);  // these are locked already
    REQUIRE(mlock(at + 4 * kPageSize, 1) == -1 && errno == ENOMEM);
    REQUIRE(map_pages(1, MAP_LOCKED) == nullptr && errno == EAGAIN);
    REQUIRE(mlockall(MCL_CURRENT) == -1 && errno == ENOMEM);
    limit(RLIMIT_MEMLOCK, 0);
    REQUIRE(mlock(at, 1) == -1 && errno == EPERM);
    REQUIRE(mlockall(MCL_CURRENT) == -1 && errno == EPERM);
    REQUIRE(map_pages(1, MAP_LOCKED) == nullptr && errno == EPERM);
    REQUIRE(munlock(at, kPageSize) == 0);
  });
}

TEST(Mlock, OnFaultDoesNotTouch) {
  in_child([] {
    char* at = map_pages(4);
    REQUIRE(syscall(SYS_mlock2, at, 4 * kPageSize, 1) == 0);
    REQUIRE(status_bytes("VmLck") >= 4 * kPageSize);
    unsigned char resident[4];
    REQUIRE(mincore(at, 4 * kPageSize, resident) == 0);
    REQUIRE((resident[2] & 1) == 0);
  });
}

TEST(Mlockall, CurrentAndFuture) {
  in_child([] {
    REQUIRE(mlockall(MCL_FUTURE) == 0);
    REQUIRE(status_bytes("VmLck") == 0);
    char* at = map_pages(4);
    REQUIRE(status_bytes("VmLck") == 4 * kPageSize);
    unsigned char resident[4];
    REQUIRE(mincore(at, 4 * kPageSize, resident) == 0);
    REQUIRE((resident[3] & 1) == 1);
    REQUIRE(mlockall(MCL_CURRENT) == 0);
    REQUIRE(status_bytes("VmLck") > 4 * kPageSize);
    char* more = map_pages(4);
    const size_t all = status_bytes("VmLck");
    REQUIRE(munmap(more, 4 * kPageSize) == 0);
    REQUIRE(status_bytes("VmLck") == all);  // MCL_CURRENT alone ended MCL_FUTURE
    REQUIRE(munlockall() == 0);
    REQUIRE(status_bytes("VmLck") == 0);
  });
}

TEST(Mlockall, LocksEndWithForkAndExecKeepsNothing) {
  in_child([] {
    REQUIRE(mlockall(MCL_CURRENT | MCL_FUTURE) == 0);
    Child child = Child::run([] { return status_bytes("VmLck") == 0 ? 0 : 1; });
    REQUIRE(child.wait() == 0);
  });
}

TEST(Limits, AddressSpace) {
  in_child([] {
    const size_t now = status_bytes("VmSize");
    limit(RLIMIT_AS, now + 8 * kMiB);
    REQUIRE(map_pages(16 * kMiB / kPageSize) == nullptr && errno == ENOMEM);
    REQUIRE(map_pages(16 * kMiB / kPageSize, MAP_NORESERVE, PROT_NONE) == nullptr &&
            errno == ENOMEM);
    char* at = map_pages(4 * kMiB / kPageSize);
    REQUIRE(at != nullptr);
    REQUIRE(sbrk(8 * kMiB) == reinterpret_cast<void*>(-1) && errno == ENOMEM);
    // What is replaced does not count twice.
    REQUIRE(mmap(at, 4 * kMiB, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at);
  });
}

TEST(Limits, Data) {
  in_child([] {
    const size_t now = status_bytes("VmData");
    limit(RLIMIT_DATA, now + 4 * kMiB);
    REQUIRE(map_pages(8 * kMiB / kPageSize) == nullptr && errno == ENOMEM);
    char* reserved = map_pages(8 * kMiB / kPageSize, 0, PROT_READ);  // not data
    REQUIRE(reserved != nullptr);
    REQUIRE(mprotect(reserved, 8 * kMiB, PROT_READ | PROT_WRITE) == -1 && errno == ENOMEM);
    REQUIRE(mprotect(reserved, kMiB, PROT_READ | PROT_WRITE) == 0);
    REQUIRE(status_bytes("VmData") >= now + kMiB);
    void* shared =
        mmap(nullptr, 8 * kMiB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(shared != MAP_FAILED);  // not data either
    REQUIRE(sbrk(8 * kMiB) == reinterpret_cast<void*>(-1) && errno == ENOMEM);
  });
}

int deep(int depth) {
  volatile char frame[16 * 1024];
  frame[0] = static_cast<char>(depth);
  return depth == 0 ? frame[0] : deep(depth - 1) + frame[0];
}

TEST(Limits, Stack) {
  Child fits = Child::run([] {
    limit(RLIMIT_STACK, kMiB);
    deep(40);
    return 0;
  });
  EXPECT_THAT(fits.wait(), ExitedWith(0));
  Child overflows = Child::run([] {
    limit(RLIMIT_STACK, kMiB);
    deep(100);
    return 0;
  });
  EXPECT_THAT(overflows.wait(), KilledBy(SIGSEGV));
}

TEST(GrowsDown, GrowsToTheTouchedPage) {
  in_child([] {
    // Room below it, so that nothing stops it.
    char* room = map_pages(1024);
    REQUIRE(munmap(room, 1024 * kPageSize) == 0);
    char* top = room + 1020 * kPageSize;
    char* stack =
        static_cast<char*>(mmap(top, 2 * kPageSize, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED, -1, 0));
    REQUIRE(stack == top);
    for (int i = 1; i < 32; ++i) stack[-i * static_cast<long>(kPageSize)] = 'g';
    unsigned char resident;
    REQUIRE(mincore(stack - 31 * kPageSize, kPageSize, &resident) == 0);
  });
}

TEST(GrowsDown, StopsAtAGuardGap) {
  // 256 pages stay free between a growing mapping and what lies below.
  Child child = Child::run([] {
    char* room = map_pages(1024);
    REQUIRE(munmap(room, 1024 * kPageSize) == 0);
    void* below = mmap(room, kPageSize, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    REQUIRE(below == room);
    char* top = room + 400 * kPageSize;
    void* stack = mmap(top, kPageSize, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED, -1, 0);
    REQUIRE(stack == top);
    for (long i = 1; i <= 143; ++i) top[-i * static_cast<long>(kPageSize)] = 'g';
    for (long i = 144; i < 399; ++i) top[-i * static_cast<long>(kPageSize)] = 'g';
    return 0;
  });
  EXPECT_THAT(child.wait(), KilledBy(SIGSEGV));
}

TEST(FixedNoreplace, RefusesAnyOverlap) {
  Mapping room = Mapping::anonymous(6 * kPageSize);
  must(munmap(room.page(2), 2 * kPageSize), "munmap");
  auto map_at = [](void* at, size_t pages) {
    return reinterpret_cast<long>(mmap(at, pages * kPageSize, PROT_READ,
                                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
  };
  EXPECT_THAT(map_at(room.page(1), 2), FailsWith(EEXIST));
  EXPECT_THAT(map_at(room.page(3), 2), FailsWith(EEXIST));
  EXPECT_THAT(map_at(room.page(0), 6), FailsWith(EEXIST));
  EXPECT_THAT(map_at(room.page(2), 2), SucceedsWith(reinterpret_cast<long>(room.page(2))));
  EXPECT_THAT(map_at(room.page(2) + 1, 1), FailsWith(EINVAL));
}

TEST(MapCount, TheLimitIsAnError) {
  in_child([] {
    // Alternating protections: none merges with the next.
    const size_t most = std::stoul(read_file("/proc/sys/vm/max_map_count"));
    REQUIRE(most >= 1000);
    char* at = map_pages(2 * most + 64, MAP_NORESERVE, PROT_NONE);
    REQUIRE(at != nullptr);
    size_t made = 0;
    int error = 0;
    for (size_t i = 0; i < most; ++i) {
      if (mprotect(at + 2 * i * kPageSize, kPageSize, PROT_READ) == 0) {
        ++made;
        continue;
      }
      error = errno;
      break;
    }
    REQUIRE(error == ENOMEM);
    REQUIRE(made > most / 2 - 600 && made <= most);
    // It goes on, and the rest can be given back.
    REQUIRE(munmap(at, (2 * most + 64) * kPageSize) == 0);
    REQUIRE(map_pages(1) != nullptr);
  });
}

TEST(Smaps, ShowsWhatIsThere) {
  Mapping mapping = Mapping::anonymous(8 * kPageSize);
  must(mprotect(mapping.page(0), kPageSize, PROT_NONE), "mprotect");
  char* at = mapping.page(1);
  must(madvise(at, 7 * kPageSize, MADV_DONTFORK), "madvise");
  at[0] = at[kPageSize] = 'x';
  EXPECT_EQ(smaps_field(at, "Size"), "28 kB");
  EXPECT_EQ(smaps_field(at, "Rss"), "8 kB");
  EXPECT_EQ(smaps_field(at, "Private_Dirty"), "8 kB");
  EXPECT_EQ(smaps_field(at, "Anonymous"), "8 kB");
  EXPECT_EQ(smaps_field(at, "Locked"), "0 kB");
  EXPECT_THAT(smaps_field(at, "VmFlags"), HasSubstr("rd wr mr mw me"));
  EXPECT_THAT(smaps_field(at, "VmFlags"), HasSubstr(" dc"));
  must(mlock(at, 7 * kPageSize), "mlock");
  EXPECT_EQ(smaps_field(at, "Locked"), "28 kB");
  EXPECT_THAT(smaps_field(at, "VmFlags"), HasSubstr(" lo"));
}

TEST(Smaps, SharersDivideTheProportionalSize) {
  constexpr size_t kPages = 4 * kMiB / kPageSize;
  Mapping own = Mapping::anonymous((kPages + 1) * kPageSize);
  must(mprotect(own.page(0), kPageSize, PROT_NONE), "mprotect");
  char* at = own.page(1);
  must(madvise(at, kPages * kPageSize, MADV_NOHUGEPAGE), "madvise");
  memset(at, 'p', kPages * kPageSize);
  Mapping shared = Mapping::shared(8 * kPageSize);
  memset(shared.address(), 's', shared.size());
  must(mlock(shared.address(), shared.size()), "mlock");
  auto expect = [&](const char* key, const char* of_own, const char* of_shared) {
    EXPECT_EQ(smaps_field(at, key), of_own) << key;
    EXPECT_EQ(smaps_field(shared.address(), key), of_shared) << key;
  };
  auto expect_alone = [&] {
    expect("Rss", "4096 kB", "32 kB");
    expect("Pss", "4096 kB", "32 kB");
    expect("Private_Dirty", "4096 kB", "32 kB");
    expect("Shared_Dirty", "0 kB", "0 kB");
    expect("Locked", "0 kB", "32 kB");
  };
  expect_alone();
  Pipe ready = must_pipe();
  Child child = Child::run([&] {
    for (size_t i = 0; i < 8; ++i) REQUIRE(*shared.page(i) == 's');  // Linux counts who touched
    REQUIRE(write(ready.write_end.get(), "", 1) == 1);
    return pause();
  });
  char byte;
  must(read(ready.read_end.get(), &byte, 1), "read");
  expect("Rss", "4096 kB", "32 kB");
  expect("Pss", "2048 kB", "16 kB");
  expect("Pss_Dirty", "2048 kB", "16 kB");
  expect("Private_Dirty", "0 kB", "0 kB");
  expect("Shared_Dirty", "4096 kB", "32 kB");
  expect("Anonymous", "4096 kB", "0 kB");
  expect("Locked", "0 kB", "16 kB");
  memset(at, 'q', kPages * kPageSize);
  EXPECT_EQ(smaps_field(at, "Pss"), "4096 kB");
  EXPECT_EQ(smaps_field(at, "Private_Dirty"), "4096 kB");
  child.kill(SIGKILL);
  child.wait();
  // Inside, what a process leaves counts until its stub has unmapped it.
  EXPECT_TRUE(eventually([&] { return smaps_field(shared.address(), "Pss") == "32 kB"; }));
  expect_alone();
}

TEST(Resident, WhatWasUnmappedDoesNotShowInTheNextMapping) {
  for (int round = 0; round < 3; ++round) {
    {
      Mapping before = Mapping::anonymous(64 * kPageSize);
      std::memset(before.address(), 1, before.size());
    }
    Mapping mapping = Mapping::anonymous(64 * kPageSize);
    must(mprotect(mapping.page(0), kPageSize, PROT_NONE), "mprotect");
    char* at = mapping.page(1);
    must(madvise(at, 63 * kPageSize, MADV_DONTFORK), "madvise");
    at[5 * kPageSize] = 'x';
    EXPECT_EQ(smaps_field(at, "Rss"), "4 kB");
    unsigned char resident[63];
    must(mincore(at, 63 * kPageSize, resident), "mincore");
    for (size_t i = 0; i < 63; ++i) EXPECT_EQ(resident[i] & 1, i == 5) << i;
    must(madvise(at + 2 * kPageSize, 2 * kPageSize, MADV_POPULATE_WRITE), "madvise");
    EXPECT_EQ(smaps_field(at, "Rss"), "12 kB");
    must(madvise(at, 63 * kPageSize, MADV_DONTNEED), "madvise");
    EXPECT_EQ(smaps_field(at, "Rss"), "0 kB");
  }
}

TEST(SmapsRollup, IsTheSum) {
  const std::string text = read_file("/proc/self/smaps_rollup");
  EXPECT_THAT(text, HasSubstr("[rollup]\n"));
  auto field = [](const std::string& of, const std::string& key) {
    const size_t at = of.find("\n" + key + ":");
    return at == std::string::npos ? ~0ul : std::stoul(of.substr(at + key.size() + 2));
  };
  const size_t before = field(text, "Private_Dirty");
  Mapping mapping = Mapping::anonymous(kMiB);
  for (size_t i = 0; i < kMiB; i += kPageSize) mapping.address()[i] = 1;
  const std::string after = read_file("/proc/self/smaps_rollup");
  EXPECT_GE(field(after, "Private_Dirty"), before + 1024);
  EXPECT_GE(field(after, "Rss"), field(after, "Private_Dirty"));
  EXPECT_GE(field(after, "Pss"), 1024u);
  EXPECT_NE(field(after, "Locked"), ~0ul);
}

TEST(Pagemap, TellsPresentFromAbsent) {
  Mapping mapping = Mapping::anonymous(16 * kPageSize);
  mapping.page(1)[0] = 'x';
  UniqueFd file = must_open("/proc/self/pagemap", O_RDONLY);
  uint64_t entries[4];
  const off_t offset =
      static_cast<off_t>(reinterpret_cast<uintptr_t>(mapping.address()) / kPageSize * 8);
  ASSERT_THAT(pread(file.get(), entries, sizeof entries, offset), SucceedsWith(32));
  EXPECT_EQ(entries[0] >> 63, 0u);
  EXPECT_EQ(entries[1] >> 63, 1u);
  EXPECT_EQ(entries[1] >> 61 & 1, 0u);  // not of a file
  EXPECT_EQ(entries[3] >> 63, 0u);
  // Only whole entries.
  EXPECT_THAT(pread(file.get(), entries, 7, offset), FailsWith(EINVAL));
  EXPECT_THAT(pread(file.get(), entries, 8, offset + 4), FailsWith(EINVAL));
  EXPECT_THAT(lseek(file.get(), offset, SEEK_SET), SucceedsWith(offset));
  EXPECT_THAT(read(file.get(), entries, 16), SucceedsWith(16));
  EXPECT_EQ(entries[1] >> 63, 1u);
  EXPECT_THAT(lseek(file.get(), 0, SEEK_CUR), SucceedsWith(offset + 16));
}

}  // namespace
}  // namespace caisson::test
