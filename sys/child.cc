// What a started child does between clone and exec (or the function that runs in place of a
// program): run_child(), all of it in this file.
//
// Rules. The child may share its memory with the caller, whose other threads run on; their locks
// may be held for ever as far as the child is concerned. So, here:
//  - raw system calls only: no libc, no errno, no thread-local variable;
//  - no allocation, no lock, no call to a function of another file (the test sys_child_symbols
//    checks that this file's object refers to none); nothing here is instrumented by sanitizers;
//  - nothing of the caller's is written but the plan's result fields and its report_fd;
//  - a small stack: kChildStackSize in start.cc;
//  - every step that can fail has a name (Step) and ends the child through fail().
// All signals are blocked until the last step before exec.
#include "sys/child.h"

#include <asm/ioctls.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/prctl.h>
#include <linux/ptrace.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/socket.h>

#include "host/raw_syscall.h"

namespace caisson::sys::internal {
namespace {

using host::raw_arg;
using host::raw_syscall;
using host::RawResult;

constexpr int kChildExitCode = 127;  // seen by nobody but a tracer: the caller reaps

[[noreturn]] void end_child() {
  for (;;) raw_syscall(SYS_exit_group, kChildExitCode).ignore();
}

void send_report(const ChildPlan* plan, Report::Kind kind, int step, int error, int index) {
  const Report report{kind, step, error, index};
  RawResult sent(0);
  do {
    sent = raw_syscall(SYS_sendto, plan->report_fd, raw_arg(&report), sizeof(report), MSG_NOSIGNAL);
  } while (sent.value() == -EINTR);
}

[[noreturn]] void fail(ChildPlan* plan, Step step, int error, int index = -1) {
  if (plan->report_fd >= 0) {
    send_report(plan, Report::kFailure, static_cast<int>(step), error, index);
  } else {
    plan->failed_error = error;
    plan->failed_index = index;
    plan->failed_step = static_cast<int>(step);
  }
  end_child();
}

// Ends the child if the step's call failed.
long must(ChildPlan* plan, Step step, RawResult result, int index = -1) {
  if (!result.ok()) fail(plan, step, static_cast<int>(-result.value()), index);
  return result.value();
}

// Own copy of the report socket: not the caller's end, and out of the way of the files' places.
void settle_report_fd(ChildPlan* plan) {
  if (plan->report_fd < 0) return;
  raw_syscall(SYS_close, plan->report_caller_fd).ignore();
  if (plan->report_fd >= plan->first_free) return;
  plan->report_fd = static_cast<int>(
      must(plan, Step::kReport,
           raw_syscall(SYS_fcntl, plan->report_fd, F_DUPFD_CLOEXEC, plan->first_free)));
}

struct KernelSigaction {
  void* handler;
  unsigned long flags;
  void* restorer;
  uint64_t mask;
};

// Handled signals become default; ignored ones stay ignored: what CLONE_CLEAR_SIGHAND does.
void reset_signals(ChildPlan* plan) {
  for (int number = 1; number <= 64; ++number) {
    if (number == SIGKILL || number == SIGSTOP) continue;
    KernelSigaction action{};
    must(plan, Step::kSignalReset,
         raw_syscall(SYS_rt_sigaction, number, 0, raw_arg(&action), sizeof(action.mask)), number);
    if (reinterpret_cast<unsigned long>(action.handler) <= 1) continue;  // SIG_DFL, SIG_IGN
    action = KernelSigaction{};
    must(plan, Step::kSignalReset,
         raw_syscall(SYS_rt_sigaction, number, raw_arg(&action), 0, sizeof(action.mask)), number);
  }
}

void join_cgroup(ChildPlan* plan) {
  const long fd = must(
      plan, Step::kCgroup,
      raw_syscall(SYS_openat, plan->join_cgroup_fd, raw_arg("cgroup.procs"), O_WRONLY | O_CLOEXEC));
  must(plan, Step::kCgroup, raw_syscall(SYS_write, fd, raw_arg("0"), 1));
  raw_syscall(SYS_close, fd).ignore();
}

// The caller writes the maps, because only it has its privileges in the outer namespace.
void wait_for_maps(ChildPlan* plan) {
  send_report(plan, Report::kWantMaps, 0, 0, 0);
  Report answer{};
  RawResult received(0);
  do {
    received = raw_syscall(SYS_recvfrom, plan->report_fd, raw_arg(&answer), sizeof(answer));
  } while (received.value() == -EINTR);
  must(plan, Step::kMapWait, received);
  // Anything else: the caller is gone, or met an error that it will report itself.
  if (received.value() != sizeof(answer) || answer.kind != Report::kMapsDone) end_child();
}

void set_process_group(ChildPlan* plan) {
  if (plan->setsid) must(plan, Step::kSetsid, raw_syscall(SYS_setsid));
  if (plan->setpgid || plan->foreground)
    must(plan, Step::kSetpgid, raw_syscall(SYS_setpgid, 0, plan->pgid));
  if (plan->foreground) {
    // A background group may do this because SIGTTOU is blocked.
    const int group =
        plan->pgid != 0 ? plan->pgid : static_cast<int>(raw_syscall(SYS_getpid).value());
    must(plan, Step::kForeground, raw_syscall(SYS_ioctl, plan->ctty, TIOCSPGRP, raw_arg(&group)));
  }
}

void unshare_namespaces(ChildPlan* plan) {
  if (plan->unshare_flags == 0) return;
  must(plan, Step::kUnshare, raw_syscall(SYS_unshare, static_cast<long>(plan->unshare_flags)));
  if (plan->maps_after_unshare) wait_for_maps(plan);
  if ((plan->unshare_flags & CLONE_NEWNS) != 0) {
    // Where / is a shared mount, mounts made here would still reach the old namespace.
    must(plan, Step::kMountPrivate,
         raw_syscall(SYS_mount, raw_arg("none"), raw_arg("/"), 0, MS_REC | MS_PRIVATE, 0));
  }
}

void take_credential(ChildPlan* plan) {
  if (!plan->has_credential) return;
  if (plan->set_groups)
    must(plan, Step::kSetgroups,
         raw_syscall(SYS_setgroups, static_cast<long>(plan->group_count), raw_arg(plan->groups)));
  must(plan, Step::kSetgid, raw_syscall(SYS_setgid, plan->gid));
  must(plan, Step::kSetuid, raw_syscall(SYS_setuid, plan->uid));
}

void raise_ambient_caps(ChildPlan* plan) {
  if (plan->ambient_cap_count == 0) return;
  CapHeader header{_LINUX_CAPABILITY_VERSION_3, 0};
  CapData data[_LINUX_CAPABILITY_U32S_3];
  must(plan, Step::kCapget, raw_syscall(SYS_capget, raw_arg(&header), raw_arg(data)));
  for (size_t i = 0; i < plan->ambient_cap_count; ++i) {
    const uint32_t capability = plan->ambient_caps[i];
    data[capability / 32].permitted |= 1u << capability % 32;
    data[capability / 32].inheritable |= 1u << capability % 32;
  }
  must(plan, Step::kCapset, raw_syscall(SYS_capset, raw_arg(&header), raw_arg(data)));
  for (size_t i = 0; i < plan->ambient_cap_count; ++i)
    must(plan, Step::kAmbientCaps,
         raw_syscall(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, plan->ambient_caps[i]),
         static_cast<int>(i));
}

// After the credential: changing ids clears the death signal.
void set_pdeathsig(ChildPlan* plan) {
  if (plan->pdeathsig == 0) return;
  must(plan, Step::kPdeathsig, raw_syscall(SYS_prctl, PR_SET_PDEATHSIG, plan->pdeathsig));
  // The caller may have died before the call above; then nobody is left to be told.
  if (plan->parent_pidfd >= 0) {
    pollfd parent{plan->parent_pidfd, POLLIN, 0};
    struct {
      long sec, nsec;
    } no_wait{0, 0};
    const long ready = must(plan, Step::kPdeathsig,
                            raw_syscall(SYS_ppoll, raw_arg(&parent), 1, raw_arg(&no_wait), 0, 8));
    if (ready != 0) end_child();
    raw_syscall(SYS_close, plan->parent_pidfd).ignore();
  } else if (raw_syscall(SYS_getppid).value() != plan->parent_pid) {
    end_child();
  }
}

void place_files(ChildPlan* plan) {
  int saved = -1;
  for (size_t i = 0; i < plan->file_step_count; ++i) {
    const FileStep& step = plan->file_steps[i];
    switch (step.kind) {
      case FileStep::kKeep:
        must(plan, Step::kFiles, raw_syscall(SYS_fcntl, step.to, F_SETFD, 0), step.to);
        break;
      case FileStep::kCopy:
        must(plan, Step::kFiles, raw_syscall(SYS_dup3, step.from, step.to, 0), step.to);
        break;
      case FileStep::kSave:
        saved = static_cast<int>(
            must(plan, Step::kFiles,
                 raw_syscall(SYS_fcntl, step.from, F_DUPFD_CLOEXEC, plan->first_free), step.to));
        break;
      case FileStep::kCopySaved:
        must(plan, Step::kFiles, raw_syscall(SYS_dup3, saved, step.to, 0), step.to);
        raw_syscall(SYS_close, saved).ignore();
        break;
      case FileStep::kClose:
        raw_syscall(SYS_close, step.to).ignore();
        break;
    }
  }
}

// No exec will close them: all but the report socket are closed now.
RawResult close_others(ChildPlan* plan, int first) {
  if (plan->report_fd > first) {
    const RawResult below = raw_syscall(SYS_close_range, first, plan->report_fd - 1, 0);
    if (!below.ok()) return below;
  }
  return raw_syscall(SYS_close_range, plan->report_fd + 1, static_cast<long>(~0u), 0);
}

// Hosts before Linux 5.11 (5.9 for functions) and old containers: what /proc/self/fd lists is
// marked, or closed.
void mark_others_by_listing(ChildPlan* plan, int first) {
  struct Entry {
    uint64_t ino;
    int64_t off;
    uint16_t length;
    uint8_t type;
    char name[];
  };
  const long dir = must(plan, Step::kCloseOthers,
                        raw_syscall(SYS_openat, AT_FDCWD, raw_arg("/proc/self/fd"),
                                    O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  alignas(Entry) char buffer[512];
  for (;;) {
    const long size = must(plan, Step::kCloseOthers,
                           raw_syscall(SYS_getdents64, dir, raw_arg(buffer), sizeof(buffer)));
    if (size == 0) break;
    for (long at = 0; at < size;) {
      const Entry* entry = reinterpret_cast<const Entry*>(buffer + at);
      at += entry->length;
      if (entry->name[0] == '.') continue;
      int fd = 0;
      for (const char* digit = entry->name; *digit != '\0'; ++digit) fd = fd * 10 + (*digit - '0');
      if (fd < first) continue;
      if (plan->function != nullptr) {
        if (fd != dir && fd != plan->report_fd) raw_syscall(SYS_close, fd).ignore();
        continue;
      }
      must(plan, Step::kCloseOthers, raw_syscall(SYS_fcntl, fd, F_SETFD, FD_CLOEXEC));
    }
  }
  raw_syscall(SYS_close, dir).ignore();
}

void mark_others(ChildPlan* plan) {
  if (!plan->close_others) return;
  const int first = plan->first_free;
  const RawResult marked =
      plan->function != nullptr
          ? close_others(plan, first)
          : raw_syscall(SYS_close_range, first, static_cast<long>(~0u), CLOSE_RANGE_CLOEXEC);
  if (marked.ok()) return;
  // A container's old filter says EPERM for a call that it does not know.
  if (marked.value() == -ENOSYS || marked.value() == -EINVAL || marked.value() == -EPERM) {
    mark_others_by_listing(plan, first);
    return;
  }
  must(plan, Step::kCloseOthers, marked);
}

void set_terminal(ChildPlan* plan) {
  if (plan->noctty) must(plan, Step::kNoctty, raw_syscall(SYS_ioctl, 0, TIOCNOTTY, 0));
  if (plan->setctty) must(plan, Step::kSetctty, raw_syscall(SYS_ioctl, plan->ctty, TIOCSCTTY, 1));
}

// A traced child stops for every signal that is not blocked, and a caller that traces it sleeps
// until exec: only the trap of exec gets through then, and there the caller sets its mask.
void restore_signal_mask(ChildPlan* plan) {
  constexpr uint64_t kAllButTrap = ~(uint64_t{1} << (SIGTRAP - 1));
  const uint64_t mask = plan->caller_traces ? kAllButTrap : plan->caller_mask;
  must(plan, Step::kSignalMask,
       raw_syscall(SYS_rt_sigprocmask, SIG_SETMASK, raw_arg(&mask), 0, sizeof(mask)));
}

// A record lock is this process's alone, and exec closes what it is on.
bool lock_report(const ChildPlan* plan) {
  const struct flock whole = {
      .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 0, .l_pid = 0};
  return raw_syscall(SYS_fcntl, plan->report_fd, F_SETLK, raw_arg(&whole)).ok();
}

[[noreturn]] void run_function(ChildPlan* plan) {
  restore_signal_mask(plan);
  send_report(plan, Report::kExecuting, 0, 0, 0);
  raw_syscall(SYS_close, plan->report_fd).ignore();
  plan->function(plan->function_argument);
  end_child();
}

}  // namespace

void run_child(ChildPlan* plan) {
  settle_report_fd(plan);
  if (plan->reset_signals) reset_signals(plan);
  if (plan->join_cgroup_fd >= 0) join_cgroup(plan);
  if (plan->ambient_cap_count > 0)
    must(plan, Step::kKeepCaps, raw_syscall(SYS_prctl, PR_SET_KEEPCAPS, 1));
  if (plan->maps_after_clone) wait_for_maps(plan);
  set_process_group(plan);
  unshare_namespaces(plan);
  if (plan->chroot != nullptr)
    must(plan, Step::kChroot, raw_syscall(SYS_chroot, raw_arg(plan->chroot)));
  take_credential(plan);
  raise_ambient_caps(plan);
  if (plan->dir != nullptr) must(plan, Step::kChdir, raw_syscall(SYS_chdir, raw_arg(plan->dir)));
  set_pdeathsig(plan);
  place_files(plan);
  mark_others(plan);
  set_terminal(plan);
  if (plan->function != nullptr) run_function(plan);
  if (plan->report_fd >= 0) {
    send_report(plan, Report::kExecuting, lock_report(plan) ? 1 : 0, 0, 0);
  } else {
    plan->executing = true;
  }
  restore_signal_mask(plan);
  // Last: from here on SIGSTOP from anybody stops the child for its tracer, which sleeps.
  if (plan->ptrace) must(plan, Step::kPtrace, raw_syscall(SYS_ptrace, PTRACE_TRACEME));
  const RawResult executed =
      raw_syscall(SYS_execve, raw_arg(plan->path), raw_arg(plan->argv), raw_arg(plan->envp));
  fail(plan, Step::kExec, static_cast<int>(-executed.value()));
}

}  // namespace caisson::sys::internal
