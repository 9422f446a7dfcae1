// Children that run a function in place of a program.
#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <cerrno>
#include <mutex>

#include "sys/test_support.h"

namespace caisson::sys {
namespace {

using test::in_user_namespace;
using test::no_children;
using test::open_descriptors;
using test::with_denied;

const WaitStatus kSuccess{0};

WaitStatus status_of(ChildFunction function, void* argument = nullptr, const ProcAttr& attr = {}) {
  auto process = start_function(function, argument, attr);
  if (!process.ok()) {
    ADD_FAILURE() << process.error().text();
    return WaitStatus(0xff00);
  }
  return MUST(process->wait()).status;
}

TEST(Function, RunsInACopyOfTheMemory) {
  int value = 7;
  auto process = start_function(
      [](void* argument) {
        int& mine = *static_cast<int*>(argument);
        mine += 1;
        return mine;
      },
      &value);
  ASSERT_TRUE(process.ok()) << process.error().text();
  EXPECT_GE(process->pidfd(), 0);
  EXPECT_EQ(MUST(process->wait()).status.exit_status(), 8);
  EXPECT_EQ(value, 7);
  EXPECT_TRUE(no_children());
}

// Exit status 0: exactly the descriptors below 4 are open, the last is the pipe of the argument.
int has_four_descriptors(void*) {
  for (int fd = 0; fd < 1024; ++fd) {
    const bool is_open = fcntl(fd, F_GETFD) >= 0;
    if (is_open != (fd < 4)) return 1 + fd % 100;
  }
  return ::write(3, "x", 1) == 1 ? 0 : 110;
}

TEST(Function, HasTheNamedDescriptorsAndNoOther) {
  const Pipe pipe_ends = MUST(pipe());  // not close-on-exec
  const UniqueFd high(fcntl(pipe_ends.read_end.get(), F_DUPFD, 900));
  const int before = open_descriptors();
  ProcAttr attr;
  attr.files = {0, 1, 2, pipe_ends.write_end.get()};
  const auto expect_right = [&] {
    EXPECT_EQ(status_of(has_four_descriptors, nullptr, attr), kSuccess);
    std::byte byte{};
    EXPECT_EQ(::read(pipe_ends.read_end.get(), &byte, 1), 1);
  };
  expect_right();
  EXPECT_TRUE(with_denied({{SYS_close_range, ENOSYS}}, expect_right));
  EXPECT_TRUE(with_denied({{SYS_clone3, ENOSYS}}, expect_right));
  EXPECT_EQ(open_descriptors(), before);
}

TEST(Function, KeepsAllDescriptorsOnRequest) {
  const UniqueFd file = MUST(open("/dev/null", O_RDONLY | O_CLOEXEC));
  ProcAttr attr;
  attr.keep_other_files = true;
  int fd = file.get();
  const auto is_closed = [](void* argument) {
    return fcntl(*static_cast<int*>(argument), F_GETFD) < 0 ? 1 : 0;
  };
  EXPECT_EQ(status_of(is_closed, &fd, attr), kSuccess);
  EXPECT_EQ(status_of(is_closed, &fd).exit_status(), 1);
}

TEST(Function, NamespacesSessionAndDeathSignal) {
  SKIP_WITHOUT_USER_NAMESPACES();
  ProcAttr attr = in_user_namespace(0, CLONE_NEWPID);
  attr.sys.unshare_flags = CLONE_NEWNS;
  attr.sys.setsid = true;
  attr.sys.pdeathsig = SIGKILL;
  EXPECT_EQ(status_of(
                [](void*) {
                  int signal = 0;
                  prctl(PR_GET_PDEATHSIG, &signal);
                  return getpid() == 1 && getsid(0) == 1 && geteuid() == 0 && signal == SIGKILL ? 0
                                                                                                : 1;
                },
                nullptr, attr),
            kSuccess);
}

// What the C library keeps about the thread is the child's: else these would hit our own thread's
// number, which is nobody or a stranger in the child.
TEST(Function, TheThreadKnowsItself) {
  static Result<int> (*const start_again)() = [] {
    auto process = start_function([](void*) { return 5; }, nullptr);
    if (!process.ok()) return Result<int>(process.error().code);
    return Result<int>(process->wait()->status.exit_status());
  };
  EXPECT_EQ(status_of(
                [](void*) {
                  if (pthread_kill(pthread_self(), 0) != 0) return 1;
                  int* address = nullptr;
                  prctl(PR_GET_TID_ADDRESS, &address);
                  if (address == nullptr || *address != syscall(SYS_gettid)) return 2;
                  // The fork lock is free again here.
                  if (!fork_lock().try_lock_shared()) return 3;
                  fork_lock().unlock_shared();
                  auto again = start_again();
                  return again.ok() && *again == 5 ? 0 : 4;
                },
                nullptr),
            kSuccess);
}

// The tests are compiled with exceptions. None may go on in the copy of this function.
TEST(Function, AnExceptionEndsTheChild) {
  const int caller = getpid();
  try {
    const WaitStatus status = status_of([](void*) -> int { throw 5; });
    EXPECT_EQ(getpid(), caller);
    EXPECT_EQ(status.signal(), Signal(SIGABRT));
  } catch (int) {
    exit(77);  // in the child, so that the status is wrong
  }
  EXPECT_TRUE(no_children());
}

int handled = 0;

TEST(Function, SignalsAreAsForAProgram) {
  struct sigaction action {};
  struct sigaction before {};
  action.sa_handler = [](int) { handled = 1; };
  sigaction(SIGUSR1, &action, &before);
  const auto end_by_signal = [](void*) {
    ::kill(static_cast<pid_t>(syscall(SYS_getpid)), SIGUSR1);
    return 0;
  };
  const auto expect_default = [&] {
    EXPECT_EQ(status_of(end_by_signal).signal(), Signal(SIGUSR1));
  };
  expect_default();
  EXPECT_TRUE(with_denied({{SYS_clone3, ENOSYS}}, expect_default));
  sigaction(SIGUSR1, &before, nullptr);
  EXPECT_EQ(handled, 0);
}

TEST(Function, FailuresNameTheStep) {
  const int before = open_descriptors();
  const auto expect = [](const ProcAttr& attr, const char* text) {
    auto process = start_function([](void*) { return 0; }, nullptr, attr);
    ASSERT_FALSE(process.ok());
    EXPECT_EQ(process.error().text(), text);
  };
  ProcAttr attr;
  attr.dir = "/nonexistent";
  expect(attr, "chdir: No such file or directory");
  attr = {};
  attr.files = {0, 1, 999};
  expect(attr, "files[2]: Bad file descriptor");
  attr = {};
  attr.env.emplace();
  expect(attr, "env is for programs, not for functions: Invalid argument");
  attr = {};
  attr.sys.ptrace = true;
  expect(attr, "ptrace is for programs, not for functions: Invalid argument");
  auto null = start_function(nullptr, nullptr);
  ASSERT_FALSE(null.ok());
  EXPECT_EQ(null.error().text(), "function is null: Invalid argument");
  EXPECT_EQ(open_descriptors(), before);
  EXPECT_TRUE(no_children());
}

}  // namespace
}  // namespace caisson::sys
