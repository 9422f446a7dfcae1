// For the room's tests: run a program to its end and read what it wrote; do things on a thread with
// a seccomp filter; know who runs the test.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <vector>

#include "caisson/sys.h"

namespace caisson::sys::test {

struct Output {
  std::string text;  // standard output, or "start: ..." where the start failed
  WaitStatus status;
  friend bool operator==(const Output&, const Output&) = default;
};

inline std::string read_all(int fd) {
  std::string text;
  std::byte buffer[4096];
  for (;;) {
    const auto got = read(fd, buffer);
    if (!got.ok() && got.error() == Errno(EINTR)) continue;
    if (!got.ok() || *got == 0) return text;
    text.append(reinterpret_cast<const char*>(buffer), *got);
  }
}

// Runs with standard output captured; files[1] of the attributes is replaced.
inline Output run(const std::string& path, const std::vector<std::string>& argv,
                  ProcAttr attr = {}) {
  Pipe out = MUST(pipe2(O_CLOEXEC));
  if (attr.files.size() < 2) attr.files.resize(2, -1);
  attr.files[1] = out.write_end.get();
  auto process = start_process(path, argv, attr);
  if (!process.ok()) return {"start: " + process.error().text(), WaitStatus()};
  out.write_end.reset();
  Output output{read_all(out.read_end.get()), WaitStatus()};
  const auto end = process->wait();
  EXPECT_TRUE(end.ok());
  if (end.ok()) output.status = end->status;
  return output;
}

inline Output shell(const std::string& script, ProcAttr attr = {}) {
  return run("/bin/sh", {"sh", "-c", script}, std::move(attr));
}

inline bool is_root() { return ::geteuid() == 0; }

// Whether the host refuses user namespaces to us, as in a chroot and in many containers. Asks by
// unshare(2), not by the library under test.
bool refuses_user_namespaces();
#define SKIP_WITHOUT_USER_NAMESPACES()                 \
  if (::caisson::sys::test::refuses_user_namespaces()) \
  GTEST_SKIP() << "the host refuses user namespaces"

// In a fresh user namespace with only ourselves mapped, to `inside`.
inline ProcAttr in_user_namespace(int64_t inside = 0, uint64_t more_flags = 0) {
  ProcAttr attr;
  attr.sys.clone_flags = CLONE_NEWUSER | more_flags;
  attr.sys.uid_mappings = {{.container_id = inside, .host_id = ::geteuid(), .size = 1}};
  attr.sys.gid_mappings = {{.container_id = inside, .host_id = ::getegid(), .size = 1}};
  return attr;
}

// One rule of a filter: this call, with this value in this argument (-1: any), gives this errno;
// kKill ends the process.
inline constexpr int kKill = -1;
struct Denied {
  int nr;
  int error;
  int argument = -1;
  uint32_t value = 0;
  uint32_t mask = ~0u;  // of the argument's low half
};

// Runs the function on a thread of its own whose system calls, and those of the processes that it
// starts, are filtered so. True: the filter was installed.
bool with_denied(const std::vector<Denied>& denied, const std::function<void()>& function);

// The path of test_helper.cc's program.
const char* helper_path();

// What the helper's "files" prints for descriptor `place` if it is a copy of our `fd`.
std::string file_line(int place, int fd);

// Descriptors of this process, to see leaks.
int open_descriptors();
// races_test.cc: what `sys_test --signal-own-group` does; the exit status.
int signal_own_group();
// allocation_test.cc: what `sys_test --first-environment` does; the exit status.
int first_environment();

// No child is left to wait for.
bool no_children();

}  // namespace caisson::sys::test
