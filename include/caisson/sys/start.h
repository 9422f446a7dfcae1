// start_process(): starts a program, with credentials, namespaces, terminal, cgroup and descriptors
// as asked, or says which step failed and why.
//
// A plain start is one line: start_process("/bin/true", {"true"}). The child shares the caller's
// memory until it runs the program (as after vfork(2)), so that a start costs the same from a large
// process as from a small one; copies_memory() says for which attributes it cannot.
//
// start_function() runs a function of this program in the child instead, in a copy of its memory.
//
// Signals: the child gets the caller's mask; handled signals are reset, ignored ones stay ignored,
// as after execve(2). No pthread_atfork() function runs. The calling thread is not interrupted
// by signals until the program runs; other threads go on.
//
// A start works on threads whose stack is PTHREAD_STACK_MIN, 16 KiB. std::bad_alloc, in
// programs that catch it, comes before there is a child, and leaves nothing behind.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "caisson/sys/clone_flags.h"
#include "caisson/sys/signal.h"
#include "caisson/sys/wait.h"

namespace caisson::sys {

// User and groups that the child takes on.
struct Credential {
  uint32_t uid = 0;
  uint32_t gid = 0;
  // Empty: none. But they are left as they are where gid_mappings is set and
  // gid_mappings_enable_setgroups is off: Linux refuses setgroups(2) then.
  std::vector<uint32_t> groups = {};
  bool no_set_groups = false;  // leave the supplementary groups as they are
};

// One line of a user namespace's map, user_namespaces(7).
struct SysProcIDMap {
  int64_t container_id = 0;
  int64_t host_id = 0;
  int64_t size = 0;
};

// The child applies them in the order of Step, below.
struct SysProcAttr {
  // Set on clone: any CLONE_* of clone_flags.h. EINVAL for
  //  - CLONE_FILES, CLONE_SIGHAND, CLONE_THREAD, and CLONE_FS together with dir or chroot: the
  //    child would change the caller;
  //  - CLONE_SETTLS, CLONE_PARENT_SETTID, CLONE_CHILD_SETTID, CLONE_CHILD_CLEARTID: they take
  //    pointers;
  //  - CLONE_DETACHED, unknown bits, and CLONE_INTO_CGROUP without use_cgroup_fd.
  // Accepted without effect, because a start decides them itself: CLONE_VM, CLONE_VFORK,
  // CLONE_CLEAR_SIGHAND, CLONE_PIDFD (EINVAL for fork_exec()).
  uint64_t clone_flags = 0;
  // Unshared by the child, after its session, process group and foreground, before its root and
  // credential. With CLONE_NEWNS all mounts also become private to it.
  uint64_t unshare_flags = 0;
  // Written for a CLONE_NEWUSER in either set of flags. An ordinary user may map itself, with
  // gid_mappings_enable_setgroups off.
  std::vector<SysProcIDMap> uid_mappings = {};
  std::vector<SysProcIDMap> gid_mappings = {};
  bool gid_mappings_enable_setgroups = false;

  bool use_cgroup_fd = false;  // start inside the cgroup (v2) whose directory is cgroup_fd
  int cgroup_fd = -1;

  bool setsid = false;
  bool setpgid = false;  // join process group pgid; 0: a new one
  int pgid = 0;
  // Make that process group (implies setpgid) the terminal's foreground one. `ctty` is the
  // caller's descriptor. Not together with setctty.
  bool foreground = false;
  // These two come after the files.
  bool noctty = false;  // give up the controlling terminal, the child's descriptor 0
  // Take `ctty`, the child's descriptor; needs setsid. With CAP_SYS_ADMIN it is taken away from
  // another session that has it, which loses its terminal (ioctl_tty(2), TIOCSCTTY with 1).
  bool setctty = false;
  int ctty = 0;

  std::string chroot = {};  // the working directory stays outside unless `dir` is set too
  std::optional<Credential> credential = std::nullopt;
  std::vector<uint32_t> ambient_caps = {};  // capability numbers, kept across credential and exec
  // Sent to the child when the calling *thread* ends, prctl(2) PR_SET_PDEATHSIG. A child whose
  // parent is gone already does not run the program.
  Signal pdeathsig = {};
  // PTRACE_TRACEME, the last step: the child stops at exec, and the calling thread traces it. Who
  // sends the child SIGSTOP or SIGTRAP between this step and exec stops it for a tracer that is
  // still in the start: the start then lasts until the child is killed.
  bool ptrace = false;
};

struct ProcAttr {
  std::string dir = {};  // working directory; empty: the caller's
  // The environment; nullopt: a snapshot of environ().
  std::optional<std::vector<std::string>> env = std::nullopt;
  // files[i] becomes descriptor i; -1: closed. Any order, duplicates and swaps are right.
  std::vector<int> files = {0, 1, 2};
  // Let the caller's other descriptors through unless they are close-on-exec. Otherwise the child
  // has nothing but `files`.
  bool keep_other_files = false;
  SysProcAttr sys = {};
};

// Where a start failed.
enum class Step : uint8_t {
  // In the caller.
  kAttributes,    // what was asked for makes no sense; StartError::detail names the field
  kReport,        // the socket between caller and child
  kClone,         // clone3(2), clone(2)
  kUidMap,        // /proc/PID/uid_map; ESRCH: /proc is not of our PID namespace
  kSetgroupsMap,  // /proc/PID/setgroups
  kGidMap,        // /proc/PID/gid_map
  kChild,         // ESRCH: the child was killed before it could run the program
  // In the child, in this order.
  kSignalReset,  // rt_sigaction(2); only where the host lacks CLONE_CLEAR_SIGHAND
  kCgroup,       // cgroup.procs; only where the host lacks CLONE_INTO_CGROUP
  kKeepCaps,     // prctl(2) PR_SET_KEEPCAPS, for ambient_caps
  kMapWait,      // talking to the caller about the maps
  kSetsid,
  kSetpgid,
  kForeground,  // ioctl_tty(2) TIOCSPGRP
  kUnshare,
  kMountPrivate,  // mount(2) of / as private
  kChroot,
  kSetgroups,
  kSetgid,
  kSetuid,
  kCapget,
  kCapset,
  kAmbientCaps,  // prctl(2) PR_CAP_AMBIENT_RAISE; index: in ambient_caps
  kChdir,
  kPdeathsig,
  kFiles,        // dup3(2) and fcntl(2); index: in files
  kCloseOthers,  // close_range(2) or /proc/self/fd
  kNoctty,       // TIOCNOTTY
  kSetctty,      // TIOCSCTTY
  kSignalMask,   // rt_sigprocmask(2)
  kPtrace,
  kExec,  // execve(2); start_function() has no such step
};

// "setgroups", "exec".
std::string_view step_name(Step step);

struct [[nodiscard]] StartError {
  Step step;
  Errno code;
  int index = -1;           // which entry of a list; -1: not about a list
  std::string detail = {};  // for kAttributes: the field and what is wrong with it

