// Mapped files: what shows in whom, truncation and holes under mappings, memfd seals and mappings.
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <csetjmp>
#include <csignal>
#include <cstring>
#include <string>
#include <thread>
#include <utility>

#include "tests/util/child.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"
#include "tests/util/signals.h"
#include "tests/util/temp_dir.h"

namespace caisson::test {
namespace {

constexpr int kReadWrite = PROT_READ | PROT_WRITE;

thread_local sigjmp_buf fault_jump;
void on_fault(int signal, siginfo_t*, void*) { siglongjmp(fault_jump, signal); }
// The signal that reading (writing) the byte brings, or 0. The caller holds the handlers.
int read_signal(const char* address) {
  int signal = sigsetjmp(fault_jump, 1);
  if (signal == 0) (void)*static_cast<const volatile char*>(address);
  return signal;
}
int write_signal(char* address) {
  int signal = sigsetjmp(fault_jump, 1);
  if (signal == 0) *static_cast<volatile char*>(address) = 'w';
  return signal;
}
struct FaultHandlers {
  HandlerGuard segv{SIGSEGV, on_fault, SA_NODEFER}, bus{SIGBUS, on_fault, SA_NODEFER};
};

UniqueFd must_memfd(unsigned flags) {
  return UniqueFd(static_cast<int>(must(memfd_create("seals", flags), "memfd_create")));
}

TEST(FileMapping, TruncationTakesPagesOutOfMappings) {
  FaultHandlers handlers;
  TempDir dir;
  write_file(dir.file("f"), std::string(4 * kPageSize, 'b'));
  UniqueFd fd = must_open(dir.file("f"), O_RDWR);
  Mapping shared = Mapping::map(4 * kPageSize, kReadWrite, MAP_SHARED, fd.get(), 0);
  Mapping copy = Mapping::map(4 * kPageSize, kReadWrite, MAP_PRIVATE, fd.get(), 0);
  Mapping tail = Mapping::map(2 * kPageSize, PROT_READ, MAP_SHARED, fd.get(), 2 * kPageSize);
  for (int i = 0; i < 4; ++i) shared.page(i)[0] = copy.page(i)[0] = 's';
  EXPECT_EQ(tail.address()[1], 'b');
  must(ftruncate(fd.get(), kPageSize + 10), "ftruncate");
  EXPECT_EQ(shared.page(1)[0], 's');
  EXPECT_EQ(shared.page(1)[9], 'b');
  EXPECT_EQ(shared.page(1)[10], 0);
  for (int i = 2; i < 4; ++i) {
    EXPECT_EQ(read_signal(shared.page(i)), SIGBUS) << i;
    EXPECT_EQ(write_signal(shared.page(i)), SIGBUS) << i;
    EXPECT_EQ(read_signal(copy.page(i)), SIGBUS) << i;
  }
  EXPECT_EQ(read_signal(tail.address()), SIGBUS);
  // The kernel's own copies fail too.
  Pipe pipe = must_pipe();
  EXPECT_THAT(write(pipe.write_end.get(), shared.page(2), 1), FailsWith(EFAULT));
  UniqueFd zero = must_open("/dev/zero", O_RDONLY);
  EXPECT_THAT(read(zero.get(), shared.page(2), 1), FailsWith(EFAULT));
  // What comes back is zeros, in private copies as well.
  must(ftruncate(fd.get(), 4 * kPageSize), "ftruncate");
  EXPECT_EQ(shared.page(2)[0], 0);
  EXPECT_EQ(copy.page(3)[0], 0);
  EXPECT_EQ(tail.address()[0], 0);
}

TEST(FileMapping, OpenWithTruncTakesPagesOut) {
  FaultHandlers handlers;
  TempDir dir;
  write_file(dir.file("f"), std::string(kPageSize, 'b'));
  UniqueFd fd = must_open(dir.file("f"), O_RDONLY);
  Mapping memory = Mapping::map(kPageSize, PROT_READ, MAP_SHARED, fd.get(), 0);
  EXPECT_EQ(memory.address()[0], 'b');
  must_open(dir.file("f"), O_WRONLY | O_TRUNC);
  EXPECT_EQ(read_signal(memory.address()), SIGBUS);
}

TEST(FileMapping, TruncationReachesOtherProcesses) {
  TempDir dir;
  write_file(dir.file("f"), std::string(2 * kPageSize, 'b'));
  UniqueFd fd = must_open(dir.file("f"), O_RDWR);
  Mapping memory = Mapping::map(2 * kPageSize, kReadWrite, MAP_SHARED, fd.get(), 0);
  Pipe ready = must_pipe(), go = must_pipe();
  Child child = Child::run([&] {
    memory.page(1)[0] = 'c';
    REQUIRE(write(ready.write_end.get(), "", 1) == 1);
    char byte;
    REQUIRE(read(go.read_end.get(), &byte, 1) == 1);
    FaultHandlers handlers;
    REQUIRE(read_signal(memory.page(1)) == SIGBUS);
    REQUIRE(read_signal(memory.page(0)) == 0);
    return 0;
  });
  char byte;
  must(read(ready.read_end.get(), &byte, 1), "read");
  EXPECT_EQ(memory.page(1)[0], 'c');
  must(ftruncate(fd.get(), 100), "ftruncate");
  must(write(go.write_end.get(), "", 1), "write");
  EXPECT_EQ(child.wait(), 0);
}

TEST(FileMapping, GrownFileIsReachedThroughOldMappings) {
  FaultHandlers handlers;
  TempDir dir;
  UniqueFd fd = must_open(dir.file("f"), O_RDWR | O_CREAT);
  Mapping memory = Mapping::map(2 * kPageSize, kReadWrite, MAP_SHARED, fd.get(), 0);
  EXPECT_EQ(read_signal(memory.address()), SIGBUS);
  must(pwrite(fd.get(), "x", 1, kPageSize), "pwrite");
  EXPECT_EQ(memory.page(0)[0], 0);
  EXPECT_EQ(memory.page(1)[0], 'x');
}

TEST(FileMapping, HolesShowInSharedMappingsAndKeepCopies) {
  TempDir dir;
  write_file(dir.file("f"), std::string(4 * kPageSize, 'b'));
  UniqueFd fd = must_open(dir.file("f"), O_RDWR);
  Mapping shared = Mapping::map(4 * kPageSize, kReadWrite, MAP_SHARED, fd.get(), 0);
  Mapping copy = Mapping::map(4 * kPageSize, kReadWrite, MAP_PRIVATE, fd.get(), 0);
  EXPECT_EQ(shared.page(1)[7], 'b');
  copy.page(1)[0] = 'c';
  must(
      fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, kPageSize - 1, 2 * kPageSize),
      "fallocate");
  EXPECT_EQ(shared.page(0)[kPageSize - 2], 'b');
  EXPECT_EQ(shared.page(0)[kPageSize - 1], 0);
  EXPECT_EQ(shared.page(1)[7], 0);
  EXPECT_EQ(shared.page(2)[kPageSize - 2], 0);
  EXPECT_EQ(shared.page(2)[kPageSize - 1], 'b');
  EXPECT_EQ(copy.page(1)[0], 'c');
  EXPECT_EQ(copy.page(1)[7], 'b');
  // Written anew through the mapping, read through the file.
  shared.page(1)[7] = 'n';
  char byte = 0;
  must(pread(fd.get(), &byte, 1, kPageSize + 7), "pread");
  EXPECT_EQ(byte, 'n');
}

TEST(FileMapping, UntouchedPrivatePagesShowWrites) {
  TempDir dir;
  write_file(dir.file("f"), std::string(3 * kPageSize, 'a'));
  UniqueFd fd = must_open(dir.file("f"), O_RDWR);
  Mapping copy = Mapping::map(3 * kPageSize, kReadWrite, MAP_PRIVATE, fd.get(), 0);
  copy.page(1)[0] = 'P';
  must(pwrite(fd.get(), "0", 1, 0), "pwrite");
  must(pwrite(fd.get(), "1", 1, kPageSize + 1), "pwrite");
  must(pwrite(fd.get(), "2", 1, 2 * kPageSize), "pwrite");
  EXPECT_EQ(copy.page(0)[0], '0');
  EXPECT_EQ(copy.page(1)[1], 'a');
  EXPECT_EQ(copy.page(2)[0], '2');
  must(mprotect(copy.address(), copy.size(), PROT_READ), "mprotect");
  must(mprotect(copy.address(), copy.size(), kReadWrite), "mprotect");
  must(pwrite(fd.get(), "3", 1, 2 * kPageSize), "pwrite");
  EXPECT_EQ(copy.page(2)[0], '3');
  must(madvise(copy.address(), copy.size(), MADV_DONTNEED), "madvise");
  EXPECT_EQ(copy.page(1)[1], '1');
}

// Whoever looks first finds the file: this thread, a call, a child, another protection or place.
void look_at_untouched(int fd) {
  FaultHandlers handlers;
  std::string content(4 * kPageSize, 0);
  ASSERT_EQ(pread(fd, content.data(), content.size(), 0), ssize_t{4 * kPageSize});
  auto map = [fd](int prot) { return Mapping::map(4 * kPageSize, prot, MAP_PRIVATE, fd, 0); };
  auto shows_file = [&](const char* at, size_t from = 0) {
    return memcmp(at + from, content.data() + from, content.size() - from) == 0;
  };

  EXPECT_TRUE(shows_file(map(PROT_READ).address()));
  EXPECT_TRUE(shows_file(map(PROT_READ | PROT_EXEC).address()));
  {
    Mapping written = map(kReadWrite);
    written.page(2)[5] = static_cast<char>(content[2 * kPageSize + 5] + 1);
    EXPECT_TRUE(shows_file(written.address(), 2 * kPageSize + 6));
    EXPECT_EQ(memcmp(written.address(), content.data(), 2 * kPageSize + 5), 0);
    EXPECT_TRUE(shows_file(map(kReadWrite).address()));
  }
  {
    Mapping memory = map(PROT_READ);
    Pipe pipe = must_pipe();
    char byte = 0;
    EXPECT_EQ(write(pipe.write_end.get(), memory.page(1) + 3, 1), 1);
    must(read(pipe.read_end.get(), &byte, 1), "read");
    EXPECT_EQ(byte, content[kPageSize + 3]);
  }
  {
    Mapping memory = map(kReadWrite);
    Pipe pipe = must_pipe();
    must(write(pipe.write_end.get(), "in", 2), "write");
    EXPECT_EQ(read(pipe.read_end.get(), memory.address(), 2), 2);
    EXPECT_EQ(memcmp(memory.address(), "in", 2), 0);
    EXPECT_TRUE(shows_file(memory.address(), 2));
  }
  {
    Mapping memory = map(kReadWrite);
    Child child = Child::run([&] {
      REQUIRE(shows_file(memory.address()));
      memory.address()[0] = static_cast<char>(content[0] + 1);
      return 0;
    });
    EXPECT_EQ(child.wait(), 0);
    EXPECT_TRUE(shows_file(memory.address()));
  }
  {
    Mapping memory = map(PROT_READ);
    unsigned char pages[4] = {};
    must(mincore(memory.address(), 4 * kPageSize, pages), "mincore");
    for (unsigned char page : pages) EXPECT_EQ(page & 1, 1);
    must(mlock(memory.address(), kPageSize), "mlock");
    must(mprotect(memory.address(), 2 * kPageSize, PROT_NONE), "mprotect");
    EXPECT_EQ(read_signal(memory.page(1)), SIGSEGV);
    must(mprotect(memory.address(), 2 * kPageSize, kReadWrite), "mprotect");
    EXPECT_TRUE(shows_file(memory.address()));
  }
  {
    void* place = mmap(nullptr, 4 * kPageSize, PROT_READ, MAP_PRIVATE, fd, 0);
    void* target = mmap(nullptr, 2 * kPageSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    void* moved =
        mremap(place, 4 * kPageSize, 2 * kPageSize, MREMAP_MAYMOVE | MREMAP_FIXED, target);
    ASSERT_NE(moved, MAP_FAILED);
    EXPECT_EQ(memcmp(moved, content.data(), 2 * kPageSize), 0);
    EXPECT_EQ(read_signal(static_cast<char*>(place)), SIGSEGV);
    // What is replaced does not show for a moment.
    mmap(moved, kPageSize, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 3 * kPageSize);
    EXPECT_EQ(memcmp(moved, content.data() + 3 * kPageSize, kPageSize), 0);
    mmap(moved, kPageSize, PROT_READ, MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS, -1, 0);
    EXPECT_EQ(*static_cast<char*>(moved), 0);
    must(munmap(moved, 2 * kPageSize), "munmap");
    EXPECT_EQ(read_signal(static_cast<char*>(moved)), SIGSEGV);
  }
  for (int i = 0; i < 100; ++i) {
    Mapping memory = map(i % 2 == 0 ? PROT_READ : kReadWrite);
    std::atomic<bool> right = true;
    auto look = [&](int page) {
      if (memcmp(memory.page(page), content.data() + page * kPageSize, kPageSize) != 0)
        right = false;
    };
    std::thread other([&] { look(3); });
    look(0);
    other.join();
    EXPECT_TRUE(right) << i;
  }
}

TEST(FileMapping, UntouchedMappingsShowTheFile) {
  TempDir dir;
  std::string content;
  for (size_t i = 0; i < 4 * kPageSize; ++i) content += static_cast<char>(1 + i % 100);
  write_file(dir.file("f"), content);
  look_at_untouched(must_open(dir.file("f"), O_RDONLY).get());
}

TEST(FileMapping, UntouchedMappingsOfProgramsShowThem) {
  look_at_untouched(must_open("/bin/sh", O_RDONLY).get());
}

// As an interpreter does it: a library's segments over a mapping of all of it, zeros above.
TEST(FileMapping, SegmentsOverAMappingOfTheWhole) {
  TempDir dir;
  std::string content;
  for (size_t i = 0; i < 8 * kPageSize; ++i) content += static_cast<char>(1 + i / kPageSize);
  write_file(dir.file("f"), content);
  for (const bool early : {false, true}) {
    UniqueFd fd = must_open(dir.file("f"), O_RDONLY);
    Mapping whole = Mapping::map(10 * kPageSize, PROT_READ, MAP_PRIVATE, fd.get(), 0);
    if (early) {
      EXPECT_EQ(whole.page(7)[0], 8);
    }
    auto over = [&](int page, int pages, int prot, int flags, int file_page) {
      ASSERT_NE(mmap(whole.page(page), pages * kPageSize, prot, MAP_FIXED | MAP_PRIVATE | flags,
                     (flags & MAP_ANONYMOUS) != 0 ? -1 : fd.get(), file_page * kPageSize),
                MAP_FAILED);
    };
    over(1, 3, PROT_READ | PROT_EXEC, 0, 1);
    over(4, 1, PROT_READ, 0, 4);
    over(5, 2, kReadWrite, 0, 4);  // the last page of the file before, as linkers lay it
    memset(whole.page(6) + 100, 0, kPageSize - 100);
    over(7, 3, kReadWrite, MAP_ANONYMOUS, 0);
    for (int page = 0; page < 10; ++page) {
      const int expected = page < 5 ? page + 1 : page < 7 ? page : 0;
      EXPECT_EQ(whole.page(page)[50], expected) << page;
      EXPECT_EQ(whole.page(page)[200], page == 6 ? 0 : expected) << page;
    }
    must(mprotect(whole.page(5), kPageSize, PROT_READ), "mprotect");
    EXPECT_EQ(whole.page(5)[0], 5);
    whole.page(9)[kPageSize - 1] = 1;
  }
}

// A touch is for the mapping that is touched, whatever its neighbours are.
TEST(FileMapping, NeighboursThatHaveNothingToShow) {
  FaultHandlers handlers;
  TempDir dir;
  write_file(dir.file("f"), std::string(2 * kPageSize, 'f'));
  UniqueFd fd = must_open(dir.file("f"), O_RDONLY);
  constexpr size_t kNeighbours = 20;
  Mapping place = Mapping::anonymous((2 * kNeighbours + 1) * kPageSize, PROT_NONE);
  auto over = [&](size_t page, int prot, size_t file_page) {
    must(mmap(place.page(page), kPageSize, prot, MAP_FIXED | MAP_PRIVATE, fd.get(),
              static_cast<off_t>(file_page * kPageSize)) == MAP_FAILED
             ? -1
             : 0,
         "mmap");
  };
  auto lay = [&](int prot, size_t file_page, int target_prot) {
    // Every other one shows another page, so that they stay mappings of their own.
    for (size_t i = 0; i <= 2 * kNeighbours; ++i) over(i, prot, file_page + i % 2 * 2);
    over(kNeighbours, target_prot, 1);
  };
  for (const int target_prot : {PROT_READ, kReadWrite}) {
    for (const auto& [prot, file_page] :
         {std::pair{PROT_NONE, 0}, {kReadWrite, 2}, {kReadWrite, 0}, {PROT_READ, 7}}) {
      lay(prot, static_cast<size_t>(file_page), target_prot);
      EXPECT_EQ(read_signal(place.page(kNeighbours)), 0) << prot << " " << file_page;
      EXPECT_EQ(place.page(kNeighbours)[7], 'f');
      lay(prot, static_cast<size_t>(file_page), target_prot);
      Pipe pipe = must_pipe();
      EXPECT_EQ(write(pipe.write_end.get(), place.page(kNeighbours), 1), 1) << prot;
    }
  }
  lay(PROT_NONE, 0, PROT_READ);
  unsigned char page = 0;
  must(mincore(place.page(0), kPageSize, &page), "mincore");
  EXPECT_EQ(page & 1, 1);
}

TEST(FileMapping, SealsAndMappings) {
  UniqueFd fd = must_memfd(MFD_ALLOW_SEALING);
  must(ftruncate(fd.get(), 2 * kPageSize), "ftruncate");
  {
    Mapping writer = Mapping::map(kPageSize, kReadWrite, MAP_SHARED, fd.get(), 0);
    EXPECT_THAT(fcntl(fd.get(), F_ADD_SEALS, F_SEAL_WRITE), FailsWith(EBUSY));
    // Half of it unmapped, or only readable now: it still may write.
    must(mprotect(writer.address(), kPageSize, PROT_READ), "mprotect");
    EXPECT_THAT(fcntl(fd.get(), F_ADD_SEALS, F_SEAL_WRITE), FailsWith(EBUSY));
    Child child = Child::run([] { return 0; });
    EXPECT_EQ(child.wait(), 0);
  }
  Mapping copy = Mapping::map(kPageSize, kReadWrite, MAP_PRIVATE, fd.get(), 0);
  EXPECT_THAT(fcntl(fd.get(), F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK), SucceedsWith(0));
  EXPECT_EQ(mmap(nullptr, kPageSize, kReadWrite, MAP_SHARED, fd.get(), 0), MAP_FAILED);
  EXPECT_EQ(errno, EPERM);
  copy.address()[0] = 'p';
  EXPECT_THAT(ftruncate(fd.get(), 0), FailsWith(EPERM));
  EXPECT_THAT(pwrite(fd.get(), "x", 1, 0), FailsWith(EPERM));
}

TEST(FileMapping, FutureWriteSealKeepsWritersThatAreThere) {
  UniqueFd fd = must_memfd(MFD_ALLOW_SEALING);
  must(ftruncate(fd.get(), kPageSize), "ftruncate");
  Mapping writer = Mapping::map(kPageSize, kReadWrite, MAP_SHARED, fd.get(), 0);
  EXPECT_THAT(fcntl(fd.get(), F_ADD_SEALS, 0x10 /* F_SEAL_FUTURE_WRITE */), SucceedsWith(0));
  writer.address()[0] = 'w';
  EXPECT_EQ(mmap(nullptr, kPageSize, kReadWrite, MAP_SHARED, fd.get(), 0), MAP_FAILED);
  EXPECT_EQ(errno, EPERM);
  Mapping reader = Mapping::map(kPageSize, PROT_READ, MAP_SHARED, fd.get(), 0);
  EXPECT_EQ(reader.address()[0], 'w');
  EXPECT_THAT(mprotect(reader.address(), kPageSize, kReadWrite), FailsWith(EACCES));
  EXPECT_THAT(pwrite(fd.get(), "x", 1, 0), FailsWith(EPERM));
}

// One thread changes the file's size, one touches the mapping, one lets the kernel copy from and to
// it: nobody sees anything but the file's bytes, SIGBUS or EFAULT.
TEST(FileMapping, TruncationRacesWithTouchesAndCopies) {
  FaultHandlers handlers;
  TempDir dir;
  UniqueFd fd = must_open(dir.file("f"), O_RDWR | O_CREAT);
  Mapping memory = Mapping::map(8 * kPageSize, kReadWrite, MAP_SHARED, fd.get(), 0);
  std::atomic<bool> stop{false};
  std::atomic<int> wrong{0};
  std::thread toucher([&] {
    for (int i = 0; !stop; ++i) {
      int signal = write_signal(memory.page(i % 8) + i % 64);
      if (signal != 0 && signal != SIGBUS) ++wrong;
    }
  });
  std::thread copier([&] {
    UniqueFd zero = must_open("/dev/zero", O_RDONLY);
    for (int i = 0; !stop; ++i) {
      ssize_t got = read(zero.get(), memory.page(i % 8), kPageSize);
      if (got < 0 && errno != EFAULT) ++wrong;
    }
  });
  for (int i = 0; i < 300; ++i) must(ftruncate(fd.get(), i % 9 * kPageSize), "ftruncate");
  stop = true;
  toucher.join();
  copier.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace caisson::test
