// ChildPlan: all that the child does between clone and exec (or its function), prepared by the
// caller.
//
// One per start, on the caller's stack. A child in shared memory reads and writes the very object,
// in copied memory its own copy. It reports through report_fd where there is one (copied memory, or
// id maps for the caller to write), else in the result fields.
#pragma once

#include <cstddef>
#include <cstdint>

#include "caisson/sys/start.h"

namespace caisson::sys::internal {

// Message between caller and child on the report socket.
struct Report {
  enum Kind : int32_t {
    kFailure,   // child -> caller: step, error, index
    kWantMaps,  // child -> caller: I am in my user namespace
    kMapsDone,  // caller -> child
    // child -> caller: nothing is left to do but exec, or to run the function. `step` is 1 if the
    // child has locked its end (fcntl(2)): the lock goes with exec, or with the child after a
    // kFailure, also where a stranger that was forked meanwhile holds copies of the socket.
    kExecuting,
  };
  int32_t kind;
  int32_t step;
  int32_t error;
  int32_t index;
};

// struct __user_cap_header_struct and __user_cap_data_struct, version 3.
struct CapHeader {
  uint32_t version;
  int32_t pid;
};
struct CapData {
  uint32_t effective;
  uint32_t permitted;
  uint32_t inheritable;
};

// One call towards the child's descriptors; plan_files() orders them.
struct FileStep {
  enum Kind : int32_t {
    kKeep,       // `to` is at its place: clear its close-on-exec flag
    kCopy,       // dup3(from, to)
    kSave,       // put a copy of `from` aside
    kCopySaved,  // dup3(what was put aside, to); what was put aside is closed
    kClose,      // close(to); it need not be open
  };
  Kind kind;
  int from;
  int to;
};

struct ChildPlan {
  const char* path = nullptr;
  char* const* argv = nullptr;
  char* const* envp = nullptr;
  // In place of a program; never returns. `path`, `argv` and `envp` are unused then.
  void (*function)(void* argument) = nullptr;
  void* function_argument = nullptr;
  const char* dir = nullptr;     // null: stay
  const char* chroot = nullptr;  // null: stay

  const FileStep* file_steps = nullptr;
  size_t file_step_count = 0;
  int file_count = 0;
  int first_free = 3;  // above the places of all files and of the standard descriptors
  bool close_others = true;

  uint64_t caller_mask = 0;  // the caller's signal mask
  uint64_t unshare_flags = 0;
  bool reset_signals = false;     // no CLONE_CLEAR_SIGHAND
  int join_cgroup_fd = -1;        // no CLONE_INTO_CGROUP
  bool maps_after_clone = false;  // the caller writes the maps of the namespace from clone
  bool maps_after_unshare = false;
  bool setsid = false;
  bool setpgid = false;
  bool foreground = false;
  bool noctty = false;
  bool setctty = false;
  bool ptrace = false;
  bool caller_traces = false;  // ptrace, and the tracer is the caller, which sleeps until exec
  bool has_credential = false;
  bool set_groups = false;
  int pgid = 0;
  int ctty = 0;
  uint32_t uid = 0;
  uint32_t gid = 0;
  const uint32_t* groups = nullptr;
  size_t group_count = 0;
  const uint32_t* ambient_caps = nullptr;
  size_t ambient_cap_count = 0;
  int pdeathsig = 0;
  int parent_pid = 0;     // what getppid(2) gives while the caller lives
  int parent_pidfd = -1;  // asked instead where the host has it: namespaces do not hide it

  int report_fd = -1;         // the child's end; -1: shared memory and vfork, no socket
  int report_caller_fd = -1;  // the caller's end, to be closed in the child

  // Results in shared memory.
  volatile bool executing = false;
  volatile int failed_step = -1;
  volatile int failed_error = 0;
  volatile int failed_index = -1;
};

// The child. Never returns.
[[noreturn]] void run_child(ChildPlan* plan);

}  // namespace caisson::sys::internal
