#include "runtime/launcher.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "base/unique_fd.h"
#include "host/raw_syscall.h"
#include "runtime/protocol.h"
#include "runtime/sandbox.h"

namespace caisson::runtime {
namespace {

using host::raw_syscall;

constexpr uint64_t kNamespaces =
    CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
// Passed on to the program. SIGKILL and SIGSTOP can't be; SIGTSTP and SIGCONT concern the
// launcher's own job.
constexpr int kForwarded[] = {SIGHUP,  SIGINT,  SIGQUIT,  SIGTERM,
                              SIGUSR1, SIGUSR2, SIGWINCH, SIGALRM};

struct KernelProcess {
  int pid = -1;
  UniqueFd socket;
};

bool write_file(const char* path, const char* text) {
  UniqueFd fd(open(path, O_WRONLY | O_CLOEXEC));
  auto length = static_cast<ssize_t>(strlen(text));
  return fd && write(fd.get(), text, static_cast<size_t>(length)) == length;
}

// Root maps every id to itself, anybody else only their own.
bool write_id_maps(int pid) {
  char path[64];
  char text[96];
  bool root = geteuid() == 0;
  if (!root) {
    snprintf(path, sizeof path, "/proc/%d/setgroups", pid);
    if (!write_file(path, "deny")) return false;
  }
  for (bool user : {true, false}) {
    unsigned id = user ? geteuid() : getegid();
    snprintf(path, sizeof path, "/proc/%d/%s", pid, user ? "uid_map" : "gid_map");
    snprintf(text, sizeof text, "%u %u 1\n", id, id);
    if (root && write_file(path, "0 0 4294967295\n")) continue;
    if (!write_file(path, text)) return false;
  }
  return true;
}

// Starts the kernel process, in namespaces of its own if `flags` says so and the host allows it.
KernelProcess start_kernel_process(const SandboxOptions& options, uint64_t flags) {
  int ends[2];
  KernelProcess result;
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) return result;
  UniqueFd ours(ends[0]);
  UniqueFd theirs(ends[1]);
  auto pid = raw_syscall(SYS_clone, static_cast<long>(flags | SIGCHLD), 0, 0, 0, 0);
  if (!pid.ok()) return result;
  if (pid.value() == 0) {
    ours.reset();
    _exit(run_kernel_process(options, std::move(theirs)));
  }
  FromLauncher go{FromLauncher::kGo, flags != 0 ? 1 : 0};
  int child = static_cast<int>(pid.value());
  bool mapped = (flags & CLONE_NEWUSER) == 0 || write_id_maps(child);
  if (!mapped ||
      send(ours.get(), &go, sizeof go, MSG_NOSIGNAL) != static_cast<ssize_t>(sizeof go)) {
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    return result;
  }
  result.pid = child;
  result.socket = std::move(ours);
  return result;
}

int exit_status_of(int wait_status) {
  if (WIFEXITED(wait_status)) return WEXITSTATUS(wait_status);
  return 128 + WTERMSIG(wait_status);
}

int report(const FromKernel& message) {
  if (message.kind == FromKernel::kWaitStatus) return exit_status_of(message.value);
  fprintf(stderr, "caisson: %.*s\n", static_cast<int>(strnlen(message.text, sizeof message.text)),
          message.text);
  return message.value;
}

// Passes signals on until the kernel process has told the end, or is gone.
int supervise(KernelProcess& kernel, int signal_fd) {
  int status = -1;
  for (;;) {
    pollfd fds[] = {{kernel.socket.get(), POLLIN, 0}, {signal_fd, POLLIN, 0}};
    if (poll(fds, 2, -1) < 0 && errno != EINTR) break;
    if ((fds[1].revents & POLLIN) != 0) {
      signalfd_siginfo info;
      if (read(signal_fd, &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
        FromLauncher message{FromLauncher::kSignal, static_cast<int32_t>(info.ssi_signo)};
        send(kernel.socket.get(), &message, sizeof message, MSG_NOSIGNAL | MSG_DONTWAIT);
      }
    }
    if ((fds[0].revents & (POLLIN | POLLHUP)) != 0) {
      FromKernel message;
      ssize_t got = recv(kernel.socket.get(), &message, sizeof message, 0);
      if (got < 0 && errno == EINTR) continue;
      if (got == static_cast<ssize_t>(sizeof message)) status = report(message);
      break;
    }
  }
  int wait_status = 0;
  while (waitpid(kernel.pid, &wait_status, 0) < 0 && errno == EINTR) {
  }
  if (status >= 0) return status;
  if (WIFSIGNALED(wait_status))
    fprintf(stderr, "caisson: the kernel process was killed by signal %d\n", WTERMSIG(wait_status));
  else
    fprintf(stderr, "caisson: the kernel process ended with status %d\n", WEXITSTATUS(wait_status));
  return kExitInternal;
}

}  // namespace

Posture probe_posture() {
  auto pid = raw_syscall(SYS_clone, static_cast<long>(kNamespaces | SIGCHLD), 0, 0, 0, 0);
  if (pid.ok() && pid.value() == 0) {
    // Whoever can't be mapped can't set up mounts either.
    raise(SIGSTOP);
    _exit(0);
  }
  if (!pid.ok()) return Posture::kNoNamespaces;
  int child = static_cast<int>(pid.value());
  bool mapped = write_id_maps(child);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  return mapped ? Posture::kFull : Posture::kNested;
}

int launch(const SandboxOptions& options) {
  sigset_t forwarded;
  sigset_t before;
  sigemptyset(&forwarded);
  for (int signal : kForwarded) sigaddset(&forwarded, signal);
  sigprocmask(SIG_BLOCK, &forwarded, &before);
  UniqueFd signal_fd(signalfd(-1, &forwarded, SFD_CLOEXEC));
  if (!signal_fd) {
    perror("caisson: signalfd");
    return kExitInternal;
  }
  KernelProcess kernel = start_kernel_process(options, kNamespaces);
  if (kernel.pid < 0) {
    if (!satisfies(Posture::kNoNamespaces, options.required_posture)) {
      fprintf(stderr, "caisson: this host refuses the namespaces that posture '%s' needs\n",
              std::string(posture_name(options.required_posture)).c_str());
      return kExitInternal;
    }
    kernel = start_kernel_process(options, 0);
  }
  if (kernel.pid < 0) {
    fprintf(stderr, "caisson: the kernel process could not be started: %s\n", strerror(errno));
    return kExitInternal;
  }
  return supervise(kernel, signal_fd.get());
}

}  // namespace caisson::runtime
