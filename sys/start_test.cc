// Starts that succeed: each attribute does what it says.
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>

#include <atomic>
#include <thread>

#include "sys/test_support.h"

namespace caisson::sys {
namespace {

using test::in_user_namespace;
using test::is_root;
using test::open_descriptors;
using test::Output;
using test::run;
using test::shell;

const WaitStatus kSuccess{0};

TEST(Start, PlainStartIsOneLine) {
  auto process = start_process("/bin/true", {"true"});
  ASSERT_TRUE(process.ok()) << process.error().text();
  EXPECT_GE(process->pidfd(), 0);
  auto end = process->wait();
  ASSERT_TRUE(end.ok());
  EXPECT_EQ(end->pid, process->pid());
  EXPECT_EQ(end->status.exit_status(), 0);
  EXPECT_EQ(process->wait().error(), Errno(ECHILD));
  EXPECT_EQ(process->kill(SIGTERM).error(), Errno(ESRCH));
}

TEST(Start, ForkExecGivesTheNumber) {
  const int before = open_descriptors();
  auto pid = fork_exec("/bin/sh", {"sh", "-c", "exit 7"});
  ASSERT_TRUE(pid.ok()) << pid.error().text();
  EXPECT_EQ(open_descriptors(), before);
  auto end = wait4(*pid);
  ASSERT_TRUE(end.ok());
  EXPECT_EQ(end->status.exit_status(), 7);
}

TEST(Start, ArgumentsEnvironmentAndDirectory) {
  ProcAttr attr;
  attr.env = {"A=1", "odd", "B=two words"};
  attr.dir = "/usr/bin";
  EXPECT_EQ(shell("echo $0; /usr/bin/env | grep -v PWD | sort; pwd", attr).text,
            "sh\nA=1\nB=two words\n/usr/bin\n");
  EXPECT_EQ(run("/bin/echo", {"echo", "", "a b", "c"}).text, " a b c\n");
  attr.env.emplace();
  attr.dir.clear();
  EXPECT_EQ(run("/usr/bin/env", {"env"}, attr), (Output{"", kSuccess}));
}

TEST(Start, SessionAndProcessGroup) {
  ProcAttr attr;
  const std::string ids = "set -- $(cat /proc/$$/stat); echo $(($1 == $5)) $(($1 == $6))";
  EXPECT_EQ(shell(ids, attr).text, "0 0\n");
  attr.sys.setpgid = true;
  EXPECT_EQ(shell(ids, attr).text, "1 0\n");
  attr.sys.setpgid = false;
  attr.sys.setsid = true;
  EXPECT_EQ(shell(ids, attr).text, "1 1\n");
}

TEST(Start, JoinsAGivenProcessGroup) {
  ProcAttr attr;
  attr.sys.setpgid = true;
  auto leader = start_process("/bin/sleep", {"sleep", "100"}, attr);
  ASSERT_TRUE(leader.ok());
  attr.sys.pgid = leader->pid();
  EXPECT_EQ(shell("set -- $(cat /proc/$$/stat); echo $5", attr).text,
            std::to_string(leader->pid()) + "\n");
  ASSERT_TRUE(leader->kill(SIGKILL).ok());
  EXPECT_EQ(leader->wait()->status.signal(), Signal(SIGKILL));
}

// Each namespace flag, by clone and by unshare, with maps: what an ordinary user may do too.
TEST(Start, Namespaces) {
  SKIP_WITHOUT_USER_NAMESPACES();
  struct Case {
    uint64_t flag;
    const char* name;
  };
  for (const Case& c :
       {Case{CLONE_NEWNS, "mnt"}, Case{CLONE_NEWUTS, "uts"}, Case{CLONE_NEWIPC, "ipc"},
        Case{CLONE_NEWNET, "net"}, Case{CLONE_NEWCGROUP, "cgroup"}, Case{CLONE_NEWPID, "pid"},
        Case{CLONE_NEWTIME, "time"}}) {
    const std::string link = std::string("/proc/self/ns/") + c.name;
    char own[64];
    const ssize_t size = readlink(link.c_str(), own, sizeof(own));
    ASSERT_GT(size, 0);
    const std::string ours = std::string(own, size) + "\n";
    for (const bool by_unshare : {false, true}) {
      SCOPED_TRACE(link + (by_unshare ? " by unshare" : " by clone"));
      ProcAttr attr = in_user_namespace(0, by_unshare ? 0 : c.flag);
      if (by_unshare) {
        std::swap(attr.sys.unshare_flags, attr.sys.clone_flags);
        attr.sys.unshare_flags |= c.flag;
      }
      if (c.flag == CLONE_NEWPID) {
        // It cannot be seen in the old /proc, and unshare(2) moves children only.
        EXPECT_EQ(shell("echo $$", attr).text == "1\n", !by_unshare);
        continue;
      }
      const Output output = shell("readlink " + link, attr);
      EXPECT_EQ(output.text.rfind(std::string(c.name) + ":[", 0), 0u) << output.text;
      EXPECT_NE(output.text, ours);
      EXPECT_EQ(output.status, kSuccess);
    }
  }
}

TEST(Start, UserNamespaceMapsByCloneAndByUnshare) {
  SKIP_WITHOUT_USER_NAMESPACES();
  ProcAttr attr = in_user_namespace(0);
  EXPECT_EQ(shell("id -u; id -g; cat /proc/self/setgroups", attr).text, "0\n0\ndeny\n");
  attr = in_user_namespace(1234);
  EXPECT_EQ(shell("id -u; id -g", attr).text, "1234\n1234\n");
  std::swap(attr.sys.unshare_flags, attr.sys.clone_flags);
  EXPECT_EQ(shell("id -u; id -g", attr).text, "1234\n1234\n");
}

TEST(Start, PrivilegedMapsAndSetgroupsSwitch) {
  SKIP_WITHOUT_USER_NAMESPACES();
  if (!is_root()) GTEST_SKIP() << "needs root";
  for (const bool by_unshare : {false, true}) {
    ProcAttr attr;
    (by_unshare ? attr.sys.unshare_flags : attr.sys.clone_flags) = CLONE_NEWUSER;
    attr.sys.uid_mappings = {{0, 100000, 10}, {10, 0, 1}};
    attr.sys.gid_mappings = {{0, 100000, 10}, {10, 0, 1}};
    attr.sys.gid_mappings_enable_setgroups = true;
    attr.sys.credential = Credential{.uid = 3, .gid = 4, .groups = {5, 6}};
    EXPECT_EQ(shell("id -u; id -g; id -G; cat /proc/self/setgroups", attr).text,
              "3\n4\n4 5 6\nallow\n");
  }
}

TEST(Start, CredentialInsideAnOwnMap) {
  SKIP_WITHOUT_USER_NAMESPACES();
  ProcAttr attr = in_user_namespace(7);
  attr.sys.credential = Credential{.uid = 7, .gid = 7};
  EXPECT_EQ(shell("id -u; id -g", attr).text, "7\n7\n");
}

TEST(Start, Credential) {
  if (!is_root()) GTEST_SKIP() << "needs root";
  ProcAttr attr;
  attr.sys.credential = Credential{.uid = 65534, .gid = 65533, .groups = {1, 2}};
  EXPECT_EQ(shell("id -u; id -g; id -G", attr).text, "65534\n65533\n65533 1 2\n");
  attr.sys.credential->groups.clear();
  EXPECT_EQ(shell("id -G", attr).text, "65533\n");
  // A process that changes its ids makes its memory undumpable; ours must not be.
  EXPECT_EQ(prctl(PR_GET_DUMPABLE), 1);
}

TEST(Start, EveryKindOfStartLeavesUsDumpable) {
  for (ProcAttr attr : {ProcAttr{}, in_user_namespace(0), in_user_namespace(5)}) {
    EXPECT_EQ(shell("true", attr).status, kSuccess);
    EXPECT_EQ(prctl(PR_GET_DUMPABLE), 1);
    std::swap(attr.sys.unshare_flags, attr.sys.clone_flags);
    EXPECT_EQ(shell("true", attr).status, kSuccess);
    EXPECT_EQ(prctl(PR_GET_DUMPABLE), 1);
  }
}

TEST(Start, AmbientCapabilitiesSurviveIdChangeAndExec) {
  if (!is_root()) SKIP_WITHOUT_USER_NAMESPACES();
  ProcAttr attr = in_user_namespace(0);
  if (is_root()) {
    attr = {};
    attr.sys.credential = Credential{.uid = 65534, .gid = 65534};
  }
  attr.sys.ambient_caps = {CAP_NET_ADMIN, CAP_SYSLOG};
  EXPECT_EQ(shell("grep CapAmb /proc/self/status", attr).text, "CapAmb:\t0000000400001000\n");
}

TEST(Start, Chroot) {
  if (!is_root()) SKIP_WITHOUT_USER_NAMESPACES();
  ProcAttr attr = is_root() ? ProcAttr{} : in_user_namespace(0);
  attr.sys.chroot = "/usr";
  attr.dir = "/bin";
  // Nothing of the C library is below /usr/lib64 here: the error shows that the root is new.
  auto process = start_process("/usr/bin/true", {"true"}, attr);
  ASSERT_FALSE(process.ok());
  EXPECT_EQ(process.error().text(), "exec: No such file or directory");
  attr.sys.chroot = "/proc/self/root";
  attr.dir = "/tmp";
  EXPECT_EQ(shell("pwd", attr).text, "/tmp\n");
}

TEST(Start, ParentDeathSignal) {
  SKIP_WITHOUT_USER_NAMESPACES();
  ProcAttr attr;
  attr.sys.pdeathsig = SIGKILL;
  for (const uint64_t flags : {uint64_t{0}, uint64_t{CLONE_NEWPID}}) {
    ProcAttr own = flags == 0 ? attr : in_user_namespace(0, flags);
    own.sys.pdeathsig = SIGKILL;
    std::optional<Process> process;
    std::thread([&] {
      auto started = start_process("/bin/sleep", {"sleep", "100"}, own);
      ASSERT_TRUE(started.ok()) << started.error().text();
      process.emplace(std::move(started).value());
    }).join();
    // The thread that started it has ended.
    EXPECT_EQ(process->wait()->status.signal(), Signal(SIGKILL));
  }
}

TEST(Start, DeathSignalInThePidNamespaceOfTheCallersChildren) {
  const pid_t pid = fork();
  ASSERT_GE(pid, 0);
  if (pid == 0) {
    if (unshare(CLONE_NEWPID) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWPID) != 0) _exit(77);
    ProcAttr attr;
    attr.sys.pdeathsig = SIGKILL;
    auto process = start_process("/bin/true", {"true"}, attr);
    if (!process.ok()) _exit(1);
    const auto end = process->wait();
    _exit(end.ok() && end->status == kSuccess ? 0 : 2);
  }
  const WaitStatus status = MUST(wait4(pid)).status;
  if (status.exit_status() == 77) GTEST_SKIP() << "the host lets us make no PID namespace";
  EXPECT_EQ(status, kSuccess);
}

// A stop is no end: the child is waited for and signalled again, with a pidfd and by number.
TEST(Start, PtraceStopsAtExec) {
  ProcAttr attr;
  attr.sys.ptrace = true;
  for (const bool by_number : {false, true}) {
    SCOPED_TRACE(by_number ? "by number" : "by pidfd");
    auto process = start_process("/bin/true", {"true"}, attr);
    ASSERT_TRUE(process.ok()) << process.error().text();
    const UniqueFd taken = by_number ? process->take_pidfd() : UniqueFd();
    const WaitResult stop = MUST(process->wait());
    EXPECT_EQ(stop.pid, process->pid());
    EXPECT_TRUE(stop.status.stopped());
    EXPECT_FALSE(stop.status.signaled());
    EXPECT_EQ(stop.status.stop_signal(), Signal(SIGTRAP));
    EXPECT_EQ(stop.status.trap_cause(), 0);
    // Reported once.
    EXPECT_FALSE(MUST(process->try_wait()).has_value());
    ASSERT_TRUE(process->kill(SIGKILL).ok());
    EXPECT_EQ(MUST(process->wait()).status.signal(), Signal(SIGKILL));
    EXPECT_EQ(process->kill(SIGKILL).error(), Errno(ESRCH));
  }
}

// A pending signal must not stop the child while its tracer, this thread, sleeps until exec. At the
// stop the mask is the caller's.
TEST(Start, PtraceStartsWhileSignalsArrive) {
  ProcAttr leads;
  leads.sys.setpgid = true;
  auto group = start_process("/bin/sleep", {"sleep", "100"}, leads);
  ASSERT_TRUE(group.ok());
  std::atomic<bool> stop{false};
  std::thread sender([&] {
    while (!stop) kill(-group->pid(), SIGURG).ok();
  });
  ProcAttr attr;
  attr.sys.ptrace = true;
  attr.sys.setpgid = true;
  attr.sys.pgid = group->pid();
  ProcAttr copied = attr;
  copied.sys.credential = Credential{.uid = geteuid(), .gid = getegid(), .no_set_groups = true};
  sigset_t term;
  sigset_t before_mask;
  sigemptyset(&term);
  sigaddset(&term, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &term, &before_mask);
  for (int i = 0; i < 50; ++i) {
    auto process = start_process("/bin/true", {"true"}, i % 2 == 0 ? attr : copied);
    EXPECT_TRUE(process.ok());
    if (!process.ok()) break;
    const std::string number = std::to_string(process->pid());
    const UniqueFd status = MUST(open("/proc/" + number + "/status", O_RDONLY | O_CLOEXEC));
    const std::string text = test::read_all(status.get());
    EXPECT_NE(text.find("SigBlk:\t0000000000004000\n"), std::string::npos) << text;
    EXPECT_EQ(MUST(process->wait()).status.stop_signal(), Signal(SIGTRAP));
    EXPECT_TRUE(process->kill(SIGKILL).ok());
    while (MUST(process->wait()).status.stopped()) {
    }
  }
  pthread_sigmask(SIG_SETMASK, &before_mask, nullptr);
  stop = true;
  sender.join();
  EXPECT_TRUE(group->kill(SIGKILL).ok());
  EXPECT_EQ(MUST(group->wait()).status.signal(), Signal(SIGKILL));
}

// An event's number is where wait4(2) puts it.
TEST(Start, PtraceEventsAreReported) {
  ProcAttr attr;
  attr.sys.ptrace = true;
  auto process = start_process("/bin/true", {"true"}, attr);
  ASSERT_TRUE(process.ok()) << process.error().text();
  ASSERT_TRUE(MUST(process->wait()).status.stopped());
  ASSERT_EQ(ptrace(PTRACE_SETOPTIONS, process->pid(), nullptr, PTRACE_O_TRACEEXIT), 0);
  ASSERT_EQ(ptrace(PTRACE_CONT, process->pid(), nullptr, nullptr), 0);
  EXPECT_EQ(MUST(process->wait()).status.trap_cause(), PTRACE_EVENT_EXIT);
  ASSERT_EQ(ptrace(PTRACE_CONT, process->pid(), nullptr, nullptr), 0);
  EXPECT_EQ(MUST(process->wait()).status, kSuccess);
}

TEST(Process, TryWaitAndKill) {
  auto process = start_process("/bin/sleep", {"sleep", "100"});
  ASSERT_TRUE(process.ok());
  auto running = process->try_wait();
  ASSERT_TRUE(running.ok());
  EXPECT_FALSE(running->has_value());
  ASSERT_TRUE(process->kill(SIGTERM).ok());
  auto end = process->wait();
  ASSERT_TRUE(end.ok());
  EXPECT_TRUE(end->status.signaled());
  EXPECT_EQ(end->status.signal(), Signal(SIGTERM));
  EXPECT_EQ(process->try_wait().error(), Errno(ECHILD));
}

// The sanitizer's question: signals beside a wait, and two waits of which one is told.
TEST(Process, SignalsAndWaitsBesideEachOther) {
  for (int i = 0; i < 20; ++i) {
    auto process = start_process("/bin/sleep", {"sleep", "100"});
    ASSERT_TRUE(process.ok());
    std::atomic<int> told{0};
    const auto wait = [&] {
      const auto end = process->wait();
      if (end.ok()) {
        EXPECT_EQ(end->status.signal(), Signal(SIGTERM));
        ++told;
      } else {
        EXPECT_EQ(end.error(), Errno(ECHILD));
      }
    };
    std::thread first(wait);
    std::thread second(wait);
    while (process->kill(SIGTERM).ok()) std::this_thread::yield();
    first.join();
    second.join();
    EXPECT_EQ(told, 1);
  }
}

}  // namespace
}  // namespace caisson::sys
