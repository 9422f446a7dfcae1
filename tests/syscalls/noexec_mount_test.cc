// Files on a mount with noexec and nosuid: what may still be done with them. with_noexec_mount.sh
// mounts it and says where; the files come in afterwards.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/util/child.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"
#include "tests/util/program.h"
#include "tests/util/temp_dir.h"

namespace caisson::test {
namespace {

class NoexecMount : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* from = getenv("CAISSON_NOEXEC_DIR");
    if (from == nullptr) GTEST_SKIP() << "with_noexec_mount.sh did not run";
    dir_ = from;
  }
  std::string file(const std::string& name, const std::string& content, mode_t mode = 0755) {
    const std::string path = dir_ + "/" + name;
    unlink(path.c_str());
    write_file(path, content, mode);
    must(chmod(path.c_str(), mode), "chmod");
    return path;
  }
  std::string dir_;
};

std::string printer() {
  const std::string& path = program_path();
  return path.substr(0, path.rfind('/') + 1) + "exec_probe";
}

// 200 + errno when exec fails.
int run(const std::string& path, std::vector<std::string> arguments = {"x", "exit", "3"}) {
  return Child::run([&] {
           const auto argv = exec_vector(arguments);
           UniqueFd null = must_open("/dev/null", O_WRONLY);
           dup2(null.get(), 1);
           execv(path.c_str(), argv.data());
           return 200 + errno;
         })
      .wait();
}

TEST_F(NoexecMount, ProgramsDoNotRun) {
  const std::string program = file("program", read_file(printer()));
  EXPECT_THAT(run(printer()), ExitedWith(3));
  EXPECT_THAT(run(program), ExitedWith(200 + EACCES));
  UniqueFd fd = must_open(program, O_RDONLY);
  char* const argv[] = {const_cast<char*>("x"), nullptr};
  EXPECT_THAT(syscall(SYS_execveat, fd.get(), "", argv, nullptr, AT_EMPTY_PATH), FailsWith(EACCES));
  // Not by another name either.
  TempDir elsewhere;
  const std::string link = elsewhere.file("link");
  must(symlink(program.c_str(), link.c_str()), "symlink");
  EXPECT_THAT(run(link), ExitedWith(200 + EACCES));
  // A copy elsewhere is another file.
  const std::string copy = elsewhere.file("copy");
  write_file(copy, read_file(program), 0755);
  EXPECT_THAT(run(copy), ExitedWith(3));
}

TEST_F(NoexecMount, SubdirectoriesBelong) {
  const std::string sub = dir_ + "/sub";
  if (mkdir(sub.c_str(), 0755) != 0) {
    ASSERT_EQ(errno, EEXIST);
  }
  EXPECT_THAT(run(file("sub/program", read_file(printer()))), ExitedWith(200 + EACCES));
}

TEST_F(NoexecMount, AccessSaysSo) {
  const std::string program = file("program", read_file(printer()));
  EXPECT_THAT(access(program.c_str(), X_OK), FailsWith(EACCES));
  EXPECT_THAT(access(program.c_str(), R_OK), SucceedsWith(0));
  EXPECT_THAT(access(dir_.c_str(), X_OK), SucceedsWith(0));  // directories are searched
  struct statvfs mount;
  must(statvfs(program.c_str(), &mount), "statvfs");
  EXPECT_EQ(mount.f_flag & (ST_NOEXEC | ST_NOSUID), static_cast<unsigned>(ST_NOEXEC | ST_NOSUID));
}

TEST_F(NoexecMount, ScriptsAreReadNotRun) {
  const std::string script = file("script", "#!" + printer() + " exit 3\n");
  EXPECT_THAT(run(script), ExitedWith(200 + EACCES));
  // An interpreter there runs for no script, wherever that lies.
  const std::string program = file("program", read_file(printer()));
  TempDir elsewhere;
  write_file(elsewhere.file("script"), "#!" + program + "\n", 0755);
  EXPECT_THAT(run(elsewhere.file("script")), ExitedWith(200 + EACCES));
  // As an argument it is a file to read.
  EXPECT_THAT(run("/bin/sh", {"sh", file("exits", "exit 4\n", 0644)}), ExitedWith(4));
}

TEST_F(NoexecMount, MappingsStayWithoutExecution) {
  const std::string path = file("data", std::string(2 * kPageSize, 'd'));
  UniqueFd fd = must_open(path, O_RDWR);
  for (int kind : {MAP_PRIVATE, MAP_SHARED}) {
    EXPECT_THAT(
        mmap(nullptr, kPageSize, PROT_READ | PROT_EXEC, kind, fd.get(), 0) == MAP_FAILED ? -1 : 0,
        FailsWith(EPERM));
    Mapping mapping = Mapping::map(2 * kPageSize, PROT_READ, kind, fd.get(), 0);
    EXPECT_THAT(mprotect(mapping.address(), kPageSize, PROT_READ | PROT_EXEC), FailsWith(EACCES));
    EXPECT_THAT(mprotect(mapping.address(), kPageSize, PROT_READ | PROT_WRITE), SucceedsWith(0));
    EXPECT_EQ(mapping.address()[0], 'd');
  }
  // Private copies count as the file.
  Mapping copy = Mapping::map(kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd.get(), 0);
  copy.address()[0] = 'c';
  EXPECT_THAT(mprotect(copy.address(), kPageSize, PROT_EXEC), FailsWith(EACCES));
}

TEST_F(NoexecMount, SetIdBitsMeanNothingOnANosuidMount) {
  constexpr uid_t kOther = 65534;
  TempDir elsewhere;
  const std::string there = elsewhere.file("exec_probe");
  write_file(there, read_file(printer()), 0755);
  const std::string here = file("nosuid/exec_probe", read_file(printer()));
  if (geteuid() != 0 || chown(there.c_str(), kOther, kOther) != 0)
    GTEST_SKIP() << "needs root, and a second id";
  must(chown(here.c_str(), kOther, kOther), "chown");
  for (const std::string& path : {there, here}) must(chmod(path.c_str(), 06755), "chmod");
  struct stat status {};
  must(stat(here.c_str(), &status), "stat");
  EXPECT_EQ(status.st_mode & 07777, 06755u);  // they are there
  EXPECT_THAT(run(here, {"x", "ids"}), ExitedWith(0));
  struct statvfs mount {};
  must(statvfs(there.c_str(), &mount), "statvfs");
  if ((mount.f_flag & ST_NOSUID) == 0) {
    EXPECT_THAT(run(there, {"x", "ids"}), ExitedWith(1 | 2 | 4));
  }
}

TEST(NoexecProc, FilesOfProcAreNeverExecutable) {
  UniqueFd fd = must_open("/proc/self/maps", O_RDONLY);
  auto map = [&](int prot) {
    return mmap(nullptr, kPageSize, prot, MAP_PRIVATE, fd.get(), 0) == MAP_FAILED ? -1 : 0;
  };
  EXPECT_THAT(map(PROT_READ), FailsWith(ENODEV));
  // Whatever its mount says.
  EXPECT_THAT(map(PROT_READ | PROT_EXEC), FailsWith(EPERM));
  EXPECT_THAT(run("/proc/self/maps"), ExitedWith(200 + EACCES));
}

}  // namespace
}  // namespace caisson::test
