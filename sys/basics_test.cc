// The small calls: environment, files, limits, statuses, names and times.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <cstring>

#include "sys/test_support.h"

namespace caisson::sys {
namespace {

using test::is_root;
using test::shell;
using test::with_denied;

TEST(Environment, SetGetUnset) {
  EXPECT_EQ(getenv("CAISSON_SYS_A"), std::nullopt);
  ASSERT_TRUE(setenv("CAISSON_SYS_A", "1").ok());
  ASSERT_TRUE(setenv("CAISSON_SYS_B", "").ok());
  EXPECT_EQ(getenv("CAISSON_SYS_A"), "1");
  EXPECT_EQ(getenv("CAISSON_SYS_B"), "");
  ASSERT_TRUE(setenv("CAISSON_SYS_A", "x=y").ok());
  EXPECT_EQ(shell("echo $CAISSON_SYS_A").text, "x=y\n");
  ASSERT_TRUE(unsetenv("CAISSON_SYS_A").ok());
  ASSERT_TRUE(unsetenv("CAISSON_SYS_A").ok());
  EXPECT_EQ(getenv("CAISSON_SYS_A"), std::nullopt);
  EXPECT_EQ(shell("echo ${CAISSON_SYS_A-gone}${CAISSON_SYS_B-gone}").text, "gone\n");
  ASSERT_TRUE(unsetenv("CAISSON_SYS_B").ok());
  for (const std::string_view key :
       {std::string_view(""), std::string_view("A=B"), std::string_view("A\0B", 3)})
    EXPECT_EQ(setenv(key, "x").error(), Errno(EINVAL));
  EXPECT_EQ(setenv("A", std::string_view("\0", 1)).error(), Errno(EINVAL));
  EXPECT_EQ(unsetenv("").error(), Errno(EINVAL));
  EXPECT_EQ(getenv(""), std::nullopt);
}

TEST(Environment, ManyUnsetsKeepOrderAndValues) {
  const std::vector<std::string> before = environ();
  for (int i = 0; i < 500; ++i) ASSERT_TRUE(setenv("CAISSON_SYS_" + std::to_string(i), "v").ok());
  for (int i = 0; i < 500; ++i)
    if (i % 100 != 7) {
      ASSERT_TRUE(unsetenv("CAISSON_SYS_" + std::to_string(i)).ok());
    }
  std::vector<std::string> want = before;
  for (int i = 7; i < 500; i += 100) {
    want.push_back("CAISSON_SYS_" + std::to_string(i) + "=v");
    EXPECT_EQ(getenv("CAISSON_SYS_" + std::to_string(i)), "v");
  }
  EXPECT_EQ(environ(), want);
  for (int i = 7; i < 500; i += 100) ASSERT_TRUE(unsetenv("CAISSON_SYS_" + std::to_string(i)).ok());
  EXPECT_EQ(environ(), before);
}

TEST(Environment, ClearAndRestore) {
  const std::vector<std::string> before = environ();
  const auto snapshot = environment_snapshot();
  clearenv();
  EXPECT_TRUE(environ().empty());
  EXPECT_EQ(test::run("/usr/bin/env", {"env"}).text, "");
  EXPECT_EQ(snapshot->entries(), before);
  for (const std::string& entry : before) {
    const size_t equals = entry.find('=');
    ASSERT_TRUE(setenv(entry.substr(0, equals), entry.substr(equals + 1)).ok());
  }
  EXPECT_EQ(environ(), before);
}

// The first of two settings of one name counts; an entry without '=' stays.
TEST(Environment, OddEntriesOfTheStart) {
  ProcAttr attr;
  attr.env = {"K=first", "odd", "K=second", "=x"};
  EXPECT_EQ(test::run("/proc/self/exe", {"sys_test", "--print-environment"}, attr).text,
            "K=first\nodd\n=x\ngetenv K: first\n");
}

TEST(Files, OpenReadSeekClose) {
  std::byte buffer[4];
  const UniqueFd file = MUST(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(MUST(read(file.get(), buffer)), 4u);
  EXPECT_EQ(std::memcmp(buffer, "\177ELF", 4), 0);
  EXPECT_EQ(MUST(seek(file.get(), 1, SEEK_SET)), 1);
  EXPECT_EQ(MUST(read(file.get(), std::span(buffer).first(3))), 3u);
  EXPECT_EQ(std::memcmp(buffer, "ELF", 3), 0);
  EXPECT_EQ(seek(file.get(), -1, SEEK_SET).error(), Errno(EINVAL));
  EXPECT_EQ(open("/nowhere", O_RDONLY).error(), Errno(ENOENT));
  EXPECT_EQ(open(std::string_view("/tmp\0x", 6), O_RDONLY).error(), Errno(EINVAL));
  EXPECT_EQ(open(std::string(4096, 'x'), O_RDONLY).error(), Errno(ENAMETOOLONG));
  UniqueFd other = MUST(open("/dev/null", O_RDONLY));
  const int number = other.release();
  EXPECT_TRUE(close(number).ok());
  EXPECT_EQ(close(number).error(), Errno(EBADF));
  EXPECT_EQ(read(number, buffer).error(), Errno(EBADF));
}

TEST(Files, PipesAndFlags) {
  const Pipe plain = MUST(pipe());
  EXPECT_EQ(fcntl(plain.read_end.get(), F_GETFD), 0);
  EXPECT_TRUE(close_on_exec(plain.read_end.get()).ok());
  EXPECT_EQ(fcntl(plain.read_end.get(), F_GETFD), FD_CLOEXEC);
  std::byte buffer[4];
  EXPECT_TRUE(set_nonblock(plain.read_end.get(), true).ok());
  EXPECT_EQ(read(plain.read_end.get(), buffer).error(), Errno(EAGAIN));
  EXPECT_TRUE(set_nonblock(plain.read_end.get(), false).ok());
  EXPECT_EQ(fcntl(plain.read_end.get(), F_GETFL) & O_NONBLOCK, 0);
  const Pipe other = MUST(pipe2(O_CLOEXEC | O_NONBLOCK));
  EXPECT_EQ(fcntl(other.write_end.get(), F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(seek(other.read_end.get(), 0, SEEK_CUR).error(), Errno(ESPIPE));
  EXPECT_EQ(pipe2(1).error(), Errno(EINVAL));
  EXPECT_EQ(close_on_exec(-1).error(), Errno(EBADF));
  EXPECT_EQ(set_nonblock(-1, true).error(), Errno(EBADF));
  EXPECT_EQ(kStdin, STDIN_FILENO);
  EXPECT_EQ(kStdout, STDOUT_FILENO);
  EXPECT_EQ(kStderr, STDERR_FILENO);
}

TEST(Files, StatAndLstat) {
  EXPECT_TRUE(S_ISLNK(MUST(lstat("/proc/self")).st_mode));
  EXPECT_TRUE(S_ISDIR(MUST(stat("/proc/self")).st_mode));
  struct ::stat libc {};
  ASSERT_EQ(::stat("/etc/passwd", &libc), 0);
  const Stat ours = MUST(stat("/etc/passwd"));
  EXPECT_EQ(ours.st_ino, libc.st_ino);
  EXPECT_EQ(ours.st_size, libc.st_size);
  EXPECT_EQ(Timespec(ours.st_mtim).nano(), Timespec(libc.st_mtim).nano());
  EXPECT_EQ(stat("/nowhere").error(), Errno(ENOENT));
}

TEST(Files, AccessWithAndWithoutTheHostsCall) {
  char path[] = "/tmp/caisson-sys-XXXXXX";
  const UniqueFd file(mkstemp(path));
  const auto check = [&] {
    for (const int mode : {0000, 0100, 0200, 0400, 0500, 0644, 0077}) {
      ASSERT_EQ(fchmod(file.get(), static_cast<mode_t>(mode)), 0);
      for (uint32_t wanted = 0; wanted <= 7; ++wanted) {
        const auto plain = faccessat(AT_FDCWD, path, wanted, 0);
        const auto effective = faccessat(AT_FDCWD, path, wanted, AT_EACCESS);
        EXPECT_EQ(effective.ok(), plain.ok()) << mode << " " << wanted;
        if (!plain.ok()) {
          EXPECT_EQ(effective.error(), plain.error());
        }
        // Root may do all but execute what nobody may.
        const bool may = is_root() ? ((wanted & 1) == 0 || (mode & 0111) != 0)
                                   : (static_cast<uint32_t>(mode >> 6) & wanted) == wanted;
        EXPECT_EQ(plain.ok(), may) << mode << " " << wanted;
      }
    }
    EXPECT_TRUE(faccessat(AT_FDCWD, "/proc/self", 0, AT_SYMLINK_NOFOLLOW).ok());
    EXPECT_EQ(faccessat(AT_FDCWD, path, 0, 0x40000).error(), Errno(EINVAL));
    EXPECT_EQ(faccessat(AT_FDCWD, "/nowhere", 4, AT_EACCESS).error(), Errno(ENOENT));
    // A file of another owner and group.
    EXPECT_TRUE(faccessat(AT_FDCWD, "/etc/passwd", 4, AT_EACCESS).ok());
    EXPECT_EQ(faccessat(AT_FDCWD, "/etc/passwd", 2, AT_EACCESS).ok(), is_root());
  };
  check();
  EXPECT_TRUE(with_denied({{SYS_faccessat2, ENOSYS}}, check));
  EXPECT_TRUE(with_denied({{SYS_faccessat2, EPERM}}, check));
  // An error of the file, as an immutable one gives for writing, stays.
  ASSERT_EQ(fchmod(file.get(), 0600), 0);
  EXPECT_TRUE(with_denied({{SYS_faccessat2, EPERM, 2, 2}}, [&] {
    EXPECT_EQ(faccessat(AT_FDCWD, path, 2, AT_EACCESS).error(), Errno(EPERM));
    EXPECT_TRUE(faccessat(AT_FDCWD, path, 4, AT_EACCESS).ok());
  }));
  unlink(path);
}

TEST(Files, WorkingDirectory) {
  char buffer[4096];
  const size_t size = MUST(getcwd(buffer));
  const std::string directory = MUST(getwd());
  EXPECT_EQ(directory, std::string(buffer, size - 1));
  EXPECT_EQ(buffer[size - 1], '\0');
  EXPECT_EQ(getcwd(std::span(buffer).first(1)).error(), Errno(ERANGE));
}

TEST(ThisProcess, NumbersLimitsAndSignals) {
  EXPECT_EQ(getpid(), ::getpid());
  EXPECT_EQ(getpagesize(), ::getpagesize());
  const Rlimit before = MUST(getrlimit(RLIMIT_CORE));
  ASSERT_TRUE(setrlimit(RLIMIT_CORE, {0, before.max}).ok());
  EXPECT_EQ(MUST(getrlimit(RLIMIT_CORE)), (Rlimit{0, before.max}));
  EXPECT_EQ(shell("ulimit -c").text, "0\n");
  ASSERT_TRUE(setrlimit(RLIMIT_CORE, before).ok());
  EXPECT_EQ(setrlimit(RLIMIT_CORE, {2, 1}).error(), Errno(EINVAL));
  EXPECT_EQ(getrlimit(-1).error(), Errno(EINVAL));
  EXPECT_TRUE(kill(getpid(), 0).ok());
  EXPECT_EQ(kill(getpid(), 65).error(), Errno(EINVAL));
}

TEST(ThisProcess, ExecAndExit) {
  const auto in_child = [](auto function) {
    const pid_t pid = fork();
    if (pid == 0) {
      function();
      ::_exit(99);
    }
    return MUST(wait4(pid)).status.exit_status();
  };
  EXPECT_EQ(in_child([] { exec("/bin/sh", {"sh", "-c", "exit 5"}).ok(); }), 5);
  EXPECT_EQ(in_child([] { exec("/bin/sh", {"sh", "-c", "exit $A"}, {"A=6"}).ok(); }), 6);
  EXPECT_EQ(in_child([] { exit(7); }), 7);
  EXPECT_EQ(exec("/nowhere", {"x"}).error(), Errno(ENOENT));
  EXPECT_EQ(exec("/bin/true", {}).error(), Errno(EINVAL));
  EXPECT_EQ(exec(std::string("/bin\0", 5), {"x"}).error(), Errno(EINVAL));
  EXPECT_EQ(exec("/bin/true", {std::string("\0", 1)}).error(), Errno(EINVAL));
  EXPECT_EQ(exec("/bin/true", {"x"}, {std::string("\0", 1)}).error(), Errno(EINVAL));
}

TEST(Wait, StatusQueries) {
  const WaitStatus exited(0x2a00);
  EXPECT_TRUE(exited.exited());
  EXPECT_EQ(exited.exit_status(), 42);
  EXPECT_FALSE(exited.signaled() || exited.stopped() || exited.continued() || exited.core_dump());
  EXPECT_EQ(exited.signal(), Signal(-1));
  EXPECT_EQ(exited.stop_signal(), Signal(-1));
  EXPECT_EQ(exited.trap_cause(), -1);
  const WaitStatus dumped(0x80 | SIGSEGV);
  EXPECT_TRUE(dumped.signaled() && dumped.core_dump());
  EXPECT_EQ(dumped.signal(), Signal(SIGSEGV));
  EXPECT_EQ(dumped.exit_status(), -1);
  const WaitStatus stopped(SIGSTOP << 8 | 0x7f);
  EXPECT_TRUE(stopped.stopped());
  EXPECT_FALSE(stopped.signaled() || stopped.exited());
  EXPECT_EQ(stopped.stop_signal(), Signal(SIGSTOP));
  EXPECT_EQ(stopped.trap_cause(), -1);
  EXPECT_EQ(WaitStatus(6 << 16 | SIGTRAP << 8 | 0x7f).trap_cause(), 6);
  const WaitStatus continued(0xffff);
  EXPECT_TRUE(continued.continued());
  EXPECT_FALSE(continued.stopped() || continued.signaled() || continued.exited());
}

// All words of 17 bits against the C library's macros.
TEST(Wait, StatusAgreesWithTheCLibrary) {
  for (uint32_t word = 0; word < 0x20000; ++word) {
    const WaitStatus status(word);
    const int libc = static_cast<int>(word);
    ASSERT_EQ(status.exited(), WIFEXITED(libc)) << word;
    ASSERT_EQ(status.stopped(), WIFSTOPPED(libc)) << word;
    ASSERT_EQ(status.signaled(), WIFSIGNALED(libc)) << word;
    if (status.exited()) {
      ASSERT_EQ(status.exit_status(), WEXITSTATUS(libc));
    }
    if (status.signaled()) {
      ASSERT_EQ(status.signal().number(), WTERMSIG(libc));
    }
    if (status.signaled()) {
      ASSERT_EQ(status.core_dump(), WCOREDUMP(libc) != 0);
    }
    if (status.stopped()) {
      ASSERT_EQ(status.stop_signal().number(), WSTOPSIG(libc));
    }
  }
}

TEST(Wait, StopContinueAndUsage) {
  auto process = start_process("/bin/sleep", {"sleep", "100"});
  ASSERT_TRUE(process.ok());
  ASSERT_TRUE(process->kill(SIGSTOP).ok());
  EXPECT_EQ(MUST(wait4(process->pid(), WUNTRACED)).status.stop_signal(), Signal(SIGSTOP));
  ASSERT_TRUE(process->kill(SIGCONT).ok());
  EXPECT_TRUE(MUST(wait4(process->pid(), WCONTINUED)).status.continued());
  EXPECT_EQ(MUST(wait4(process->pid(), WNOHANG)).pid, 0);
  ASSERT_TRUE(process->kill(SIGKILL).ok());
  EXPECT_EQ(MUST(wait4(process->pid())).status.signal(), Signal(SIGKILL));
  EXPECT_EQ(wait4(process->pid()).error(), Errno(ECHILD));

  auto busy =
      start_process("/bin/sh", {"sh", "-c", "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done"});
  const WaitResult by_pidfd = MUST(busy->wait());
  EXPECT_GT(Timeval(by_pidfd.rusage.ru_utime).nano() + Timeval(by_pidfd.rusage.ru_stime).nano(), 0);
  EXPECT_GT(by_pidfd.rusage.ru_maxrss, 0);
}

TEST(Names, Signals) {
  EXPECT_EQ(Signal(SIGTERM).name(), "SIGTERM");
  EXPECT_EQ(Signal(SIGTERM).text(), "terminated");
  EXPECT_EQ(Signal(SIGSEGV).text(), "segmentation fault");
  EXPECT_EQ(Signal(SIGSYS).text(), "bad system call");
  EXPECT_EQ(Signal(34).name(), "SIGRTMIN");
  EXPECT_EQ(Signal(64).name(), "SIGRTMIN+30");
  for (const int number : {-1, 0, 32, 65}) {
    EXPECT_EQ(Signal(number).name(), "signal " + std::to_string(number));
    EXPECT_EQ(Signal(number).text(), "signal " + std::to_string(number));
  }
  EXPECT_EQ(Signal(SIGHUP).number(), 1);
}

TEST(Names, ErrorClasses) {
  EXPECT_EQ(message(Errno(ENOENT)), "No such file or directory");
  struct Case {
    ErrorClass kind;
    std::vector<int> errors;
  };
  for (const Case& c :
       {Case{ErrorClass::kPermission, {EACCES, EPERM}},
        Case{ErrorClass::kExist, {EEXIST, ENOTEMPTY}}, Case{ErrorClass::kNotExist, {ENOENT}},
        Case{ErrorClass::kUnsupported, {ENOSYS, ENOTSUP}}})
    for (int error = 0; error < 140; ++error)
      EXPECT_EQ(is(Errno(error), c.kind), std::count(c.errors.begin(), c.errors.end(), error) == 1);
  for (int error = 0; error < 140; ++error) {
    const bool timeout = error == EAGAIN || error == ETIMEDOUT;
    EXPECT_EQ(is_timeout(Errno(error)), timeout);
    EXPECT_EQ(is_temporary(Errno(error)),
              timeout || error == EINTR || error == EMFILE || error == ENFILE);
  }
}

TEST(Names, CloneFlags) {
  // The values of the kernel's interface, which never change.
  const std::vector<std::pair<std::string_view, uint64_t>> want = {
      {"CLONE_NEWTIME", 0x80},
      {"CLONE_VM", 0x100},
      {"CLONE_FS", 0x200},
      {"CLONE_FILES", 0x400},
      {"CLONE_SIGHAND", 0x800},
      {"CLONE_PIDFD", 0x1000},
      {"CLONE_PTRACE", 0x2000},
      {"CLONE_VFORK", 0x4000},
      {"CLONE_PARENT", 0x8000},
      {"CLONE_THREAD", 0x10000},
      {"CLONE_NEWNS", 0x20000},
      {"CLONE_SYSVSEM", 0x40000},
      {"CLONE_SETTLS", 0x80000},
      {"CLONE_PARENT_SETTID", 0x100000},
      {"CLONE_CHILD_CLEARTID", 0x200000},
      {"CLONE_DETACHED", 0x400000},
      {"CLONE_UNTRACED", 0x800000},
      {"CLONE_CHILD_SETTID", 0x1000000},
      {"CLONE_NEWCGROUP", 0x2000000},
      {"CLONE_NEWUTS", 0x4000000},
      {"CLONE_NEWIPC", 0x8000000},
      {"CLONE_NEWUSER", 0x10000000},
      {"CLONE_NEWPID", 0x20000000},
      {"CLONE_NEWNET", 0x40000000},
      {"CLONE_IO", 0x80000000},
      {"CLONE_CLEAR_SIGHAND", 0x100000000},
      {"CLONE_INTO_CGROUP", 0x200000000}};
  ASSERT_EQ(kCloneFlags.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_EQ(kCloneFlags[i].name, want[i].first);
    EXPECT_EQ(kCloneFlags[i].value, want[i].second);
  }
  EXPECT_EQ(clone_flags_text(0), "0");
  EXPECT_EQ(clone_flags_text(CLONE_NEWPID | CLONE_NEWNS | 1), "CLONE_NEWNS|CLONE_NEWPID|0x1");
}

TEST(Times, Conversions) {
  static_assert(Timespec(3, 5).nano() == 3'000'000'005);
  static_assert(Timespec(-1, 999'999'999).nano() == -1);
  static_assert(Timeval(3, 5).nano() == 3'000'005'000);
  EXPECT_EQ(Timespec(7, 8).unix_time(), (UnixTime{7, 8}));
  EXPECT_EQ(Timeval(7, 8).unix_time(), (UnixTime{7, 8000}));
  // Beyond 292 years: wraps, as 64-bit arithmetic does.
  EXPECT_EQ(Timespec(INT64_MAX, 0).nano(), -1'000'000'000);
  EXPECT_EQ(Timespec(MUST(stat("/")).st_mtim).unix_time().sec, MUST(stat("/")).st_mtim.tv_sec);
}

}  // namespace
}  // namespace caisson::sys
