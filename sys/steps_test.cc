// Every step of a start made to fail: the error names the step, nothing is left behind. Each runs
// in both memory modes, because they report in different ways.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <set>

#include "sys/test_support.h"

namespace caisson::sys {
namespace {

using test::Denied;
using test::in_user_namespace;
using test::is_root;
using test::kKill;
using test::no_children;
using test::open_descriptors;
using test::with_denied;

// Makes the start copy our memory, and changes nothing else.
void copy_memory(ProcAttr& attr) {
  if (attr.sys.credential) return;
  attr.sys.credential = Credential{.uid = geteuid(), .gid = getegid(), .no_set_groups = true};
  if (!attr.sys.uid_mappings.empty()) {
    attr.sys.credential->uid = static_cast<uint32_t>(attr.sys.uid_mappings[0].container_id);
    attr.sys.credential->gid = static_cast<uint32_t>(attr.sys.gid_mappings[0].container_id);
  }
}

struct Failing {
  Step step;
  int error;
  const char* text;
  ProcAttr attr = {};
  std::vector<Denied> denied = {};
  int index = -1;
  std::string path = "/bin/true";
};

std::set<Step> failed_steps;  // by expect_failure()

class Steps : public testing::Test {
 protected:
  // Every step has failed in some test, if all of them ran. kAttributes has its own file
  // (bad_input_test.cc).
  static void TearDownTestSuite() {
    const testing::TestSuite& suite = *testing::UnitTest::GetInstance()->current_test_suite();
    if (suite.test_to_run_count() != suite.total_test_count()) return;
    if (test::refuses_user_namespaces()) return;  // some were skipped
    for (int i = 0; i <= static_cast<int>(Step::kExec); ++i) {
      const Step step = static_cast<Step>(i);
      EXPECT_EQ(failed_steps.contains(step), step != Step::kAttributes) << step_name(step);
    }
  }
};

void expect_failure(const Failing& failing, const ProcAttr& attr) {
  const int before = open_descriptors();
  const auto attempt = [&] {
    auto process = start_process(failing.path, {"true"}, attr);
    ASSERT_FALSE(process.ok());
    failed_steps.insert(process.error().step);
    EXPECT_EQ(process.error().step, failing.step) << process.error().text();
    EXPECT_EQ(process.error().code, Errno(failing.error)) << process.error().text();
    EXPECT_EQ(process.error().index, failing.index);
    EXPECT_EQ(process.error().text(), failing.text);
  };
  if (failing.denied.empty()) {
    attempt();
  } else {
    ASSERT_TRUE(with_denied(failing.denied, attempt));
  }
  EXPECT_EQ(open_descriptors(), before);
  EXPECT_TRUE(no_children());
}

void expect_failure(Failing failing) {
  SCOPED_TRACE(failing.text);
  expect_failure(failing, failing.attr);
  copy_memory(failing.attr);
  expect_failure(failing, failing.attr);
}

template <typename F>
ProcAttr with(F change, ProcAttr attr = {}) {
  change(attr);
  return attr;
}

std::vector<SysProcIDMap> too_many_lines() {
  std::vector<SysProcIDMap> map;
  for (int i = 0; i < 341; ++i) map.push_back({i, i, 1});
  return map;
}

// The number that the second of two new descriptors gets.
uint32_t second_free_fd() {
  const UniqueFd first = MUST(open("/dev/null", O_RDONLY | O_CLOEXEC));
  return static_cast<uint32_t>(MUST(open("/dev/null", O_RDONLY | O_CLOEXEC)).get());
}

TEST_F(Steps, InTheCaller) {
  SKIP_WITHOUT_USER_NAMESPACES();
  const ProcAttr mapped = in_user_namespace();
  expect_failure({Step::kReport,
                  EMFILE,
                  "report socket: Too many open files",
                  mapped,
                  {{SYS_socketpair, EMFILE}}});
  expect_failure({Step::kClone,
                  EAGAIN,
                  "clone: Resource temporarily unavailable",
                  {},
                  {{SYS_clone3, EAGAIN}}});
  expect_failure({Step::kUidMap, EINVAL, "uid_map: Invalid argument",
                  with([](ProcAttr& a) { a.sys.uid_mappings = too_many_lines(); }, mapped)});
  expect_failure({Step::kGidMap, EINVAL, "gid_map: Invalid argument",
                  with([](ProcAttr& a) { a.sys.gid_mappings = too_many_lines(); }, mapped)});
  // "deny" is the only write of four bytes.
  expect_failure({Step::kSetgroupsMap,
                  EACCES,
                  "setgroups switch: Permission denied",
                  mapped,
                  {{SYS_write, EACCES, 2, 4}}});
  expect_failure(
      {Step::kUidMap, EACCES, "uid_map: Permission denied", mapped, {{SYS_readlinkat, EACCES}}});
  expect_failure({Step::kChild,
                  ESRCH,
                  "child killed before exec: No such process",
                  with([](ProcAttr& a) { a.sys.setsid = true; }),
                  {{SYS_setsid, kKill}}});
}

TEST_F(Steps, OrdinaryUsersMapOnlyThemselves) {
  SKIP_WITHOUT_USER_NAMESPACES();
  if (is_root()) GTEST_SKIP() << "needs an ordinary user";
  ProcAttr attr = in_user_namespace();
  attr.sys.uid_mappings[0].host_id = 0;
  expect_failure({Step::kUidMap, EPERM, "uid_map: Operation not permitted", attr});
  attr = in_user_namespace();
  attr.sys.gid_mappings_enable_setgroups = true;
  expect_failure({Step::kGidMap, EPERM, "gid_map: Operation not permitted", attr});
}

TEST_F(Steps, SignalsCgroupAndMaps) {
  SKIP_WITHOUT_USER_NAMESPACES();
  expect_failure({Step::kSignalReset,
                  EPERM,
                  "signal reset[1]: Operation not permitted",
                  {},
                  {{SYS_clone3, ENOSYS}, {SYS_rt_sigaction, EPERM}},
                  1});
  const UniqueFd not_a_cgroup = MUST(open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const auto in_cgroup = [&](ProcAttr& a) {
    a.sys.use_cgroup_fd = true;
    a.sys.cgroup_fd = not_a_cgroup.get();
  };
  expect_failure({Step::kCgroup,
                  ENOENT,
                  "cgroup.procs: No such file or directory",
                  with(in_cgroup),
                  {{SYS_clone3, ENOSYS}}});
  expect_failure({Step::kClone, EBADF, "clone: Bad file descriptor", with(in_cgroup)});
  expect_failure({Step::kKeepCaps,
                  EPERM,
                  "keep capabilities: Operation not permitted",
                  with([](ProcAttr& a) { a.sys.ambient_caps = {CAP_CHOWN}; }),
                  {{SYS_prctl, EPERM, 0, PR_SET_KEEPCAPS}}});
  // The socket's ends are the next two descriptors; the child reads from the second.
  const uint32_t child_end = second_free_fd();
  expect_failure({Step::kMapWait,
                  EIO,
                  "wait for id maps: Input/output error",
                  in_user_namespace(),
                  {{SYS_recvfrom, EIO, 0, child_end}}});
}

TEST_F(Steps, SessionAndTerminal) {
  expect_failure({Step::kSetsid,
                  EPERM,
                  "setsid: Operation not permitted",
                  with([](ProcAttr& a) { a.sys.setsid = true; }),
                  {{SYS_setsid, EPERM}}});
  expect_failure({Step::kSetpgid,
                  ESRCH,
                  "setpgid: No such process",
                  with([](ProcAttr& a) { a.sys.setpgid = true; }),
                  {{SYS_setpgid, ESRCH}}});
  // A process group of another session, as Linux itself refuses it.
  expect_failure({Step::kSetpgid, EPERM, "setpgid: Operation not permitted", with([](ProcAttr& a) {
                    a.sys.setsid = true;
                    a.sys.setpgid = true;
                  })});
  const UniqueFd null = MUST(open("/dev/null", O_RDWR | O_CLOEXEC));
  expect_failure({Step::kForeground, ENOTTY, "foreground: Inappropriate ioctl for device",
                  with([&](ProcAttr& a) {
                    a.sys.foreground = true;
                    a.sys.ctty = null.get();
                  })});
  expect_failure(
      {Step::kNoctty, ENOTTY, "noctty: Inappropriate ioctl for device", with([&](ProcAttr& a) {
         a.sys.noctty = true;
         a.files = {null.get(), 1, 2};
       })});
  expect_failure(
      {Step::kSetctty, ENOTTY, "setctty: Inappropriate ioctl for device", with([&](ProcAttr& a) {
         a.sys.setsid = true;
         a.sys.setctty = true;
         a.sys.ctty = 3;
         a.files = {0, 1, 2, null.get()};
       })});
}

TEST_F(Steps, NamespacesRootAndCredential) {
  SKIP_WITHOUT_USER_NAMESPACES();
  expect_failure({Step::kUnshare, EINVAL, "unshare: Invalid argument",
                  with([](ProcAttr& a) { a.sys.unshare_flags = 1; })});
  expect_failure({Step::kMountPrivate,
                  EACCES,
                  "make mounts private: Permission denied",
                  with([](ProcAttr& a) { a.sys.unshare_flags = CLONE_NEWNS; }, in_user_namespace()),
                  {{SYS_mount, EACCES}}});
  const ProcAttr own = in_user_namespace();
  expect_failure({Step::kChroot, ENOENT, "chroot: No such file or directory",
                  with([](ProcAttr& a) { a.sys.chroot = "/nowhere"; }, own)});
  expect_failure(
      {Step::kSetgroups, EPERM, "setgroups: Operation not permitted",
       with([](ProcAttr& a) { a.sys.credential = Credential{.uid = 0, .gid = 0, .groups = {0}}; },
            own)});
  expect_failure(
      {Step::kSetgid, EINVAL, "setgid: Invalid argument",
       with([](ProcAttr& a) { a.sys.credential = Credential{.uid = 0, .gid = 5}; }, own)});
  expect_failure(
      {Step::kSetuid, EINVAL, "setuid: Invalid argument",
       with([](ProcAttr& a) { a.sys.credential = Credential{.uid = 5, .gid = 0}; }, own)});
}

TEST_F(Steps, Capabilities) {
  SKIP_WITHOUT_USER_NAMESPACES();
  const auto caps = [](std::vector<uint32_t> list) {
    return with([&](ProcAttr& a) { a.sys.ambient_caps = std::move(list); }, in_user_namespace());
  };
  expect_failure({Step::kCapget,
                  EPERM,
                  "capget: Operation not permitted",
                  caps({CAP_CHOWN}),
                  {{SYS_capget, EPERM}}});
  expect_failure({Step::kCapset,
                  EPERM,
                  "capset: Operation not permitted",
                  caps({CAP_CHOWN}),
                  {{SYS_capset, EPERM}}});
  expect_failure({Step::kAmbientCaps,
                  EINVAL,
                  "ambient_caps[1]: Invalid argument",
                  caps({CAP_CHOWN, 63}),
                  {},
                  1});
}

TEST_F(Steps, UpToExec) {
  expect_failure({Step::kChdir, ENOENT, "chdir: No such file or directory",
                  with([](ProcAttr& a) { a.dir = "/nowhere"; })});
  expect_failure({Step::kPdeathsig,
                  EPERM,
                  "pdeathsig: Operation not permitted",
                  with([](ProcAttr& a) { a.sys.pdeathsig = SIGTERM; }),
                  {{SYS_prctl, EPERM, 0, PR_SET_PDEATHSIG}}});
  expect_failure({Step::kFiles,
                  EBADF,
                  "files[3]: Bad file descriptor",
                  with([](ProcAttr& a) {
                    a.files = {0, 1, 2, 987};
                  }),
                  {},
                  3});
  expect_failure({Step::kCloseOthers,
                  EACCES,
                  "close other files: Permission denied",
                  {},
                  {{SYS_close_range, EACCES}}});
  expect_failure({Step::kCloseOthers,
                  EMFILE,
                  "close other files: Too many open files",
                  {},
                  {{SYS_close_range, ENOSYS}, {SYS_getdents64, EMFILE}}});
  expect_failure({Step::kPtrace,
                  EPERM,
                  "ptrace: Operation not permitted",
                  with([](ProcAttr& a) { a.sys.ptrace = true; }),
                  {{SYS_ptrace, EPERM}}});
  expect_failure({Step::kSignalMask,
                  EINVAL,
                  "signal mask: Invalid argument",
                  {},
                  {{SYS_rt_sigprocmask, EINVAL, 0, SIG_SETMASK}}});
  Failing exec{Step::kExec, ENOENT, "exec: No such file or directory"};
  exec.path = "/nowhere/true";
  expect_failure(exec);
  exec = {Step::kExec, EACCES, "exec: Permission denied"};
  exec.path = "/etc/passwd";
  expect_failure(exec);
}

TEST_F(Steps, EveryStepHasItsOwnName) {
  std::vector<std::string_view> names;
  for (int i = 0; i <= static_cast<int>(Step::kExec); ++i) {
    const std::string_view name = step_name(static_cast<Step>(i));
    EXPECT_NE(name, "unknown step") << i;
    for (const std::string_view other : names) EXPECT_NE(name, other);
    names.push_back(name);
  }
}

}  // namespace
}  // namespace caisson::sys
