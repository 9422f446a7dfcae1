// open, stat, lseek, access, truncate, chmod, chdir, umask, times, on whatever root is writable.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#include <thread>

#include "tests/util/child.h"
#include "tests/util/clock.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"
#include "tests/util/temp_dir.h"

namespace caisson::test {
namespace {

class Files : public ::testing::Test {
 protected:
  TempDir dir_;
  const std::string path_ = dir_.file("file");
  struct stat stat_of(const std::string& path) {
    struct stat result = {};
    must(stat(path.c_str(), &result), "stat");
    return result;
  }
};

TEST_F(Files, CreateExclusiveTruncate) {
  EXPECT_THAT(open(path_.c_str(), O_RDONLY), FailsWith(ENOENT));
  UniqueFd fd = must_open(path_, O_RDWR | O_CREAT | O_EXCL, 0640);
  EXPECT_THAT(open(path_.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600), FailsWith(EEXIST));
  write_all(fd.get(), "123");
  EXPECT_EQ(stat_of(path_).st_size, 3);
  must_open(path_, O_WRONLY | O_TRUNC);
  EXPECT_EQ(stat_of(path_).st_size, 0);
}

TEST_F(Files, OpenErrors) {
  write_file(path_, "x");
  EXPECT_THAT(open("", O_RDONLY), FailsWith(ENOENT));
  EXPECT_THAT(open((path_ + "/below").c_str(), O_RDONLY), FailsWith(ENOTDIR));
  EXPECT_THAT(open((path_ + "/").c_str(), O_RDONLY), FailsWith(ENOTDIR));
  EXPECT_THAT(open(dir_.file("no/such").c_str(), O_CREAT | O_RDWR, 0600), FailsWith(ENOENT));
  EXPECT_THAT(open(path_.c_str(), O_RDONLY | O_DIRECTORY), FailsWith(ENOTDIR));
  EXPECT_THAT(open(dir_.path().c_str(), O_RDWR), FailsWith(EISDIR));
  EXPECT_THAT(open(dir_.path().c_str(), O_RDONLY | O_CREAT, 0600), FailsWith(EISDIR));
  EXPECT_THAT(open((path_ + "new/").c_str(), O_WRONLY | O_CREAT, 0600), FailsWith(EISDIR));
  EXPECT_THAT(open(bad_pointer_to<char>(), O_RDONLY), FailsWith(EFAULT));
  EXPECT_THAT(open(nullptr, O_RDONLY), FailsWith(EFAULT));
  GuardedPages pages(2);
  EXPECT_THAT(open(pages.put_unterminated("/tmp"), O_RDONLY), FailsWith(EFAULT));
  EXPECT_THAT(open(pages.put_string(path_), O_RDONLY | O_CLOEXEC), Succeeds());
}

TEST_F(Files, NameLengths) {
  const std::string longest(NAME_MAX, 'n');
  EXPECT_THAT(close(open(dir_.file(longest).c_str(), O_CREAT | O_RDWR, 0600)), SucceedsWith(0));
  EXPECT_THAT(open(dir_.file(longest + "n").c_str(), O_RDONLY), FailsWith(ENAMETOOLONG));
  std::string path = dir_.path();
  while (path.size() < PATH_MAX - 3) path += "/.";
  path.resize(PATH_MAX - 1, '/');
  EXPECT_THAT(close(open(path.c_str(), O_RDONLY)), SucceedsWith(0));
  EXPECT_THAT(open((path + "/").c_str(), O_RDONLY), FailsWith(ENAMETOOLONG));
}

TEST_F(Files, OpenAtResolvesFromDirectory) {
  write_file(path_, "at");
  UniqueFd dir = must_open(dir_.path(), O_RDONLY | O_DIRECTORY);
  UniqueFd file(openat(dir.get(), "file", O_RDONLY));
  EXPECT_TRUE(file.valid());
  EXPECT_THAT(openat(file.get(), "x", O_RDONLY), FailsWith(ENOTDIR));
  EXPECT_THAT(openat(-5, "x", O_RDONLY), FailsWith(EBADF));
  // An absolute path ignores the descriptor.
  UniqueFd absolute(openat(-5, path_.c_str(), O_RDONLY));
  EXPECT_TRUE(absolute.valid());
}

TEST_F(Files, CreatIsOpen) {
  UniqueFd fd(creat(path_.c_str(), 0600));
  EXPECT_EQ(fcntl(fd.get(), F_GETFL) & O_ACCMODE, O_WRONLY);
}

TEST_F(Files, ReadOnlyModeStillWritableByItsCreator) {
  UniqueFd fd = must_open(path_, O_RDWR | O_CREAT | O_EXCL, 0400);
  EXPECT_THAT(write(fd.get(), "x", 1), SucceedsWith(1));
}

TEST_F(Files, StatFields) {
  write_file(path_, "12345", 0640);
  const int64_t now_s = time(nullptr);
  const struct stat by_path = stat_of(path_);
  EXPECT_TRUE(S_ISREG(by_path.st_mode));
  EXPECT_EQ(by_path.st_size, 5);
  EXPECT_EQ(by_path.st_nlink, 1u);
  EXPECT_EQ(by_path.st_uid, geteuid());
  EXPECT_GT(by_path.st_blksize, 0);
  EXPECT_LE(std::abs(by_path.st_mtim.tv_sec - now_s), 2);
  struct stat by_fd, by_at, by_link;
  UniqueFd fd = must_open(path_, O_RDONLY);
  ASSERT_THAT(fstat(fd.get(), &by_fd), SucceedsWith(0));
  ASSERT_THAT(fstatat(AT_FDCWD, path_.c_str(), &by_at, 0), SucceedsWith(0));
  ASSERT_THAT(lstat(path_.c_str(), &by_link), SucceedsWith(0));
  for (const struct stat& other : {by_fd, by_at, by_link}) {
    EXPECT_EQ(other.st_ino, by_path.st_ino);
    EXPECT_EQ(other.st_dev, by_path.st_dev);
  }
  struct stat empty;
  EXPECT_THAT(fstatat(fd.get(), "", &empty, AT_EMPTY_PATH), SucceedsWith(0));
  EXPECT_EQ(empty.st_ino, by_path.st_ino);
}

TEST_F(Files, StatErrors) {
  struct stat result;
  EXPECT_THAT(stat(dir_.file("none").c_str(), &result), FailsWith(ENOENT));
  EXPECT_THAT(stat("", &result), FailsWith(ENOENT));
  EXPECT_THAT(fstat(-1, &result), FailsWith(EBADF));
  GuardedPages pages;
  const char* root = "/";
  EXPECT_THAT(syscall(SYS_stat, root, pages.one_past<struct stat>()), FailsWith(EFAULT));
  EXPECT_THAT(syscall(SYS_stat, root, pages.one_before<struct stat>()), FailsWith(EFAULT));
  EXPECT_THAT(syscall(SYS_stat, root, pages.last<struct stat>()), SucceedsWith(0));
  EXPECT_THAT(syscall(SYS_stat, bad_pointer(), &result), FailsWith(EFAULT));
  EXPECT_THAT(fstatat(AT_FDCWD, "/", &result, 0x4000'0000), FailsWith(EINVAL));
}

TEST_F(Files, StatxAgreesWithStat) {
  write_file(path_, "1234567");
  struct statx extended = {};
  ASSERT_THAT(statx(AT_FDCWD, path_.c_str(), 0, STATX_BASIC_STATS, &extended), SucceedsWith(0));
  const struct stat plain = stat_of(path_);
  EXPECT_EQ(extended.stx_size, 7u);
  EXPECT_EQ(extended.stx_ino, plain.st_ino);
  EXPECT_EQ(extended.stx_mode, plain.st_mode);
  EXPECT_EQ(extended.stx_mask & STATX_BASIC_STATS, STATX_BASIC_STATS);
  EXPECT_THAT(statx(AT_FDCWD, path_.c_str(), 0, STATX__RESERVED, &extended), FailsWith(EINVAL));
}

TEST_F(Files, SeekWhences) {
  write_file(path_, std::string(100, 's'));
  UniqueFd fd = must_open(path_, O_RDWR);
  EXPECT_THAT(lseek(fd.get(), 10, SEEK_SET), SucceedsWith(10));
  EXPECT_THAT(lseek(fd.get(), 5, SEEK_CUR), SucceedsWith(15));
  EXPECT_THAT(lseek(fd.get(), -1, SEEK_END), SucceedsWith(99));
  EXPECT_THAT(lseek(fd.get(), 1000, SEEK_END), SucceedsWith(1100));
  EXPECT_THAT(lseek(fd.get(), -1, SEEK_SET), FailsWith(EINVAL));
  EXPECT_THAT(lseek(fd.get(), -2000, SEEK_CUR), FailsWith(EINVAL));
  EXPECT_THAT(lseek(fd.get(), 0, 99), FailsWith(EINVAL));
  EXPECT_THAT(lseek(fd.get(), LLONG_MAX, SEEK_CUR), Fails());
  EXPECT_THAT(lseek(fd.get(), 0, SEEK_CUR), SucceedsWith(1100));
  EXPECT_THAT(lseek(-1, 0, SEEK_SET), FailsWith(EBADF));
  EXPECT_THAT(lseek(fd.get(), 0, SEEK_DATA), SucceedsWith(0));
  EXPECT_THAT(lseek(fd.get(), 0, SEEK_HOLE), SucceedsWith(100));
  EXPECT_THAT(lseek(fd.get(), 100, SEEK_DATA), FailsWith(ENXIO));
}

TEST_F(Files, WritePastTheEndLeavesZeros) {
  UniqueFd fd = must_open(path_, O_RDWR | O_CREAT);
  EXPECT_THAT(pwrite(fd.get(), "end", 3, 10'000), SucceedsWith(3));
  const std::string bytes = read_file(path_);
  EXPECT_EQ(bytes.size(), 10'003u);
  EXPECT_EQ(bytes.find_first_not_of('\0'), 10'000u);
}

TEST_F(Files, Truncate) {
  write_file(path_, "0123456789");
  EXPECT_THAT(truncate(path_.c_str(), 4), SucceedsWith(0));
  EXPECT_EQ(read_file(path_), "0123");
  EXPECT_THAT(truncate(path_.c_str(), 6), SucceedsWith(0));
  EXPECT_EQ(read_file(path_), std::string("0123\0\0", 6));
  EXPECT_THAT(truncate(path_.c_str(), -1), FailsWith(EINVAL));
  EXPECT_THAT(truncate(dir_.path().c_str(), 0), FailsWith(EISDIR));
  EXPECT_THAT(truncate(dir_.file("none").c_str(), 0), FailsWith(ENOENT));
  UniqueFd read_only = must_open(path_, O_RDONLY);
  EXPECT_THAT(ftruncate(read_only.get(), 0), FailsWith(EINVAL));
  EXPECT_THAT(ftruncate(-1, 0), FailsWith(EBADF));
  UniqueFd writable = must_open(path_, O_WRONLY);
  EXPECT_THAT(ftruncate(writable.get(), 1), SucceedsWith(0));
  EXPECT_EQ(read_file(path_), "0");
}

TEST_F(Files, AccessChecks) {
  write_file(path_, "x", 0600);
  EXPECT_THAT(access(path_.c_str(), F_OK), SucceedsWith(0));
  EXPECT_THAT(access(path_.c_str(), R_OK | W_OK), SucceedsWith(0));
  // Even root may not execute what nobody may.
  EXPECT_THAT(access(path_.c_str(), X_OK), FailsWith(EACCES));
  EXPECT_THAT(access(dir_.file("none").c_str(), F_OK), FailsWith(ENOENT));
  EXPECT_THAT(access(path_.c_str(), 077), FailsWith(EINVAL));
  EXPECT_THAT(access(bad_pointer_to<char>(), F_OK), FailsWith(EFAULT));
  EXPECT_THAT(faccessat(AT_FDCWD, path_.c_str(), R_OK, AT_EACCESS), SucceedsWith(0));
}

TEST_F(Files, UmaskAppliesToNewFiles) {
  const mode_t before = umask(027);
  EXPECT_EQ(umask(027), 027u);
  write_file(path_, "x", 0666);
  must(mkdir(dir_.file("d").c_str(), 0777), "mkdir");
  EXPECT_EQ(stat_of(path_).st_mode & 07777, 0640u);
  EXPECT_EQ(stat_of(dir_.file("d")).st_mode & 07777, 0750u);
  umask(0177777);
  EXPECT_EQ(umask(before), 0777u);
  Child child = Child::run([&] {
    umask(0111);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
  EXPECT_EQ(umask(before), before);
}

TEST_F(Files, ChmodChangesModeBits) {
  write_file(path_, "x", 0600);
  EXPECT_THAT(chmod(path_.c_str(), 04755), SucceedsWith(0));
  EXPECT_EQ(stat_of(path_).st_mode & 07777, 04755u);
  UniqueFd fd = must_open(path_, O_RDONLY);
  EXPECT_THAT(fchmod(fd.get(), 0600), SucceedsWith(0));
  EXPECT_EQ(stat_of(path_).st_mode & 07777, 0600u);
  EXPECT_THAT(chmod(dir_.file("none").c_str(), 0600), FailsWith(ENOENT));
  EXPECT_THAT(fchmod(-1, 0600), FailsWith(EBADF));
}

TEST_F(Files, TimesAreSetAndMove) {
  write_file(path_, "x");
  timespec times[2] = {{1'000'000, 1000}, {2'000'000, 2000}};
  EXPECT_THAT(utimensat(AT_FDCWD, path_.c_str(), times, 0), SucceedsWith(0));
  EXPECT_EQ(stat_of(path_).st_atim.tv_sec, 1'000'000);
  EXPECT_EQ(stat_of(path_).st_mtim.tv_sec, 2'000'000);
  times[0].tv_nsec = UTIME_OMIT;
  times[1].tv_nsec = UTIME_NOW;
  EXPECT_THAT(utimensat(AT_FDCWD, path_.c_str(), times, 0), SucceedsWith(0));
  EXPECT_EQ(stat_of(path_).st_atim.tv_sec, 1'000'000);
  EXPECT_GT(stat_of(path_).st_mtim.tv_sec, 1'600'000'000);
  times[0].tv_nsec = 1'000'000'000;
  EXPECT_THAT(utimensat(AT_FDCWD, path_.c_str(), times, 0), FailsWith(EINVAL));
  const struct stat before = stat_of(path_);
  sleep_ms(12);
  UniqueFd fd = must_open(path_, O_WRONLY);
  write_all(fd.get(), "y");
  EXPECT_GT(to_ns(stat_of(path_).st_mtim), to_ns(before.st_mtim));
  EXPECT_GT(to_ns(stat_of(path_).st_ctim), to_ns(before.st_ctim));
}

TEST_F(Files, ChdirAndGetcwd) {
  char before[PATH_MAX];
  ASSERT_NE(getcwd(before, sizeof(before)), nullptr);
  const std::string sub = dir_.file("sub");
  must(mkdir(sub.c_str(), 0755), "mkdir");
  EXPECT_THAT(chdir(sub.c_str()), SucceedsWith(0));
  char now[PATH_MAX];
  EXPECT_THAT(syscall(SYS_getcwd, now, sizeof(now)), SucceedsWith(sub.size() + 1));
  EXPECT_EQ(now, sub);
  write_file("relative", "r");
  EXPECT_EQ(read_file(sub + "/relative"), "r");
  EXPECT_THAT(chdir(".."), SucceedsWith(0));
  EXPECT_EQ(getcwd(now, sizeof(now)), dir_.path());
  UniqueFd dir = must_open(sub, O_RDONLY | O_DIRECTORY);
  EXPECT_THAT(fchdir(dir.get()), SucceedsWith(0));
  EXPECT_EQ(getcwd(now, sizeof(now)), sub);
  EXPECT_THAT(syscall(SYS_getcwd, now, sub.size()), FailsWith(ERANGE));
  EXPECT_THAT(syscall(SYS_getcwd, bad_pointer(), 100), FailsWith(EFAULT));
  EXPECT_THAT(chdir(dir_.file("none").c_str()), FailsWith(ENOENT));
  EXPECT_THAT(chdir((sub + "/relative").c_str()), FailsWith(ENOTDIR));
  EXPECT_THAT(fchdir(-1), FailsWith(EBADF));
  // A removed directory has no path any more.
  must(unlink("relative"), "unlink");
  must(rmdir(sub.c_str()), "rmdir");
  EXPECT_THAT(syscall(SYS_getcwd, now, sizeof(now)), FailsWith(ENOENT));
  EXPECT_THAT(open("new", O_CREAT | O_RDWR, 0600), FailsWith(ENOENT));
  must(chdir(before), "chdir");
}

TEST_F(Files, RootsParentIsRoot) {
  struct stat root, above;
  must(stat("/", &root), "stat");
  must(stat("/../..", &above), "stat");
  EXPECT_EQ(root.st_ino, above.st_ino);
}

TEST_F(Files, UnprivilegedPermissions) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root to change to another user";
  write_file(path_, "secret", 0600);
  must(chmod(dir_.path().c_str(), 0755), "chmod");
  Child child = Child::run([&] {
    REQUIRE(setresgid(12'345, 12'345, 12'345) == 0);
    REQUIRE(setresuid(12'345, 12'345, 12'345) == 0);
    REQUIRE(open(path_.c_str(), O_RDONLY) == -1 && errno == EACCES);
    REQUIRE(access(path_.c_str(), R_OK) == -1 && errno == EACCES);
    REQUIRE(chmod(path_.c_str(), 0666) == -1 && errno == EPERM);
    REQUIRE(open(dir_.file("mine").c_str(), O_CREAT | O_RDWR, 0600) == -1 && errno == EACCES);
    REQUIRE(unlink(path_.c_str()) == -1 && errno == EACCES);
    struct stat seen;
    REQUIRE(stat(path_.c_str(), &seen) == 0);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

TEST_F(Files, ExclusiveCreateHasOneWinner) {
  for (int round = 0; round < 50; ++round) {
    std::atomic<int> winners = 0;
    const std::string name = dir_.file("race" + std::to_string(round));
    auto contend = [&] {
      UniqueFd fd(open(name.c_str(), O_CREAT | O_EXCL | O_RDWR, 0600));
      if (fd.valid()) ++winners;
    };
    std::thread one(contend), two(contend);
    one.join();
    two.join();
    EXPECT_EQ(winners, 1);
  }
}

}  // namespace
}  // namespace caisson::test
