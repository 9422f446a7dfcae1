#include "caisson/sys/process.h"

#include <unistd.h>

#include "caisson/sys/environment.h"
#include "caisson/sys/start.h"
#include "host/raw_syscall.h"
#include "sys/exec_strings.h"
#include "sys/wait_child.h"

namespace caisson::sys {

using host::raw_arg;
using host::raw_syscall;
using host::RawResult;
using internal::holds_nul;

namespace {

Result<void> exec_with(const std::string& path, const std::vector<std::string>& argv,
                       char* const* envp) {
  if (holds_nul(path) || argv.empty()) return Errno(EINVAL);
  for (const std::string& text : argv)
    if (holds_nul(text)) return Errno(EINVAL);
  const std::vector<char*> pointers = internal::pointers_to(argv);
  return raw_syscall(SYS_execve, raw_arg(path.c_str()), raw_arg(pointers.data()), raw_arg(envp))
      .error();
}

// waitid(2) gives code and status apart; put together as wait4(2) would.
WaitStatus status_from(const siginfo_t& info) {
  const uint32_t status = static_cast<uint32_t>(info.si_status);
  switch (info.si_code) {
    case CLD_EXITED:
      return WaitStatus((status & 0xff) << 8);
    case CLD_DUMPED:
      return WaitStatus(status | 0x80);
    case CLD_STOPPED:
    case CLD_TRAPPED:  // with a ptrace event in the second byte of the status
      return WaitStatus(status << 8 | 0x7f);
    case CLD_CONTINUED:
      return WaitStatus(0xffff);
    default:
      return WaitStatus(status);
  }
}

}  // namespace

int getpid() { return static_cast<int>(raw_syscall(SYS_getpid).value()); }

int getpagesize() { return static_cast<int>(::sysconf(_SC_PAGESIZE)); }

Result<Rlimit> getrlimit(int resource) {
  Rlimit limit;
  TRY(raw_syscall(SYS_prlimit64, 0, resource, 0, raw_arg(&limit)).result());
  return limit;
}

Result<void> setrlimit(int resource, const Rlimit& limit) {
  TRY(raw_syscall(SYS_prlimit64, 0, resource, raw_arg(&limit), 0).result());
  return {};
}

Result<void> kill(int pid, Signal signal) {
  TRY(raw_syscall(SYS_kill, pid, signal.number()).result());
  return {};
}

Result<void> exec(const std::string& path, const std::vector<std::string>& argv) {
  return exec_with(path, argv, environment_snapshot()->pointers());
}

Result<void> exec(const std::string& path, const std::vector<std::string>& argv,
                  const std::vector<std::string>& env) {
  for (const std::string& text : env)
    if (holds_nul(text)) return Errno(EINVAL);
  return exec_with(path, argv, EnvironmentSnapshot(env).pointers());
}

void exit(int code) {
  for (;;) raw_syscall(SYS_exit_group, code).ignore();
}

Result<WaitResult> wait4(int pid, int options) {
  WaitResult result;
  uint32_t word = 0;
  result.pid = static_cast<int>(
      TRY(raw_syscall(SYS_wait4, pid, raw_arg(&word), options, raw_arg(&result.rusage)).result()));
  result.status = WaitStatus(word);
  return result;
}

Result<void> Process::kill(Signal signal) const {
  if (reaped_) return Errno(ESRCH);
  if (!pidfd_.valid()) return sys::kill(pid_, signal);
  const RawResult sent = raw_syscall(SYS_pidfd_send_signal, pidfd_.get(), signal.number(), 0, 0);
  if (sent.ok()) return {};
  // A container's filter may not know the call; EBADF comes from the call itself.
  const bool filtered = (sent.value() == -ENOSYS || sent.value() == -EPERM) &&
                        raw_syscall(SYS_pidfd_send_signal, -1, 0, 0, 0).value() != -EBADF;
  if (!filtered) return sent.error();
  // The number is the child's if it is still to be waited for.
  siginfo_t info{};
  const RawResult ours = raw_syscall(SYS_waitid, P_PIDFD, pidfd_.get(), raw_arg(&info),
                                     WEXITED | WNOHANG | WNOWAIT | __WALL, 0);
  if (!ours.ok()) return sent.error();
  return sys::kill(pid_, signal);
}

Result<WaitResult> Process::wait_with(int options) {
  if (reaped_) return Errno(ECHILD);
  for (;;) {
    WaitResult result;
    siginfo_t info{};
    const RawResult waited =
        internal::wait_for_child(pid_, pidfd_.get(), info, options, &result.rusage);
    if (waited.value() == -EINTR) continue;
    if (!waited.ok()) return waited.error();
    result.pid = info.si_pid;
    if (info.si_pid != 0) result.status = status_from(info);
    // The stop of a traced child is reported too; it can be waited for again.
    if (internal::has_ended(info)) reaped_ = true;
    return result;
  }
}

Result<WaitResult> Process::wait() { return wait_with(0); }

Result<std::optional<WaitResult>> Process::try_wait() {
  WaitResult result = TRY(wait_with(WNOHANG));
  if (result.pid == 0) return std::optional<WaitResult>();
  return std::optional<WaitResult>(result);
}

}  // namespace caisson::sys
