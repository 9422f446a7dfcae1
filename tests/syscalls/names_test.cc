// mkdir, rmdir, unlink, rename, link, symlink, readlink, getdents64: the name space.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <set>
#include <thread>

#include "tests/util/child.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"
#include "tests/util/temp_dir.h"

namespace caisson::test {
namespace {

class Names : public ::testing::Test {
 protected:
  std::string at(const std::string& name) { return dir_.file(name); }
  int make_dir(const std::string& name) { return mkdir(at(name).c_str(), 0755); }
  bool exists(const std::string& name) {
    struct stat unused;
    return lstat(at(name).c_str(), &unused) == 0;
  }
  nlink_t links(const std::string& name) {
    struct stat result;
    must(lstat(at(name).c_str(), &result), "lstat");
    return result.st_nlink;
  }
  TempDir dir_;
};

TEST_F(Names, MkdirAndRmdir) {
  EXPECT_THAT(make_dir("d"), SucceedsWith(0));
  EXPECT_THAT(make_dir("d"), FailsWith(EEXIST));
  EXPECT_THAT(make_dir("none/d"), FailsWith(ENOENT));
  EXPECT_THAT(make_dir("d/e"), SucceedsWith(0));
  EXPECT_THAT(rmdir(at("d").c_str()), FailsWith(ENOTEMPTY));
  EXPECT_THAT(rmdir(at("d/e/.").c_str()), FailsWith(EINVAL));
  EXPECT_THAT(rmdir(at("d/e/..").c_str()), FailsWith(ENOTEMPTY));
  EXPECT_THAT(rmdir(at("d/e/").c_str()), SucceedsWith(0));
  EXPECT_THAT(rmdir(at("d").c_str()), SucceedsWith(0));
  EXPECT_THAT(rmdir(at("d").c_str()), FailsWith(ENOENT));
  EXPECT_THAT(rmdir("/"), Fails());
  write_file(at("f"), "");
  EXPECT_THAT(rmdir(at("f").c_str()), FailsWith(ENOTDIR));
  EXPECT_THAT(make_dir("f/x"), FailsWith(ENOTDIR));
  EXPECT_THAT(mkdir(bad_pointer_to<char>(), 0755), FailsWith(EFAULT));
  EXPECT_THAT(make_dir("trailing/"), SucceedsWith(0));
}

TEST_F(Names, UnlinkRules) {
  write_file(at("f"), "x");
  make_dir("d");
  EXPECT_THAT(unlink(at("d").c_str()), FailsWith(EISDIR));
  EXPECT_THAT(unlink(at("none").c_str()), FailsWith(ENOENT));
  EXPECT_THAT(unlink(at("f/").c_str()), FailsWith(ENOTDIR));
  EXPECT_THAT(unlink(at("f").c_str()), SucceedsWith(0));
  EXPECT_FALSE(exists("f"));
  EXPECT_THAT(unlinkat(AT_FDCWD, at("d").c_str(), AT_REMOVEDIR), SucceedsWith(0));
  EXPECT_THAT(unlinkat(AT_FDCWD, at("d").c_str(), 0x1), FailsWith(EINVAL));
}

TEST_F(Names, UnlinkedFileLivesWhileOpen) {
  write_file(at("f"), "alive");
  UniqueFd fd = must_open(at("f"), O_RDWR);
  must(unlink(at("f").c_str()), "unlink");
  EXPECT_EQ(read_all(fd.get()), "alive");
  struct stat result;
  must(fstat(fd.get(), &result), "fstat");
  EXPECT_EQ(result.st_nlink, 0u);
  write_file(at("f"), "other");
  lseek(fd.get(), 0, SEEK_SET);
  EXPECT_EQ(read_all(fd.get()), "alive");
}

TEST_F(Names, RenameFiles) {
  write_file(at("a"), "A");
  write_file(at("b"), "B");
  EXPECT_THAT(rename(at("a").c_str(), at("b").c_str()), SucceedsWith(0));
  EXPECT_EQ(read_file(at("b")), "A");
  EXPECT_FALSE(exists("a"));
  EXPECT_THAT(rename(at("a").c_str(), at("c").c_str()), FailsWith(ENOENT));
  EXPECT_THAT(rename(at("b").c_str(), at("b").c_str()), SucceedsWith(0));
  must(link(at("b").c_str(), at("hard").c_str()), "link");
  // Two names of one file: nothing happens.
  EXPECT_THAT(rename(at("b").c_str(), at("hard").c_str()), SucceedsWith(0));
  EXPECT_TRUE(exists("b"));
}

TEST_F(Names, RenameDirectories) {
  make_dir("d");
  write_file(at("d/f"), "x");
  make_dir("empty");
  make_dir("full");
  write_file(at("full/f"), "x");
  write_file(at("file"), "x");
  auto move = [&](const char* from, const char* to) {
    return rename(at(from).c_str(), at(to).c_str());
  };
  EXPECT_THAT(move("d", "d/inside"), FailsWith(EINVAL));
  EXPECT_THAT(move("d", "full"), FailsWith(ENOTEMPTY));
  EXPECT_THAT(move("d", "file"), FailsWith(ENOTDIR));
  EXPECT_THAT(move("file", "empty"), FailsWith(EISDIR));
  EXPECT_THAT(move("d", "empty"), SucceedsWith(0));
  EXPECT_EQ(read_file(at("empty/f")), "x");
  EXPECT_THAT(move("empty", "full/moved"), SucceedsWith(0));
  // ".." follows the directory.
  EXPECT_EQ(read_file(at("full/moved/../f")), "x");
}

TEST_F(Names, Renameat2Flags) {
  write_file(at("a"), "A");
  write_file(at("b"), "B");
  auto move = [&](unsigned flags) {
    return syscall(SYS_renameat2, AT_FDCWD, at("a").c_str(), AT_FDCWD, at("b").c_str(), flags);
  };
  EXPECT_THAT(move(RENAME_NOREPLACE), FailsWith(EEXIST));
  EXPECT_THAT(move(RENAME_EXCHANGE), SucceedsWith(0));
  EXPECT_EQ(read_file(at("a")), "B");
  EXPECT_THAT(move(RENAME_EXCHANGE | RENAME_NOREPLACE), FailsWith(EINVAL));
  EXPECT_THAT(move(1u << 20), FailsWith(EINVAL));
}

TEST_F(Names, HardLinks) {
  write_file(at("f"), "x");
  EXPECT_THAT(link(at("f").c_str(), at("g").c_str()), SucceedsWith(0));
  EXPECT_EQ(links("f"), 2u);
  EXPECT_THAT(link(at("f").c_str(), at("g").c_str()), FailsWith(EEXIST));
  EXPECT_THAT(link(at("none").c_str(), at("h").c_str()), FailsWith(ENOENT));
  make_dir("d");
  EXPECT_THAT(link(at("d").c_str(), at("h").c_str()), FailsWith(EPERM));
  write_file(at("g"), "through g");
  EXPECT_EQ(read_file(at("f")), "through g");
  must(unlink(at("f").c_str()), "unlink");
  EXPECT_EQ(links("g"), 1u);
  // A link to a symlink links the symlink itself unless told to follow.
  must(symlink("g", at("s").c_str()), "symlink");
  EXPECT_THAT(linkat(AT_FDCWD, at("s").c_str(), AT_FDCWD, at("s2").c_str(), 0), SucceedsWith(0));
  EXPECT_THAT(linkat(AT_FDCWD, at("s").c_str(), AT_FDCWD, at("g2").c_str(), AT_SYMLINK_FOLLOW),
              SucceedsWith(0));
  EXPECT_EQ(links("g"), 2u);
}

TEST_F(Names, Symlinks) {
  write_file(at("target"), "T");
  EXPECT_THAT(symlink("target", at("s").c_str()), SucceedsWith(0));
  EXPECT_THAT(symlink("target", at("s").c_str()), FailsWith(EEXIST));
  EXPECT_THAT(symlink("", at("empty").c_str()), FailsWith(ENOENT));
  EXPECT_EQ(read_file(at("s")), "T");
  char buffer[64] = {};
  EXPECT_THAT(readlink(at("s").c_str(), buffer, sizeof(buffer)), SucceedsWith(6));
  EXPECT_STREQ(buffer, "target");
  EXPECT_THAT(readlink(at("s").c_str(), buffer, 3), SucceedsWith(3));
  EXPECT_THAT(readlink(at("s").c_str(), buffer, 0), FailsWith(EINVAL));
  EXPECT_THAT(readlink(at("target").c_str(), buffer, 9), FailsWith(EINVAL));
  EXPECT_THAT(readlink(at("none").c_str(), buffer, 9), FailsWith(ENOENT));
  EXPECT_THAT(readlink(at("s").c_str(), bad_pointer_to<char>(), 9), FailsWith(EFAULT));
  struct stat result;
  must(lstat(at("s").c_str(), &result), "lstat");
  EXPECT_TRUE(S_ISLNK(result.st_mode));
  EXPECT_EQ(result.st_size, 6);
  EXPECT_THAT(open(at("s").c_str(), O_RDONLY | O_NOFOLLOW), FailsWith(ELOOP));
  EXPECT_THAT(open(at("s").c_str(), O_CREAT | O_EXCL | O_RDWR, 0600), FailsWith(EEXIST));
}

TEST_F(Names, SymlinkChainsAndLoops) {
  must(symlink("loop2", at("loop1").c_str()), "symlink");
  must(symlink("loop1", at("loop2").c_str()), "symlink");
  EXPECT_THAT(open(at("loop1").c_str(), O_RDONLY), FailsWith(ELOOP));
  write_file(at("l0"), "end");
  for (int i = 1; i <= 41; ++i) {
    must(symlink(("l" + std::to_string(i - 1)).c_str(), at("l" + std::to_string(i)).c_str()),
         "symlink");
  }
  EXPECT_THAT(access(at("l40").c_str(), F_OK), SucceedsWith(0));
  EXPECT_THAT(access(at("l41").c_str(), F_OK), FailsWith(ELOOP));
  // Dangling: created through the link.
  must(symlink("made", at("dangling").c_str()), "symlink");
  EXPECT_THAT(access(at("dangling").c_str(), F_OK), FailsWith(ENOENT));
  write_file(at("dangling"), "new");
  EXPECT_EQ(read_file(at("made")), "new");
}

TEST_F(Names, SymlinkInTheMiddle) {
  make_dir("d");
  write_file(at("d/f"), "deep");
  must(symlink(dir_.path().c_str(), at("d/up").c_str()), "symlink");
  EXPECT_EQ(read_file(at("d/up/d/up/d/f")), "deep");
  must(symlink("d", at("s").c_str()), "symlink");
  EXPECT_EQ(read_file(at("s/f")), "deep");
  // A trailing slash follows.
  struct stat result;
  must(lstat(at("s/").c_str(), &result), "lstat");
  EXPECT_TRUE(S_ISDIR(result.st_mode));
}

std::multiset<std::string> list(const std::string& path) {
  std::multiset<std::string> names;
  DIR* dir = opendir(path.c_str());
  if (dir == nullptr) must(-1, "opendir");
  while (const dirent* entry = readdir(dir)) names.insert(entry->d_name);
  closedir(dir);
  return names;
}

TEST_F(Names, DirectoryListing) {
  std::multiset<std::string> expected = {".", ".."};
  for (int i = 0; i < 300; ++i) {
    const std::string name = "entry" + std::to_string(i);
    write_file(at(name), "");
    expected.insert(name);
  }
  EXPECT_EQ(list(dir_.path()), expected);
  must(unlink(at("entry7").c_str()), "unlink");
  expected.erase("entry7");
  EXPECT_EQ(list(dir_.path()), expected);
}

TEST_F(Names, GetdentsRecords) {
  write_file(at("f"), "");
  make_dir("d");
  must(symlink("f", at("s").c_str()), "symlink");
  UniqueFd fd = must_open(dir_.path(), O_RDONLY | O_DIRECTORY);
  alignas(8) char buffer[4096];
  long bytes = syscall(SYS_getdents64, fd.get(), buffer, sizeof(buffer));
  ASSERT_THAT(bytes, Succeeds());
  int count = 0;
  for (long at_byte = 0; at_byte < bytes; ++count) {
    auto* entry = reinterpret_cast<dirent64*>(buffer + at_byte);
    EXPECT_EQ(entry->d_reclen % 8, 0);
    const std::string name = entry->d_name;
    if (name == "f") {
      EXPECT_EQ(entry->d_type, DT_REG);
    }
    if (name == "d") {
      EXPECT_EQ(entry->d_type, DT_DIR);
    }
    if (name == "s") {
      EXPECT_EQ(entry->d_type, DT_LNK);
    }
    if (name == "f") {
      struct stat result;
      must(stat(at("f").c_str(), &result), "stat");
      EXPECT_EQ(entry->d_ino, result.st_ino);
    }
    at_byte += entry->d_reclen;
  }
  EXPECT_EQ(count, 5);
  EXPECT_THAT(syscall(SYS_getdents64, fd.get(), buffer, sizeof(buffer)), SucceedsWith(0));
  lseek(fd.get(), 0, SEEK_SET);
  EXPECT_THAT(syscall(SYS_getdents64, fd.get(), buffer, 8), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_getdents64, fd.get(), bad_pointer(), 4096), FailsWith(EFAULT));
  UniqueFd file = must_open(at("f"), O_RDONLY);
  EXPECT_THAT(syscall(SYS_getdents64, file.get(), buffer, sizeof(buffer)), FailsWith(ENOTDIR));
  EXPECT_THAT(syscall(SYS_getdents64, -1, buffer, sizeof(buffer)), FailsWith(EBADF));
}

TEST_F(Names, SmallBuffersSeeEachEntryOnce) {
  std::multiset<std::string> expected = {".", ".."}, seen;
  for (int i = 0; i < 50; ++i) {
    const std::string name = "n" + std::to_string(i);
    write_file(at(name), "");
    expected.insert(name);
  }
  UniqueFd fd = must_open(dir_.path(), O_RDONLY | O_DIRECTORY);
  alignas(8) char buffer[64];
  long bytes;
  while ((bytes = must(syscall(SYS_getdents64, fd.get(), buffer, sizeof(buffer)), "getdents64"))) {
    for (long at_byte = 0; at_byte < bytes;) {
      auto* entry = reinterpret_cast<dirent64*>(buffer + at_byte);
      seen.insert(entry->d_name);
      at_byte += entry->d_reclen;
    }
  }
  EXPECT_EQ(seen, expected);
}

TEST_F(Names, DirectoryLinkCounts) {
  make_dir("d");
  const nlink_t before = links("d");
  if (before < 2) GTEST_SKIP() << "this filesystem doesn't count subdirectories";
  make_dir("d/sub");
  EXPECT_EQ(links("d"), before + 1);
  must(rmdir(at("d/sub").c_str()), "rmdir");
  EXPECT_EQ(links("d"), before);
}

TEST_F(Names, MknodMakesFifosAndFiles) {
  EXPECT_THAT(mknod(at("fifo").c_str(), S_IFIFO | 0600, 0), SucceedsWith(0));
  EXPECT_THAT(mknod(at("file").c_str(), S_IFREG | 0600, 0), SucceedsWith(0));
  EXPECT_THAT(mknod(at("fifo").c_str(), S_IFIFO | 0600, 0), FailsWith(EEXIST));
  EXPECT_THAT(mknod(at("bad").c_str(), S_IFDIR | 0600, 0), FailsWith(EPERM));
  struct stat result;
  must(stat(at("fifo").c_str(), &result), "stat");
  EXPECT_TRUE(S_ISFIFO(result.st_mode));
}

TEST_F(Names, RacingRenamesKeepOneName) {
  write_file(at("x"), "token");
  std::atomic<bool> stop = false;
  std::thread flipper([&] {
    for (int i = 0; i < 500; ++i) {
      rename(at("x").c_str(), at("y").c_str());
      rename(at("y").c_str(), at("x").c_str());
    }
    stop = true;
  });
  while (!stop) {
    const auto names = list(dir_.path());
    EXPECT_LE(names.size(), 4u);
  }
  flipper.join();
  EXPECT_EQ(read_file(at("x")), "token");
  EXPECT_FALSE(exists("y"));
}

TEST_F(Names, ChildSeesAndChangesSameTree) {
  Child child = Child::run([&] {
    write_file(at("from_child"), "c");
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
  EXPECT_EQ(read_file(at("from_child")), "c");
}

}  // namespace
}  // namespace caisson::test
