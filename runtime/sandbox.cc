#include "runtime/sandbox.h"

#include <malloc.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <thread>

#include "base/error.h"
#include "base/log.h"
#include "host/event_loop.h"
#include "kernel/kernel.h"
#include "mm/memory_file.h"
#include "mm/memory_manager.h"
#include "platform/systrap/systrap.h"
#include "runtime/confinement.h"
#include "runtime/kernel_filter.h"
#include "runtime/memory_limit.h"
#include "runtime/protocol.h"
#include "runtime/root_filesystem.h"
#include "strace/tracer.h"
#include "syscalls/table.h"

namespace caisson::runtime {
namespace {

// Offsets in the memory file are cheap, pages are not: room for every reservation that a guest
// makes.
constexpr uint64_t kMemoryFileSize = uint64_t{1} << 45;
constexpr uint64_t kMemoryReserve = 256 * 1024;

void tell(const UniqueFd& launcher, FromKernel::Kind kind, int value,
          const std::string& text = {}) {
  FromKernel message{kind, value, {}};
  memcpy(message.text, text.data(), std::min(text.size(), sizeof message.text - 1));
  send(launcher.get(), &message, sizeof message, MSG_NOSIGNAL);
}

// The launcher's messages once the sandbox runs; its end is ours.
class LauncherWatch : public host::FdWatcher {
 public:
  LauncherWatch(int socket, Kernel& kernel) : socket_(socket), kernel_(kernel) {}
  void ready(uint32_t) override {
    for (;;) {
      FromLauncher message;
      ssize_t got = recv(socket_, &message, sizeof message, MSG_DONTWAIT);
      if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
      if (got != static_cast<ssize_t>(sizeof message)) _exit(kExitInternal);
      if (message.kind == FromLauncher::kSignal) kernel_.signal_program(message.value);
    }
  }

