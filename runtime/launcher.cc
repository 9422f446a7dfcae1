#include "runtime/launcher.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <vector>

#include "base/unique_fd.h"
#include "caisson/sys.h"
#include "runtime/protocol.h"
#include "runtime/root_filesystem.h"
#include "runtime/sandbox.h"

namespace caisson::runtime {
namespace {

// And a mount namespace, which the child itself unshares: a host that lets it have one but no
// mounts is found out by that step.
constexpr uint64_t kNamespaces =
    CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
// Passed on to the program. SIGKILL and SIGSTOP can't be; SIGTSTP and SIGCONT concern the
// launcher's own job.
constexpr int kForwarded[] = {SIGHUP,  SIGINT,  SIGQUIT,  SIGTERM,
                              SIGUSR1, SIGUSR2, SIGWINCH, SIGALRM};

// One id to itself.
std::vector<sys::SysProcIDMap> only(uint32_t id) {
  return {{.container_id = id, .host_id = id, .size = 1}};
}

// Every id of our own user namespace to itself; empty if it cannot be read.
std::vector<sys::SysProcIDMap> all_ids(const char* path) {
  std::vector<sys::SysProcIDMap> map;
  if (FILE* file = fopen(path, "re")) {
    long long inside = 0;
    long long outside = 0;
    long long size = 0;
    while (fscanf(file, "%lld %lld %lld", &inside, &outside, &size) == 3)
      map.push_back({.container_id = inside, .host_id = inside, .size = size});
    fclose(file);
  }
  return map;
}

// In all of our namespaces. Root keeps every id, so that files show their owners; anybody else, and
// a root that may not (`own_id_alone`), only their own.
sys::SysProcAttr in_namespaces(bool own_id_alone) {
  sys::SysProcAttr attr;
  attr.clone_flags = kNamespaces;
  attr.unshare_flags = CLONE_NEWNS;
  if (geteuid() == 0 && !own_id_alone) {
    attr.uid_mappings = all_ids("/proc/self/uid_map");
    attr.gid_mappings = all_ids("/proc/self/gid_map");
    attr.gid_mappings_enable_setgroups = true;
  }
  if (attr.uid_mappings.empty() || attr.gid_mappings.empty()) {
    attr.uid_mappings = only(geteuid());
    attr.gid_mappings = only(getegid());
    attr.gid_mappings_enable_setgroups = false;
  }
  return attr;
}

using Started = Result<sys::Process, sys::StartError>;

// Starts `function` in namespaces of its own.
Started start_in_namespaces(sys::ChildFunction function, void* argument, sys::ProcAttr attr) {
  const auto start = [&](bool own_id_alone) {
    const sys::SysProcAttr namespaces = in_namespaces(own_id_alone);
    attr.sys.clone_flags = namespaces.clone_flags;
    attr.sys.unshare_flags = namespaces.unshare_flags;
    attr.sys.uid_mappings = namespaces.uid_mappings;
    attr.sys.gid_mappings = namespaces.gid_mappings;
    attr.sys.gid_mappings_enable_setgroups = namespaces.gid_mappings_enable_setgroups;
    return sys::start_function(function, argument, attr);
  };
  Started started = start(/*own_id_alone=*/false);
  if (started.ok() || geteuid() != 0 || started.error().step == sys::Step::kClone) return started;
  return start(/*own_id_alone=*/true);
}

// What the kernel process is given; it has its own copy.
struct KernelStart {
  const SandboxOptions* options;
  bool namespaces;
};

// In the kernel process.
int kernel_main(void* argument) {
  const auto& start = *static_cast<const KernelStart*>(argument);
  return run_kernel_process(*start.options, start.namespaces, UniqueFd(kKernelSocket));
}

struct KernelProcess {
  sys::Process process;
  UniqueFd socket;
};

// The kernel process has the caller's standard descriptors (those that are open), its socket, and
// no other; it dies with us, and the terminal's signals reach it only through us.
Result<KernelProcess, sys::StartError> start_kernel_process(const SandboxOptions& options,
                                                            const std::vector<int>& stdio,
                                                            bool namespaces) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
    return sys::StartError{sys::Step::kReport, Errno(errno)};
  UniqueFd ours(ends[0]);
  UniqueFd theirs(ends[1]);
  sys::ProcAttr attr;
  attr.files = stdio;
  attr.files.push_back(theirs.get());
  attr.sys.setsid = true;
  attr.sys.pdeathsig = SIGKILL;
  KernelStart start{&options, namespaces};
  Started started = namespaces ? start_in_namespaces(kernel_main, &start, attr)
                               : sys::start_function(kernel_main, &start, attr);
  if (!started.ok()) return started.error();
  return KernelProcess{std::move(started).value(), std::move(ours)};
}

// Which of descriptors 0 to 2 are open: -1 stands for those that are not. These are taken, so that
// no message goes to what would have their numbers.
std::vector<int> take_stdio_numbers() {
  const ClosedStdio closed = occupy_closed_stdio();
  std::vector<int> files = {0, 1, 2};
  for (int& fd : files)
    if (closed[static_cast<size_t>(fd)]) fd = -1;
  return files;
}

int exit_status_of(sys::WaitStatus status) {
  if (status.exited()) return status.exit_status();
  return 128 + status.signal().number();
}

int report(const FromKernel& message) {
  if (message.kind == FromKernel::kWaitStatus)
    return exit_status_of(sys::WaitStatus(static_cast<uint32_t>(message.value)));
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
  auto end = kernel.process.wait();
  if (status >= 0) return status;
  if (end.ok() && end->status.signaled())
    fprintf(stderr, "caisson: the kernel process was killed by signal %d\n",
            end->status.signal().number());
  else
    fprintf(stderr, "caisson: the kernel process ended with status %d\n",
            end.ok() ? end->status.exit_status() : -1);
  return kExitInternal;
}

}  // namespace

Posture probe_posture() {
  sys::ProcAttr attr;
  attr.files = take_stdio_numbers();
  Started started = start_in_namespaces([](void*) { return 0; }, nullptr, attr);
  if (!started.ok())
    return started.error().step == sys::Step::kClone ? Posture::kNoNamespaces : Posture::kNested;
  started->wait().ok();
  return Posture::kFull;
}

int launch(const SandboxOptions& options) {
  const std::vector<int> stdio =
      take_stdio_numbers();  // before anything takes a number that is free
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
  auto kernel = start_kernel_process(options, stdio, /*namespaces=*/true);
  if (!kernel.ok()) {
    if (!satisfies(Posture::kNoNamespaces, options.required_posture)) {
      fprintf(stderr, "caisson: this host refuses what posture '%s' needs: %s\n",
              std::string(posture_name(options.required_posture)).c_str(),
              kernel.error().text().c_str());
      return kExitInternal;
    }
    kernel = start_kernel_process(options, stdio, /*namespaces=*/false);
  }
  if (!kernel.ok()) {
    fprintf(stderr, "caisson: the kernel process could not be started: %s\n",
            kernel.error().text().c_str());
    return kExitInternal;
  }
  return supervise(*kernel, signal_fd.get());
}

}  // namespace caisson::runtime
