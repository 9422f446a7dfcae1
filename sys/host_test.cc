// Starting on hosts that lack what newer Linux has, in cgroups, and what a start leaves alone: the
// C library's locks, fork handlers and our signals.
#include <gtest/gtest.h>
#include <malloc.h>
#include <pthread.h>
#include <sys/statfs.h>
#include <sys/syscall.h>

#include <atomic>
#include <thread>

#include "sys/test_support.h"

namespace caisson::sys {
namespace {

using test::Denied;
using test::in_user_namespace;
using test::no_children;
using test::open_descriptors;
using test::shell;
using test::with_denied;

void on_signal(int) {}

// The child's own view of SIGUSR1 handled, SIGUSR2 ignored and SIGTERM blocked here.
void expect_right_signals() {
  const std::string status = test::run("/bin/cat", {"cat", "/proc/self/status"}).text;
  for (const std::string_view line : {"SigBlk:\t0000000000004000\n", "SigIgn:\t0000000000000800\n",
                                      "SigCgt:\t0000000000000000\n"})
    EXPECT_NE(status.find(line), std::string::npos) << status;
}

TEST(Host, SignalsAreResetIgnoredOrBlockedAsAfterExec) {
  struct sigaction handled {};
  struct sigaction before_usr1 {};
  struct sigaction before_usr2 {};
  handled.sa_handler = on_signal;
  sigaction(SIGUSR1, &handled, &before_usr1);
  handled.sa_handler = SIG_IGN;
  sigaction(SIGUSR2, &handled, &before_usr2);
  sigset_t term;
  sigset_t before_mask;
  sigemptyset(&term);
  sigaddset(&term, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &term, &before_mask);

  expect_right_signals();
  // And where the child must do it itself.
  EXPECT_TRUE(with_denied({{SYS_clone3, ENOSYS}}, expect_right_signals));

  struct sigaction now {};
  sigaction(SIGUSR1, nullptr, &now);
  EXPECT_EQ(now.sa_handler, &on_signal);
  sigset_t mask;
  pthread_sigmask(SIG_SETMASK, &before_mask, &mask);
  EXPECT_EQ(sigismember(&mask, SIGTERM), 1);
  EXPECT_EQ(sigismember(&mask, SIGINT), 0);
  sigaction(SIGUSR1, &before_usr1, nullptr);
  sigaction(SIGUSR2, &before_usr2, nullptr);
}

// clone3 missing (ENOSYS), forbidden by an old container (EPERM), older than a flag (EINVAL) or
// than a field (E2BIG); no waiting or signals by pidfd; CLONE_PIDFD missing; pidfd_open missing.
TEST(Host, OlderHosts) {
  SKIP_WITHOUT_USER_NAMESPACES();
  const uint32_t pidfd_flag = CLONE_PIDFD;
  const std::vector<std::vector<Denied>> hosts = {
      {{SYS_clone3, ENOSYS}},
      {{SYS_clone3, EPERM}},
      {{SYS_clone3, EINVAL}},
      {{SYS_clone3, E2BIG}},
      {{SYS_waitid, EINVAL, 0, P_PIDFD}},
      {{SYS_pidfd_send_signal, ENOSYS}},
      {{SYS_pidfd_send_signal, EPERM}},
      {{SYS_clone3, ENOSYS}, {SYS_clone, EINVAL, 0, pidfd_flag, pidfd_flag}},
      {{SYS_clone3, ENOSYS},
       {SYS_clone, EINVAL, 0, pidfd_flag, pidfd_flag},
       {SYS_pidfd_open, ENOSYS}},
  };
  for (size_t i = 0; i < hosts.size(); ++i) {
    SCOPED_TRACE("host " + std::to_string(i));
    const int before = open_descriptors();
    ASSERT_TRUE(with_denied(hosts[i], [&] {
      EXPECT_EQ(shell("echo ran").text, "ran\n");
      EXPECT_EQ(shell("id -u", in_user_namespace(9)).text, "9\n");
      ProcAttr copied;
      copied.sys.credential = Credential{.uid = geteuid(), .gid = getegid(), .no_set_groups = true};
      EXPECT_EQ(shell("echo ran", copied).text, "ran\n");
      EXPECT_EQ(start_process("/nowhere", {"x"}).error().text(), "exec: No such file or directory");
      auto process = start_process("/bin/sleep", {"sleep", "100"});
      ASSERT_TRUE(process.ok());
      const bool has_pidfd = i + 1 < hosts.size();
      EXPECT_EQ(process->pidfd() >= 0, has_pidfd);
      EXPECT_FALSE(MUST(process->try_wait()).has_value());
      EXPECT_TRUE(process->kill(SIGTERM).ok());
      EXPECT_EQ(MUST(process->wait()).status.signal(), Signal(SIGTERM));
      EXPECT_EQ(process->kill(SIGTERM).error(), Errno(ESRCH));
      EXPECT_EQ(process->wait().error(), Errno(ECHILD));
    }));
    EXPECT_EQ(open_descriptors(), before);
    EXPECT_TRUE(no_children());
  }
}

TEST(Host, NoSignalByNumberOnceReapedByOthers) {
  ASSERT_TRUE(with_denied({{SYS_pidfd_send_signal, ENOSYS}, {SYS_kill, EXDEV}}, [] {
    auto process = start_process("/bin/true", {"true"});
    ASSERT_TRUE(process.ok());
    EXPECT_EQ(process->kill(SIGTERM).error(), Errno(EXDEV));  // by number
    ASSERT_TRUE(wait4(process->pid()).ok());
    EXPECT_EQ(process->kill(SIGTERM).error(), Errno(ENOSYS));
  }));
}

// A number that is free again may be another child's by then.
TEST(Host, FailedStartsAreReapedByPidfdWhereThatWorks) {
  const auto fail_to_start = [] {
    EXPECT_EQ(start_process("/nowhere", {"nowhere"}).error().step, Step::kExec);
  };
  ASSERT_TRUE(with_denied({{SYS_wait4, EPERM}, {SYS_waitid, EPERM, 0, P_PID}}, fail_to_start));
  EXPECT_TRUE(no_children());
  ASSERT_TRUE(with_denied({{SYS_waitid, EINVAL, 0, P_PIDFD}}, fail_to_start));
  EXPECT_TRUE(no_children());
}

TEST(Host, TimeNamespacesNeedClone3) {
  ASSERT_TRUE(with_denied({{SYS_clone3, ENOSYS}}, [] {
    auto process = start_process("/bin/true", {"true"}, in_user_namespace(0, CLONE_NEWTIME));
    ASSERT_FALSE(process.ok());
    EXPECT_EQ(process.error().text(), "clone: Function not implemented");
  }));
}

// A fresh group in the host's cgroup2 tree; empty where there is none or we may not.
std::string make_cgroup() {
  constexpr long kCgroup2Magic = 0x63677270;
  for (const std::string mount : {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}) {
    struct statfs fs {};
    if (statfs(mount.c_str(), &fs) != 0 || fs.f_type != kCgroup2Magic) continue;
    const std::string path = mount + "/caisson-sys-test-" + std::to_string(getpid());
    if (mkdir(path.c_str(), 0755) == 0) return path;
  }
  return {};
}

TEST(Host, Cgroup) {
  const std::string path = make_cgroup();
  if (path.empty()) GTEST_SKIP() << "no cgroup2 tree that we may change";
  {
    const UniqueFd group = MUST(open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    ProcAttr attr;
    attr.sys.use_cgroup_fd = true;
    attr.sys.cgroup_fd = group.get();
    attr.sys.clone_flags = CLONE_INTO_CGROUP;
    const auto expect_inside = [&] {
      const std::string text = shell("grep ^0:: /proc/self/cgroup", attr).text;
      EXPECT_NE(text.find(path.substr(path.rfind('/'))), std::string::npos) << text;
    };
    expect_inside();
    EXPECT_TRUE(with_denied({{SYS_clone3, ENOSYS}}, expect_inside));
    EXPECT_TRUE(with_denied({{SYS_clone3, E2BIG}}, expect_inside));
  }
  EXPECT_EQ(rmdir(path.c_str()), 0);
}

std::atomic<int> fork_handler_calls{0};
void count_fork_handler() { ++fork_handler_calls; }

TEST(Host, NoForkHandlerRuns) {
  SKIP_WITHOUT_USER_NAMESPACES();
  static const bool registered = [] {
    pthread_atfork(count_fork_handler, count_fork_handler, count_fork_handler);
    return true;
  }();
  ASSERT_TRUE(registered);
  fork_handler_calls = 0;  // a repeated run: other tests call fork()
  ProcAttr copied;
  copied.sys.credential = Credential{.uid = geteuid(), .gid = getegid(), .no_set_groups = true};
  for (const ProcAttr& attr : {ProcAttr{}, in_user_namespace(), copied})
    EXPECT_EQ(shell("echo ran", attr).text, "ran\n");
  EXPECT_EQ(fork_handler_calls, 0);
}

// Threads that hold the allocator's and stdio's locks most of the time: a child that took one of
// them would hang, in copied memory for ever.
TEST(Host, LocksOfOtherThreadsDoNotMatter) {
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  threads.emplace_back([&] {
    while (!stop) malloc_trim(0);
  });
  threads.emplace_back([&] {
    const UniqueFd null = MUST(open("/dev/null", O_WRONLY | O_CLOEXEC));
    FILE* file = fdopen(dup(null.get()), "w");
    while (!stop) {
      flockfile(file);
      fputs("x", file);
      funlockfile(file);
      setenv("CAISSON_SYS_TEST_LOCKS", "x").ok();
    }
    fclose(file);
  });
  ProcAttr copied;
  copied.sys.credential = Credential{.uid = geteuid(), .gid = getegid(), .no_set_groups = true};
  for (int i = 0; i < 30; ++i) {
    for (const ProcAttr& attr : {ProcAttr{}, copied}) {
      auto process = start_process("/bin/true", {"true"}, attr);
      EXPECT_TRUE(process.ok());
      if (process.ok()) {
        EXPECT_TRUE(process->wait().ok());
      }
    }
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  ASSERT_TRUE(unsetenv("CAISSON_SYS_TEST_LOCKS").ok());
}

TEST(Host, SiblingsByCloneParent) {
  // Our own child starts a sibling of itself: it is then ours to wait for.
  const Pipe numbers = MUST(pipe2(O_CLOEXEC));
  const pid_t pid = fork();
  ASSERT_GE(pid, 0);
  if (pid == 0) {
    ProcAttr attr;
    attr.sys.clone_flags = CLONE_PARENT;
    attr.sys.pdeathsig = SIGKILL;
    auto sibling = start_process("/bin/sh", {"sh", "-c", "exit 3"}, attr);
    const int number = sibling.ok() ? sibling->pid() : -1;
    _exit(write(numbers.write_end.get(), &number, sizeof(number)) == sizeof(number) ? 0 : 1);
  }
  EXPECT_EQ(MUST(wait4(pid)).status.exit_status(), 0);
  int number = 0;
  ASSERT_EQ(::read(numbers.read_end.get(), &number, sizeof(number)), 4);
  ASSERT_GT(number, 0);
  EXPECT_EQ(MUST(wait4(number, __WALL)).status.exit_status(), 3);
}

TEST(Host, IgnoredSigchldLeavesNothingToWaitFor) {
  struct sigaction ignore {};
  struct sigaction before {};
  ignore.sa_handler = SIG_IGN;
  sigaction(SIGCHLD, &ignore, &before);
  auto process = start_process("/bin/true", {"true"});
  ASSERT_TRUE(process.ok());
  EXPECT_EQ(process->wait().error(), Errno(ECHILD));
  EXPECT_EQ(start_process("/nowhere", {"x"}).error().text(), "exec: No such file or directory");
  sigaction(SIGCHLD, &before, nullptr);
}

}  // namespace
}  // namespace caisson::sys
