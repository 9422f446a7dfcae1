#include "runtime/kernel_filter.h"

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "host/raw_syscall.h"
#include "platform/systrap/systrap.h"

namespace caisson::runtime {

using seccomp::arg32_is;
using seccomp::arg_masked;
using seccomp::Rule;

std::vector<Rule> kernel_process_rules() {
  constexpr uint64_t kExec = PROT_EXEC;
  std::vector<Rule> rules = {
      {SYS_futex, "locks, sleeping workers, waking stubs", {}},
      {SYS_epoll_wait, "the event loop", {}},
      {SYS_epoll_ctl, "the event loop", {}},
      {SYS_timerfd_settime, "deadlines", {}},
      {SYS_read, "event loop descriptors, standard input", {}},
      {SYS_write, "event loop descriptors, standard output, log", {}},
      {SYS_preadv2, "standard input without blocking", {}},
      {SYS_pwritev2, "standard output without blocking", {}},
      {SYS_pread64, "host files", {}},
      {SYS_pwrite64, "guest memory, standard output that is a file", {}},
      {SYS_fsync, "standard output that is a file", {}},
      {SYS_fdatasync, "standard output that is a file", {}},
      {SYS_poll, "readiness of standard input and output", {}},
      {SYS_recvfrom, "the zygote's answers, the launcher, standard input that is a socket", {}},
      {SYS_sendto, "the launcher, standard output that is a socket", {}},
      {SYS_ioctl, "terminal: attributes", {arg32_is(1, TCGETS)}},
      {SYS_ioctl, "terminal: attributes", {arg32_is(1, TCSETS)}},
      {SYS_ioctl, "terminal: attributes", {arg32_is(1, TCSETSW)}},
      {SYS_ioctl, "terminal: attributes", {arg32_is(1, TCSETSF)}},
      {SYS_ioctl, "terminal: queues", {arg32_is(1, TCFLSH)}},
      {SYS_ioctl, "terminal: queues", {arg32_is(1, FIONREAD)}},
      {SYS_ioctl, "terminal: queues", {arg32_is(1, TIOCOUTQ)}},
      {SYS_ioctl, "terminal: window size", {arg32_is(1, TIOCGWINSZ)}},
      {SYS_ioctl, "terminal: window size", {arg32_is(1, TIOCSWINSZ)}},
      {SYS_openat2, "host files below the root descriptor", {}},
      {SYS_statx, "host files' attributes", {}},
      {SYS_newfstatat, "host descriptors' attributes", {}},
      {SYS_fstatfs, "the host file system's numbers", {}},
      {SYS_readlinkat, "host symbolic links", {}},
      {SYS_getdents64, "host directories", {}},
      {SYS_lseek, "holes in guest memory and host files; a new stub thread's id", {}},
      {SYS_fcntl, "a second descriptor of a host file", {arg32_is(1, 1030 /* F_DUPFD_CLOEXEC */)}},
      {SYS_close, "descriptors", {}},
      {SYS_fallocate, "guest memory given back", {}},
      {SYS_mmap, "memory, never executable", {arg_masked(2, kExec, 0)}},
      {SYS_mprotect,
       "thread stacks and the allocator, never executable",
       {arg_masked(2, kExec, 0)}},
      {SYS_munmap, "memory", {}},
      {SYS_mremap, "the allocator", {}},
      {SYS_madvise, "memory given back", {}},
      {SYS_mincore, "which guest pages are there", {}},
      {SYS_brk, "the allocator", {}},
      {SYS_clone3, "workers", {}},
      {SYS_set_robust_list, "a new worker", {}},
      {SYS_rseq, "a new worker", {}},
      {SYS_rt_sigprocmask, "a new worker", {}},
      {SYS_rt_sigaction, "guarded copies", {}},
      {SYS_rt_sigreturn, "guarded copies", {}},
      {SYS_getrandom, "guest randomness", {}},
      {SYS_clock_gettime, "clocks without a vDSO; CPU time of stub threads", {}},
      {SYS_clock_getres, "clocks", {}},
      {SYS_getcpu, "which worker to wake", {}},
      {SYS_gettid, "the log", {}},
      {SYS_getpid, "the log", {}},
      {SYS_tgkill, "abort()", {}},
      {SYS_sysinfo, "free memory", {}},
      {SYS_exit, "a worker ends", {}},
      {SYS_exit_group, "the end", {}},
      {SYS_restart_syscall, "after a stop", {}},
  };
  for (Rule& rule : systrap::Systrap::syscall_filters()) rules.push_back(std::move(rule));
  return rules;
}

Result<void, Error> install_kernel_filter() {
  auto program =
      seccomp::compile(kernel_process_rules(), SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_KILL_PROCESS);
  sock_fprog fprog{static_cast<unsigned short>(program.size()), program.data()};
  auto done = host::raw_syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC,
                                host::raw_arg(&fprog));
  if (!done.ok()) return Error("the kernel process' filter", done.error());
  if (done.value() != 0)
    return Error("the kernel process' filter: a thread has another one", Errno(EBUSY));
  return {};
}

}  // namespace caisson::runtime
