// Child: a forked process that never outlives the test. The body runs in the child; what it returns
// is the exit status. Checks inside use REQUIRE. A child that does not end in time is killed and
// shows as killed by SIGKILL.
#pragma once

#include <sys/resource.h>
#include <sys/types.h>

#include <functional>

#include "tests/util/require.h"
#include "tests/util/result_matchers.h"

namespace caisson::test {

class Child {
 public:
  // Throws when fork fails.
  static Child run(const std::function<int()>& body);
  // Takes over a child made by other means (vfork, clone).
  static Child adopt(pid_t pid) { return Child(pid); }

  Child(Child&& other) noexcept;
  Child& operator=(Child&& other) = delete;
  ~Child();

  // Stays the same after the end.
  pid_t pid() const { return pid_; }
  // Waits for the end and reaps. After `timeout_ms` the child is killed. Returns the wait status.
  int wait(int timeout_ms = 20'000);
  // Waits until wait4 with `options` reports something (a stop, say); the status. Throws at the
  // timeout.
  int wait_event(int options, int timeout_ms = 10'000);
  void kill(int signal) const;
  // The test reaped it itself.
  void disown() { owned_ = false; }

 private:
  explicit Child(pid_t pid) : pid_(pid) {}

  pid_t pid_;
  // Not reaped yet.
  bool owned_ = true;
};

// fork() + body + _exit(), as Child::run does; for tests that want the number only.
pid_t fork_running(const std::function<int()>& body);
// In a child: die when the parent's forking thread dies.
void die_with_parent();

}  // namespace caisson::test