 private:
  int socket_;
  Kernel& kernel_;
};

void reset_signals() {
  for (int signal = 1; signal < 32; ++signal) {
    if (signal != SIGKILL && signal != SIGSTOP) ::signal(signal, SIG_DFL);
  }
  ::signal(SIGPIPE, SIG_IGN);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
}

void raise_descriptor_limit() {
  struct rlimit limit {};
  if (getrlimit(RLIMIT_NOFILE, &limit) < 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

// The first `count` of the CPUs that this process may use; workers and stubs inherit the mask.
Result<void, Error> limit_cpus(int count) {
  if (count == 0) return {};
  cpu_set_t allowed;
  cpu_set_t chosen;
  CPU_ZERO(&chosen);
  if (sched_getaffinity(0, sizeof allowed, &allowed) < 0)
    return Error("asking for the CPUs", Errno(errno));
  int left = count;
  for (int cpu = 0; cpu < CPU_SETSIZE && left > 0; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    CPU_SET(cpu, &chosen);
    --left;
  }
  if (left > 0)
    return Error("--cpus " + std::to_string(count) + ": there are not so many", Errno(EINVAL));
  if (sched_setaffinity(0, sizeof chosen, &chosen) < 0) return Error("choosing CPUs", Errno(errno));
  return {};
}

std::vector<std::string> candidates(const SandboxOptions& options) {
  const std::string& name = options.command.front();
  if (name.empty() || name.find('/') != std::string::npos) return {name};
  std::string path = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";
  for (const std::string& entry : options.environment) {
    if (entry.starts_with("PATH=")) path = entry.substr(5);
  }
  std::vector<std::string> result;
  size_t begin = 0;
  while (begin <= path.size()) {
    size_t end = std::min(path.find(':', begin), path.size());
    std::string directory = path.substr(begin, end - begin);
    result.push_back((directory.empty() ? "." : directory) + "/" + name);
    begin = end + 1;
  }
  return result;
}

Ref<Credentials> guest_credentials() {
  if (getuid() == 0) return Credentials::root();
  std::vector<gid_t> host_groups(65536);
  int count = getgroups(static_cast<int>(host_groups.size()), host_groups.data());
  std::vector<GroupId> groups;
  for (int i = 0; i < count; ++i) groups.emplace_back(host_groups[static_cast<size_t>(i)]);
  return Credentials::for_user(UserId(getuid()), GroupId(getgid()), std::move(groups));
}

struct NotStarted {
  int exit_status;
  std::string text;
};

// execvp(3)'s search, inside.
Result<void, NotStarted> start_program(Kernel& kernel, const SandboxOptions& options,
                                       const GuestFiles& files,
                                       const Ref<Credentials>& credentials) {
  Errno error(ENOENT);
  for (const std::string& path : candidates(options)) {
    ProgramSpec spec{path,        options.command,   options.environment,
                     credentials, files.descriptors, files.fs->copy()};
    auto started = kernel.start_program(std::move(spec));
    if (started.ok()) return {};
    if (started.error() == Errno(ENOENT) || started.error() == Errno(ENOTDIR)) continue;
    error = started.error();
    if (error != Errno(EACCES)) break;
  }
  int status = error == Errno(ENOENT) ? kExitNotFound : kExitCannotRun;
  return NotStarted{
      status, "cannot run '" + options.command.front() + "': " + std::string(error.message())};
}

Result<int, NotStarted> run(const SandboxOptions& options, bool namespaces,
                            const UniqueFd& launcher) {
  auto internal = [](const Error& error) { return NotStarted{kExitInternal, error.text()}; };
#define STEP(...)                                                \
  __extension__({                                                \
    auto&& step_result = (__VA_ARGS__);                          \
    if (!step_result.ok()) return internal(step_result.error()); \
    std::move(step_result).release_value();                      \
  })
#define STEP_ERRNO(what, ...)                                                 \
  __extension__({                                                             \
    auto&& step_result = (__VA_ARGS__);                                       \
    if (!step_result.ok()) return internal(Error(what, step_result.error())); \
    std::move(step_result).release_value();                                   \
  })

  const ClosedStdio closed = occupy_closed_stdio();
  // One arena: shrinking another one asks /proc, which is out of reach (and the filter ends us).
  mallopt(M_ARENA_MAX, 1);
  Ref<Credentials> credentials = guest_credentials();
  MemoryManager::prepare_process();
  STEP(limit_cpus(options.cpus));
  uint64_t limit = options.memory_bytes != 0 ? options.memory_bytes : default_memory_limit();
  GuestMemory guest_memory = STEP(prepare_memory(limit));
  UniqueFd host_root = STEP(open_host_root(namespaces));
  auto events = STEP_ERRNO("the event loop", host::EventLoop::create());
  auto descriptors = STEP(take_stdio(*events, closed));
  systrap::Options platform_options;
  platform_options.event_loop = events.get();
  platform_options.memory_fd = guest_memory.read_write.get();
  platform_options.memory_ro_fd = guest_memory.read_only.get();
  platform_options.on_fatal = [](const char* why) {
    LOG_ERROR("%s", why);
    _exit(kExitInternal);
  };
  platform_options.stub_calls = !options.no_stub_calls;
  platform_options.patch_calls = options.patch_calls_after != 0;
  platform_options.stub_answers = !options.no_stub_calls && !options.strace;
  auto platform = STEP_ERRNO("the platform", systrap::Systrap::create(platform_options));
  // After the zygote, whose region must be free and whose fork should be cheap.
  UniqueFd memory_fd(fcntl(guest_memory.read_write.get(), F_DUPFD_CLOEXEC, 3));
  auto memory =
      STEP_ERRNO("guest memory", MemoryFile::create(std::move(memory_fd), kMemoryFileSize));
  if (!memory->has_limit_of_host()) memory->limit_to(limit);
  STEP_ERRNO("the reserve of guest memory",
             memory->keep_reserve(std::clamp(page_down(limit / 64), kPageSize, kMemoryReserve)));
  if (namespaces) STEP(enter_empty_root());
  STEP(drop_privileges());

  auto fs = STEP(make_root(std::move(host_root), *platform, *memory, options));
  SyscallTable table(amd64_syscalls());
  Tracer tracer(STDERR_FILENO);
  KernelConfig config{*platform,
                      *memory,
                      *events,
                      table,
                      options.strace ? &tracer : nullptr,
                      options.hostname,
                      limit,
                      options.patch_calls_after};
  auto kernel = STEP_ERRNO("the kernel", Kernel::create(config));
  STEP(mount_proc(*fs, *kernel));
  STEP(install_kernel_filter());

  STEP_ERRNO("the event loop", events->start());
  GuestFiles files{std::move(descriptors), std::move(fs)};
  auto started = start_program(*kernel, options, files, credentials);
  if (!started.ok()) {
    tell(launcher, FromKernel::kFailed, started.error().exit_status, started.error().text);
    _exit(started.error().exit_status);
  }
  // Only now: a signal that came earlier has waited in the socket for a program to go to.
  STEP_ERRNO("the launcher's socket",
             events->watch(launcher.get(), EPOLLIN | EPOLLRDHUP,
                           Ref<host::FdWatcher>(make_ref<LauncherWatch>(launcher.get(), *kernel))));
  kernel->start_workers();
  int status = kernel->wait_finished();
  tell(launcher, FromKernel::kWaitStatus, status);
  // Everything of ours goes with the process, the stubs with it: an orderly shutdown would only
  // cost time.
  _exit(0);
#undef STEP
#undef STEP_ERRNO
}

}  // namespace

int run_kernel_process(const SandboxOptions& options, bool namespaces, UniqueFd launcher) {
  prctl(PR_SET_NAME, "caisson-kernel");
  reset_signals();
  raise_descriptor_limit();
  if (getenv("CAISSON_LOG") != nullptr) set_log_level(LogLevel::kDebug);
  auto result = run(options, namespaces, launcher);
  if (!result.ok()) {
    tell(launcher, FromKernel::kFailed, result.error().exit_status, result.error().text);
    return result.error().exit_status;
  }
  return 0;
}

}  // namespace caisson::runtime
