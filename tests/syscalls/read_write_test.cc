// read, write, readv, writev, pread, pwrite and their v2 forms on regular files and pipes.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <climits>
#include <csignal>
#include <thread>

#include "tests/util/child.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"
#include "tests/util/signals.h"
#include "tests/util/temp_dir.h"

namespace caisson::test {
namespace {

class ReadWrite : public ::testing::Test {
 protected:
  UniqueFd make(const std::string& bytes, int flags = O_RDWR) {
    write_file(path_, bytes);
    return must_open(path_, flags);
  }
  TempDir dir_;
  std::string path_ = dir_.file("file");
};

TEST_F(ReadWrite, MovesTheOffset) {
  UniqueFd fd = make("0123456789");
  char buffer[8] = {};
  EXPECT_THAT(read(fd.get(), buffer, 4), SucceedsWith(4));
  EXPECT_STREQ(buffer, "0123");
  EXPECT_THAT(write(fd.get(), "AB", 2), SucceedsWith(2));
  EXPECT_THAT(lseek(fd.get(), 0, SEEK_CUR), SucceedsWith(6));
  EXPECT_EQ(read_file(path_), "0123AB6789");
}

TEST_F(ReadWrite, ShortReadAtEndThenZero) {
  UniqueFd fd = make("abc");
  char buffer[8];
  EXPECT_THAT(read(fd.get(), buffer, 8), SucceedsWith(3));
  EXPECT_THAT(read(fd.get(), buffer, 8), SucceedsWith(0));
  lseek(fd.get(), 100, SEEK_SET);
  EXPECT_THAT(read(fd.get(), buffer, 8), SucceedsWith(0));
}

TEST_F(ReadWrite, BadDescriptors) {
  char byte = 0;
  for (int fd : {-1, 1'000'000, INT_MIN}) {
    EXPECT_THAT(read(fd, &byte, 1), FailsWith(EBADF));
    EXPECT_THAT(write(fd, &byte, 1), FailsWith(EBADF));
    EXPECT_THAT(pread(fd, &byte, 1, 0), FailsWith(EBADF));
  }
  UniqueFd read_only = make("x", O_RDONLY);
  UniqueFd write_only = must_open(path_, O_WRONLY);
  EXPECT_THAT(write(read_only.get(), &byte, 1), FailsWith(EBADF));
  EXPECT_THAT(read(write_only.get(), &byte, 1), FailsWith(EBADF));
  UniqueFd path_only = must_open(path_, O_PATH);
  EXPECT_THAT(read(path_only.get(), &byte, 1), FailsWith(EBADF));
}

TEST_F(ReadWrite, DirectoriesAreNotRead) {
  UniqueFd fd = must_open(dir_.path(), O_RDONLY | O_DIRECTORY);
  char byte;
  EXPECT_THAT(read(fd.get(), &byte, 1), FailsWith(EISDIR));
  EXPECT_THAT(open(dir_.path().c_str(), O_WRONLY), FailsWith(EISDIR));
}

TEST_F(ReadWrite, PointersAtTheEdgeOfMappings) {
  UniqueFd fd = make(std::string(3 * kPageSize, 'f'));
  GuardedPages pages;
  EXPECT_THAT(pread(fd.get(), pages.last(16), 16, 0), SucceedsWith(16));
  EXPECT_THAT(pread(fd.get(), pages.begin() - 1, 16, 0), FailsWith(EFAULT));
  EXPECT_THAT(pread(fd.get(), pages.end(), 1, 0), FailsWith(EFAULT));
  EXPECT_THAT(pwrite(fd.get(), pages.begin() - 1, 16, 0), FailsWith(EFAULT));
  EXPECT_THAT(pwrite(fd.get(), pages.end(), 1, 0), FailsWith(EFAULT));
  EXPECT_THAT(read(fd.get(), bad_pointer(), 1), FailsWith(EFAULT));
  EXPECT_THAT(read(fd.get(), nullptr, 1), FailsWith(EFAULT));
  // Kernel addresses, in the canonical upper half.
  EXPECT_THAT(read(fd.get(), reinterpret_cast<void*>(-4096), 1), FailsWith(EFAULT));
  EXPECT_THAT(lseek(fd.get(), 0, SEEK_CUR), SucceedsWith(0));
}

TEST_F(ReadWrite, ReadIntoReadOnlyMemoryFaults) {
  UniqueFd fd = make("data");
  Mapping memory = Mapping::anonymous(kPageSize, PROT_READ);
  EXPECT_THAT(read(fd.get(), memory.address(), 4), FailsWith(EFAULT));
  EXPECT_EQ(memory.address()[0], 0);
}

// Bytes before the fault are delivered and counted.
// Large memory that has never been touched, or only here and there.
TEST_F(ReadWrite, LargeReadsIntoFreshMemory) {
  constexpr size_t kMiB = 1 << 20;
  std::string content(20 * kMiB, 0);
  for (size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>(i * 2654435761u >> 24);
  UniqueFd fd = make(content);
  for (size_t within : {size_t{0}, size_t{1}, kPageSize - 1, 3 * kPageSize + 100}) {
    for (size_t length : {size_t{40000}, kMiB + 5, 6 * kMiB, 19 * kMiB - 77}) {
      Mapping memory = Mapping::anonymous(20 * kMiB + 4 * kPageSize);
      char* to = memory.address() + within;
      for (size_t touched = 5 * kPageSize; touched < length; touched += 700 * kPageSize)
        to[touched] = 'x';
      to[length] = 'e';
      ASSERT_THAT(pread(fd.get(), to, length, 3), SucceedsWith(length));
      EXPECT_EQ(memcmp(to, content.data() + 3, length), 0) << within << " " << length;
      EXPECT_EQ(to[length], 'e');
      for (size_t i = 0; i < within; ++i) ASSERT_EQ(memory.address()[i], 0);
      for (size_t i = length + 1; i < length + 2 * kPageSize; ++i) ASSERT_EQ(to[i], 0);
    }
  }
}

// A thread reads into what another one writes: each byte is one or the other.
TEST_F(ReadWrite, FreshMemoryIsFilledWhileOthersWriteIt) {
  constexpr size_t kSize = 3 << 20;
  UniqueFd fd = make(std::string(kSize, 'f'));
  for (int round = 0; round < 8; ++round) {
    Mapping memory = Mapping::anonymous(kSize);
    std::thread writer([&] {
      for (size_t i = 0; i < kSize; i += kPageSize) memory.address()[i + 8] = 'w';
    });
    EXPECT_THAT(pread(fd.get(), memory.address(), kSize, 0), SucceedsWith(kSize));
    writer.join();
    for (size_t i = 0; i < kSize; ++i) {
      const char value = memory.address()[i];
      ASSERT_TRUE(value == 'f' || (value == 'w' && i % kPageSize == 8)) << i << " " << int{value};
    }
  }
}

TEST_F(ReadWrite, PartialCopyOverTheEdge) {
  UniqueFd fd = make(std::string(2 * kPageSize, 'p'));
  GuardedPages pages;
  const ssize_t got = pread(fd.get(), pages.last(10), 100, 0);
  EXPECT_EQ(got, 10);
  EXPECT_EQ(std::string(pages.last(10), 10), std::string(10, 'p'));
}

TEST_F(ReadWrite, ZeroBytesStillChecksTheDescriptor) {
  UniqueFd fd = make("x");
  EXPECT_THAT(read(fd.get(), nullptr, 0), SucceedsWith(0));
  EXPECT_THAT(write(fd.get(), nullptr, 0), SucceedsWith(0));
  EXPECT_THAT(read(-1, nullptr, 0), FailsWith(EBADF));
}

TEST_F(ReadWrite, PreadKeepsTheOffset) {
  UniqueFd fd = make("abcdef");
  char buffer[4] = {};
  EXPECT_THAT(pread(fd.get(), buffer, 3, 2), SucceedsWith(3));
  EXPECT_STREQ(buffer, "cde");
  EXPECT_THAT(pread(fd.get(), buffer, 3, 6), SucceedsWith(0));
  EXPECT_THAT(pread(fd.get(), buffer, 3, -1), FailsWith(EINVAL));
  EXPECT_THAT(pwrite(fd.get(), "Z", 1, -1), FailsWith(EINVAL));
  EXPECT_THAT(pwrite(fd.get(), "Z", 1, 8), SucceedsWith(1));
  EXPECT_THAT(lseek(fd.get(), 0, SEEK_CUR), SucceedsWith(0));
  EXPECT_EQ(read_file(path_), std::string("abcdef\0\0Z", 9));
}

TEST_F(ReadWrite, AppendIgnoresTheOffset) {
  UniqueFd fd = make("base", O_RDWR | O_APPEND);
  EXPECT_THAT(write(fd.get(), "+1", 2), SucceedsWith(2));
  EXPECT_THAT(lseek(fd.get(), 0, SEEK_CUR), SucceedsWith(6));
  // Linux appends here too (pwrite(2), BUGS).
  EXPECT_THAT(pwrite(fd.get(), "+2", 2, 0), SucceedsWith(2));
  EXPECT_EQ(read_file(path_), "base+1+2");
}

TEST_F(ReadWrite, VectorsGatherAndScatter) {
  UniqueFd fd = make("");
  char one[] = "one", two[] = "two2";
  iovec out[] = {{one, 3}, {nullptr, 0}, {two, 4}};
  EXPECT_THAT(writev(fd.get(), out, 3), SucceedsWith(7));
  EXPECT_EQ(read_file(path_), "onetwo2");
  char a[3] = {}, b[10] = {};
  iovec in[] = {{a, 2}, {b, 10}};
  EXPECT_THAT(preadv(fd.get(), in, 2, 0), SucceedsWith(7));
  EXPECT_STREQ(a, "on");
  EXPECT_STREQ(b, "etwo2");
  EXPECT_THAT(pwritev(fd.get(), out, 1, 3), SucceedsWith(3));
  EXPECT_EQ(read_file(path_), "oneone2");
}

TEST_F(ReadWrite, VectorErrors) {
  UniqueFd fd = make("0123456789");
  char byte;
  iovec one = {&byte, 1};
  EXPECT_THAT(readv(fd.get(), &one, -1), FailsWith(EINVAL));
  EXPECT_THAT(readv(fd.get(), &one, IOV_MAX + 1), FailsWith(EINVAL));
  EXPECT_THAT(readv(fd.get(), &one, 0), SucceedsWith(0));
  EXPECT_THAT(readv(fd.get(), bad_pointer_to<iovec>(), 1), FailsWith(EFAULT));
  iovec negative[] = {{&byte, 1}, {&byte, static_cast<size_t>(SSIZE_MAX) + 1}};
  EXPECT_THAT(readv(fd.get(), negative, 2), FailsWith(EINVAL));
  iovec bad_base[] = {{bad_pointer(), 4}};
  EXPECT_THAT(readv(fd.get(), bad_base, 1), FailsWith(EFAULT));
  EXPECT_THAT(writev(fd.get(), bad_base, 1), FailsWith(EFAULT));
  GuardedPages pages;
  auto* past = pages.one_past<iovec>();
  EXPECT_THAT(writev(fd.get(), past, 1), FailsWith(EFAULT));
  EXPECT_THAT(preadv(fd.get(), &one, 1, -1), FailsWith(EINVAL));
  EXPECT_EQ(read_file(path_), "0123456789");
}

// A bad element after good ones: what came before it counts.
TEST_F(ReadWrite, VectorStopsAtTheFault) {
  UniqueFd fd = make("0123456789");
  char good[4] = {};
  GuardedPages pages;
  iovec in[] = {{good, 3}, {pages.end(), 4}};
  EXPECT_THAT(readv(fd.get(), in, 2), SucceedsWith(3));
  EXPECT_STREQ(good, "012");
  EXPECT_THAT(lseek(fd.get(), 0, SEEK_CUR), SucceedsWith(3));
}

TEST_F(ReadWrite, VectorsUpToTheLimit) {
  UniqueFd fd = make("");
  char byte = 'v';
  std::vector<iovec> many(IOV_MAX, iovec{&byte, 1});
  EXPECT_THAT(writev(fd.get(), many.data(), IOV_MAX), SucceedsWith(IOV_MAX));
  EXPECT_EQ(read_file(path_), std::string(IOV_MAX, 'v'));
}

TEST_F(ReadWrite, VersionTwoOffsets) {
  UniqueFd fd = make("abcdef");
  char buffer[3] = {};
  iovec in = {buffer, 2};
  lseek(fd.get(), 2, SEEK_SET);
  EXPECT_THAT(preadv2(fd.get(), &in, 1, -1, 0), SucceedsWith(2));
  EXPECT_STREQ(buffer, "cd");
  EXPECT_THAT(lseek(fd.get(), 0, SEEK_CUR), SucceedsWith(4));
  EXPECT_THAT(preadv2(fd.get(), &in, 1, 0, 0), SucceedsWith(2));
  EXPECT_STREQ(buffer, "ab");
  EXPECT_THAT(preadv2(fd.get(), &in, 1, 0, 0x4000'0000), FailsWith(EOPNOTSUPP));
}

TEST_F(ReadWrite, CountIsCappedNotRefused) {
  UniqueFd fd = make("abc");
  char* buffer = static_cast<char*>(mmap(nullptr, 1ULL << 32, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  ASSERT_NE(buffer, MAP_FAILED);
  EXPECT_THAT(read(fd.get(), buffer, 1ULL << 32), SucceedsWith(3));
  // MAX_RW_COUNT, not the count asked for.
  UniqueFd null = must_open("/dev/null", O_WRONLY);
  EXPECT_THAT(write(null.get(), buffer, 1ULL << 32), SucceedsWith(0x7ffff000));
  munmap(buffer, 1ULL << 32);
}

TEST_F(ReadWrite, SendfileIntoAFullPipeKeepsTheRest) {
  UniqueFd file = make(std::string(200'000, 'x'));
  int ends[2];
  ASSERT_THAT(pipe2(ends, O_NONBLOCK), Succeeds());
  UniqueFd reader(ends[0]), writer(ends[1]);
  ASSERT_THAT(write(writer.get(), "begin", 5), SucceedsWith(5));
  ssize_t sent = sendfile(writer.get(), file.get(), nullptr, 200'000);
  ASSERT_GT(sent, 0);
  ASSERT_LT(sent, 200'000);
  EXPECT_THAT(lseek(file.get(), 0, SEEK_CUR), SucceedsWith(sent));
  EXPECT_THAT(sendfile(writer.get(), file.get(), nullptr, 200'000), FailsWith(EAGAIN));
  EXPECT_THAT(lseek(file.get(), 0, SEEK_CUR), SucceedsWith(sent));
}

// What a pipe gave could not go back if the target had no room.
TEST_F(ReadWrite, SendfileRefusesPipesAsSource) {
  UniqueFd file = make("");
  int from[2], to[2];
  ASSERT_THAT(pipe(from), Succeeds());
  UniqueFd from_reader(from[0]), from_writer(from[1]);
  ASSERT_THAT(pipe(to), Succeeds());
  UniqueFd to_reader(to[0]), to_writer(to[1]);
  ASSERT_THAT(write(from_writer.get(), "data", 4), SucceedsWith(4));
  EXPECT_THAT(sendfile(to_writer.get(), from_reader.get(), nullptr, 4), FailsWith(EINVAL));
  EXPECT_THAT(sendfile(file.get(), from_reader.get(), nullptr, 4), FailsWith(EINVAL));
  char buffer[8];
  EXPECT_THAT(read(from_reader.get(), buffer, sizeof buffer), SucceedsWith(4));
}

TEST_F(ReadWrite, FileSizeLimit) {
  Child child = Child::run([&] {
    UniqueFd fd = make("");
    rlimit limit = {10, 10};
    REQUIRE(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    signal(SIGXFSZ, SIG_IGN);
    REQUIRE(write(fd.get(), "0123456789abcdef", 16) == 10);
    REQUIRE(write(fd.get(), "x", 1) == -1 && errno == EFBIG);
    signal(SIGXFSZ, SIG_DFL);
    [[maybe_unused]] ssize_t written = write(fd.get(), "x", 1);
    return 1;
  });
  EXPECT_THAT(child.wait(), KilledBy(SIGXFSZ));
}

TEST_F(ReadWrite, OffsetIsSharedAcrossForkAndDup) {
  UniqueFd fd = make("0123456789");
  UniqueFd copy(dup(fd.get()));
  char byte;
  EXPECT_THAT(read(copy.get(), &byte, 1), SucceedsWith(1));
  Child child = Child::run([&] {
    REQUIRE(read(fd.get(), &byte, 1) == 1 && byte == '1');
    REQUIRE(lseek(fd.get(), 5, SEEK_SET) == 5);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
  EXPECT_THAT(read(fd.get(), &byte, 1), SucceedsWith(1));
  EXPECT_EQ(byte, '5');
}

// Two threads that write through one description never overwrite each other (the offset is locked).
TEST_F(ReadWrite, ConcurrentWritesKeepAllBytes) {
  UniqueFd fd = make("");
  constexpr int kWrites = 500;
  std::vector<std::thread> threads;
  for (char letter : {'a', 'b'}) {
    threads.emplace_back([&, letter] {
      const std::string line(16, letter);
      for (int i = 0; i < kWrites; ++i) write_all(fd.get(), line);
    });
  }
  for (std::thread& thread : threads) thread.join();
  const std::string bytes = read_file(path_);
  EXPECT_EQ(bytes.size(), 2u * kWrites * 16);
  EXPECT_EQ(std::count(bytes.begin(), bytes.end(), 'a'), kWrites * 16);
}

TEST_F(ReadWrite, WriteFromMemoryUnmappedMeanwhile) {
  Pipe pipe = must_pipe();
  fill_pipe(pipe.write_end.get());
  void* memory =
      mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  Later later(20, [&] {
    munmap(memory, kPageSize);
    char sink[16384];
    must(read(pipe.read_end.get(), sink, sizeof(sink)), "read");
  });
  EXPECT_THAT(write(pipe.write_end.get(), memory, 100), FailsWith(EFAULT));
}

}  // namespace
}  // namespace caisson::test
