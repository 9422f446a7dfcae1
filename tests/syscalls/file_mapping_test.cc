// Mapped files: what shows in whom, truncation and holes under mappings, memfd seals and mappings.
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <csetjmp>
#include <csignal>
#include <thread>

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
