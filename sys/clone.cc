#include "sys/clone.h"

#include <csignal>

#ifndef __x86_64__
#error "sys/clone.cc: the entry of the child is written for x86-64"
#endif

namespace caisson::sys::internal {
namespace {

using host::raw_arg;
using host::RawResult;

// The system call returns in the caller; the child begins on the stack named in the call (none: on
// its copy of this one), calls run_child(plan) there and never comes back.
RawResult call_and_enter_child(long nr, long a1, long a2, long a3, long a4, long a5,
                               ChildPlan* plan) {
  long result;
  register long r10 __asm__("r10") = a4;
  register long r8 __asm__("r8") = a5;
  register ChildPlan* r12 __asm__("r12") = plan;
  register void (*r13)(ChildPlan*) __asm__("r13") = &run_child;
  __asm__ volatile(
      "syscall\n\t"
      "test %%rax, %%rax\n\t"
      "jnz 1f\n\t"
      "xor %%ebp, %%ebp\n\t"
      "and $-16, %%rsp\n\t"
      "mov %%r12, %%rdi\n\t"
      "call *%%r13\n\t"
      "ud2\n"
      "1:"
      : "=a"(result)
      : "a"(nr), "D"(a1), "S"(a2), "d"(a3), "r"(r10), "r"(r8), "r"(r12), "r"(r13)
      : "rcx", "r11", "cc", "memory");
  return RawResult(result);
}

RawResult by_clone3(const CloneRequest& request, ChildPlan& plan, int* pidfd) {
  clone_args args{};
  args.flags = request.flags | CLONE_CLEAR_SIGHAND | CLONE_PIDFD;
  args.pidfd = reinterpret_cast<uint64_t>(pidfd);
  // A sibling (CLONE_PARENT) ends with the signal that our own end sends; the field must be 0.
  args.exit_signal = (request.flags & CLONE_PARENT) != 0 ? 0 : SIGCHLD;
  args.stack = reinterpret_cast<uint64_t>(request.stack);
  args.stack_size = request.stack_size;
  size_t size = CLONE_ARGS_SIZE_VER0;
  if (request.cgroup_fd >= 0) {
    args.flags |= CLONE_INTO_CGROUP;
    args.cgroup = static_cast<uint64_t>(request.cgroup_fd);
    size = CLONE_ARGS_SIZE_VER2;
  }
  plan.reset_signals = false;
  plan.join_cgroup_fd = -1;
  return call_and_enter_child(SYS_clone3, raw_arg(&args), static_cast<long>(size), 0, 0, 0, &plan);
}

RawResult by_clone(const CloneRequest& request, bool want_pidfd, ChildPlan& plan, int* pidfd) {
  long flags = static_cast<long>(request.flags) | SIGCHLD;
  if (want_pidfd) flags |= CLONE_PIDFD;
  plan.reset_signals = true;
  plan.join_cgroup_fd = request.cgroup_fd;
  return call_and_enter_child(SYS_clone, flags,
                              raw_arg(request.stack) + static_cast<long>(request.stack_size),
                              want_pidfd ? raw_arg(pidfd) : 0, 0, 0, &plan);
}

// Errors by which hosts say that they do not know clone3 or one of its flags: no such call; a
// container's old filter; an unknown flag; an unknown field. A real error of these comes again from
// clone(2).
bool may_be_missing(RawResult result) {
  switch (-result.value()) {
    case ENOSYS:
    case EPERM:
    case EINVAL:
    case E2BIG:
      return true;
    default:
      return false;
  }
}

}  // namespace

CloneResult clone_child(const CloneRequest& request, ChildPlan& plan) {
  int pidfd = -1;
  RawResult pid = by_clone3(request, plan, &pidfd);
  const bool fits_clone = (request.flags & CSIGNAL) == 0 && request.flags >> 32 == 0;
  if (!pid.ok() && may_be_missing(pid) && fits_clone) {
    pid = by_clone(request, true, plan, &pidfd);
    // Before Linux 5.2 the flag means something else or is refused; ask for the pidfd afterwards:
    // nobody reaps the child before we have returned its number.
    if (pid.value() == -EINVAL) {
      pid = by_clone(request, false, plan, &pidfd);
      if (pid.ok()) {
        const RawResult opened = host::raw_syscall(SYS_pidfd_open, pid.value(), 0);
        if (opened.ok()) pidfd = static_cast<int>(opened.value());
      }
    }
  }
  return {pid, pid.ok() ? pidfd : -1};
}

}  // namespace caisson::sys::internal