  // "setgroups: Operation not permitted", "files[3]: Bad file descriptor",
  // "argv[1] holds a NUL byte: Invalid argument".
  std::string text() const;
  Error to_error() const;
};

// A started child. Owns its pidfd; destroying it neither kills nor reaps the child.
//
// kill(), wait() and try_wait() may be called on any threads at a time: one of them is told of the
// end, the others get ECHILD. Moving and take_pidfd() are for a thread alone.
class Process {
 public:
  Process(int pid, UniqueFd pidfd) : pid_(pid), pidfd_(std::move(pidfd)) {}
  Process(Process&& other) noexcept
      : pid_(other.pid_), pidfd_(std::move(other.pidfd_)), reaped_(other.reaped_.load()) {}
  Process& operator=(Process&& other) noexcept {
    pid_ = other.pid_;
    pidfd_ = std::move(other.pidfd_);
    reaped_ = other.reaped_.load();
    return *this;
  }

  int pid() const { return pid_; }
  // Readable once the child has ended; -1 where the host has no pidfds.
  int pidfd() const { return pidfd_.get(); }
  // From here on kill(), wait() and try_wait() go by the number.
  UniqueFd take_pidfd() { return std::move(pidfd_); }

  // Through the pidfd: never reaches a stranger that was given the same number. ESRCH once reaped.
  // Without a pidfd it goes by the number, which is the child's until wait(), try_wait() or others
  // have reaped it: then no thread may be waiting, and nobody else may reap. The same where a
  // filter forbids pidfd_send_signal(2), but a child that is known to be reaped gets no signal.
  Result<void> kill(Signal signal) const;
  // Waits for the end and reaps; signals to the caller do not end the wait. A child that the caller
  // traces (`ptrace`) also reports its stops, status.stopped(), and is to be waited for again.
  // ECHILD: reaped already, by us or by another, or SIGCHLD is ignored.
  Result<WaitResult> wait();
  // The same without waiting: nullopt while the child runs.
  Result<std::optional<WaitResult>> try_wait();

 private:
  Result<WaitResult> wait_with(int options);

  int pid_;
  UniqueFd pidfd_;
  std::atomic<bool> reaped_{false};
};

// argv must not be empty; argv[0] is the program's name for itself. `path` is not searched for.
Result<Process, StartError> start_process(const std::string& path,
                                          const std::vector<std::string>& argv,
                                          const ProcAttr& attr = {});
// The same; only the number comes back, so CLONE_PIDFD in clone_flags is EINVAL.
Result<int, StartError> fork_exec(const std::string& path, const std::vector<std::string>& argv,
                                  const ProcAttr& attr = {});

// What runs in a child that start_function() makes; its result is the exit status.
using ChildFunction = int (*)(void* argument);

// Starts a child that runs `function(argument)` in place of a program: a copy of this process with
// this thread alone, as after fork(2), to which everything in `attr` is done first. It ends with
// the function, without atexit functions or flushing. What differs from a program:
//  - descriptors are closed in the child, not marked: it has `files` and nothing else. With
//    keep_other_files it has all of the caller's, close-on-exec or not;
//  - `env` and `ptrace` are for programs: EINVAL;
//  - an exception that leaves the function ends the child by SIGABRT (std::terminate());
//  - no pthread_atfork() function has run: if the caller has other threads, their locks may be held
//    for ever, and the function must keep to what a signal handler may do.
Result<Process, StartError> start_function(ChildFunction function, void* argument,
                                           const ProcAttr& attr = {});

// Does a start with these attributes copy the caller's memory map first, as fork(2) does? True for
//  - credential: a process that changes its ids makes the memory it runs in undumpable, and that
//    must not happen to the caller's;
//  - CLONE_NEWTIME in clone_flags, CLONE_VM or CLONE_SIGHAND in unshare_flags: Linux, or older
//    versions of it, refuse them for shared memory; CLONE_NEWTIME in unshare_flags goes the same
//    way.
// start_function() copies it always.
bool copies_memory(const ProcAttr& attr);

}  // namespace caisson::sys
