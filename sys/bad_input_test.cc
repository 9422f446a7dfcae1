// Input that makes no sense: refused before any process is made, with the field's name.
#include <gtest/gtest.h>

#include "sys/test_support.h"

namespace caisson::sys {
namespace {

using test::in_user_namespace;
using test::no_children;
using test::open_descriptors;
using test::Output;
using test::run;
using test::shell;

struct Bad {
  const char* text;
  int error;
  ProcAttr attr = {};
  std::string path = "/bin/true";
  std::vector<std::string> argv = {"true"};
};

void expect_refused(const Bad& bad) {
  SCOPED_TRACE(bad.text);
  const int before = open_descriptors();
  auto process = start_process(bad.path, bad.argv, bad.attr);
  ASSERT_FALSE(process.ok());
  EXPECT_EQ(process.error().step, Step::kAttributes);
  EXPECT_EQ(process.error().code, Errno(bad.error));
  EXPECT_EQ(process.error().text(), bad.text);
  EXPECT_EQ(process.error().to_error().code(), Errno(bad.error));
  auto pid = fork_exec(bad.path, bad.argv, bad.attr);
  ASSERT_FALSE(pid.ok());
  EXPECT_EQ(pid.error().text(), bad.text);
  EXPECT_EQ(open_descriptors(), before);
  EXPECT_TRUE(no_children());
}

template <typename F>
ProcAttr with(F change, ProcAttr attr = {}) {
  change(attr);
  return attr;
}

TEST(BadInput, Strings) {
  const std::string nul("a\0b", 3);
  expect_refused({"path holds a NUL byte: Invalid argument", EINVAL, {}, nul});
  expect_refused({"argv is empty: it needs at least the program's name: Invalid argument",
                  EINVAL,
                  {},
                  "/bin/true",
                  {}});
  expect_refused(
      {"argv[1] holds a NUL byte: Invalid argument", EINVAL, {}, "/bin/true", {"true", nul}});
  expect_refused({"env[1] holds a NUL byte: Invalid argument", EINVAL, with([&](ProcAttr& a) {
                    a.env = {"A=1", nul};
                  })});
  expect_refused(
      {"dir holds a NUL byte: Invalid argument", EINVAL, with([&](ProcAttr& a) { a.dir = nul; })});
  expect_refused({"chroot holds a NUL byte: Invalid argument", EINVAL,
                  with([&](ProcAttr& a) { a.sys.chroot = nul; })});
}

TEST(BadInput, CloneFlags) {
  const auto flags = [](uint64_t bits) {
    return with([&](ProcAttr& a) { a.sys.clone_flags = bits; });
  };
  expect_refused(
      {"clone_flags: CLONE_FILES|CLONE_THREAD is not for starting programs: "
       "Invalid argument",
       EINVAL, flags(CLONE_FILES | CLONE_THREAD)});
  for (const uint64_t flag : {CLONE_SIGHAND, CLONE_SETTLS, CLONE_PARENT_SETTID, CLONE_CHILD_SETTID,
                              CLONE_CHILD_CLEARTID, CLONE_DETACHED}) {
    const std::string text = "clone_flags: " + clone_flags_text(flag) +
                             " is not for starting programs: Invalid argument";
    expect_refused({text.c_str(), EINVAL, flags(flag)});
  }
  expect_refused({"clone_flags: unknown 0x8000000000000001: Invalid argument", EINVAL,
                  flags(uint64_t{1} << 63 | 1)});
  expect_refused({"clone_flags: CLONE_INTO_CGROUP needs use_cgroup_fd: Invalid argument", EINVAL,
                  flags(CLONE_INTO_CGROUP)});
  expect_refused(
      {"clone_flags: with CLONE_FS, dir and chroot would be the caller's: "
       "Invalid argument",
       EINVAL, with([](ProcAttr& a) { a.dir = "/"; }, flags(CLONE_FS))});
  // What is right there already, or only makes sense together with others.
  for (const uint64_t flag : std::initializer_list<uint64_t>{
           CLONE_VM, CLONE_VFORK, CLONE_FS, CLONE_IO, CLONE_SYSVSEM, CLONE_UNTRACED, CLONE_PTRACE,
           CLONE_CLEAR_SIGHAND, CLONE_PIDFD})
    EXPECT_EQ(shell("echo ran", flags(flag)).text, "ran\n") << clone_flags_text(flag);
  EXPECT_EQ(fork_exec("/bin/true", {"true"}, flags(CLONE_PIDFD)).error().text(),
            "clone_flags: CLONE_PIDFD is for start_process: Invalid argument");
  // Linux's own refusal.
  auto process = start_process("/bin/true", {"true"}, flags(CLONE_NEWNS | CLONE_FS));
  EXPECT_EQ(process.error().text(), "clone: Invalid argument");
}

TEST(BadInput, Maps) {
  const auto maps = [](std::vector<SysProcIDMap> uid) {
    return with([&](ProcAttr& a) { a.sys.uid_mappings = std::move(uid); }, in_user_namespace());
  };
  expect_refused({"uid_mappings[1] overlaps uid_mappings[0]: Invalid argument", EINVAL,
                  maps({{0, 1000, 10}, {9, 2000, 10}})});
  expect_refused({"uid_mappings[2] overlaps uid_mappings[1]: Invalid argument", EINVAL,
                  maps({{0, 5000, 1}, {10, 1000, 10}, {20, 1005, 1}})});
  for (const SysProcIDMap& line :
       {SysProcIDMap{0, 0, 0}, SysProcIDMap{-1, 0, 1}, SysProcIDMap{0, -1, 1},
        SysProcIDMap{0, 0, -1}, SysProcIDMap{int64_t{1} << 32, 0, 1},
        SysProcIDMap{0, 0xfffffff0, 100}, SysProcIDMap{0, 0, INT64_MAX}})
    expect_refused(
        {"uid_mappings[0] is not a range of 32-bit ids: Invalid argument", EINVAL, maps({line})});
  ProcAttr attr = in_user_namespace();
  attr.sys.clone_flags = 0;
  expect_refused(
      {"uid_mappings need CLONE_NEWUSER in clone_flags or unshare_flags: "
       "Operation not permitted",
       EPERM, attr});
  attr.sys.uid_mappings.clear();
  expect_refused(
      {"gid_mappings need CLONE_NEWUSER in clone_flags or unshare_flags: "
       "Operation not permitted",
       EPERM, attr});
}

TEST(BadInput, TerminalFilesCapsAndSignal) {
  expect_refused({"setctty and foreground exclude each other: Invalid argument", EINVAL,
                  with([](ProcAttr& a) { a.sys.setctty = a.sys.foreground = true; })});
  for (const int ctty : {-1, 3})
    expect_refused({"ctty is not an index into files, as setctty needs: Invalid argument", EINVAL,
                    with([&](ProcAttr& a) {
                      a.sys.setctty = a.sys.setsid = true;
                      a.sys.ctty = ctty;
                    })});
  expect_refused({"files[1] is negative: Bad file descriptor", EBADF, with([](ProcAttr& a) {
                    a.files = {0, -2};
                  })});
  expect_refused({"cgroup_fd is negative: Bad file descriptor", EBADF,
                  with([](ProcAttr& a) { a.sys.use_cgroup_fd = true; })});
  expect_refused({"ambient_caps[0] is not a capability: Invalid argument", EINVAL,
                  with([](ProcAttr& a) { a.sys.ambient_caps = {64}; })});
  expect_refused({"pdeathsig is not a signal: Invalid argument", EINVAL,
                  with([](ProcAttr& a) { a.sys.pdeathsig = 65; })});
}

TEST(BadInput, ArgumentsUpToLinuxsLimit) {
  constexpr size_t kLimit = 131072;  // MAX_ARG_STRLEN, the NUL included
  EXPECT_EQ(run(test::helper_path(), {"helper", "arguments", std::string(kLimit - 1, 'x')}).text,
            "1 131072\n");
  EXPECT_EQ(run(test::helper_path(), {"helper", "arguments", std::string(kLimit, 'x')}).text,
            "start: exec: Argument list too long");
  EXPECT_EQ(run(test::helper_path(), {"helper", "arguments", "a", "", "b"}).text, "3 5\n");
}

TEST(BadInput, DefaultSignalNumberZeroIsNoDeathSignal) {
  EXPECT_EQ(shell("echo ran", with([](ProcAttr& a) { a.sys.pdeathsig = Signal(); })).text, "ran\n");
}

}  // namespace
}  // namespace caisson::sys
