#include "caisson/sys/start.h"

#include <fcntl.h>
#include <linux/ptrace.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <mutex>

#include "caisson/sys/environment.h"
#include "caisson/sys/fork_lock.h"
#include "host/raw_syscall.h"
#include "sys/child.h"
#include "sys/clone.h"
#include "sys/exec_strings.h"
#include "sys/file_plan.h"
#include "sys/function_child.h"
#include "sys/id_maps.h"
#include "sys/start_check.h"
#include "sys/wait_child.h"

namespace caisson::sys {
namespace {

using host::raw_arg;
using host::raw_syscall;
using host::RawResult;
using internal::ChildPlan;
using internal::Report;

// run_child() needs less than 1.5 KiB. On the caller's own stack: no mmap and munmap per start.
constexpr size_t kChildStackSize = 4096;

// All signals of this thread, the C library's internal ones too: the child must not run a handler
// in shared memory.
class SignalBlock {
 public:
  SignalBlock() {
    const uint64_t all = ~uint64_t{0};
    raw_syscall(SYS_rt_sigprocmask, SIG_BLOCK, raw_arg(&all), raw_arg(&before_), sizeof(before_))
        .ignore();
  }
  ~SignalBlock() {
    raw_syscall(SYS_rt_sigprocmask, SIG_SETMASK, raw_arg(&before_), 0, sizeof(before_)).ignore();
  }
  SignalBlock(const SignalBlock&) = delete;
  SignalBlock& operator=(const SignalBlock&) = delete;
  uint64_t before() const { return before_; }

 private:
  uint64_t before_ = 0;
};

// One start. Lives on the caller's stack for its duration; owns all that the plan points to.
class Start {
 public:
  explicit Start(const ProcAttr& attr);
  void set_program(const std::string& path, const std::vector<std::string>& argv);
  void set_function(ChildFunction function, void* argument);
  Result<Process, StartError> run();

 private:
  std::optional<StartError> prepare();
  // From here on there is a child: nothing allocates, so nothing throws.
  std::optional<StartError> supervise(int pid, int pidfd);
  bool receive(Report& report, int pidfd, bool wait);
  bool wait_for_exec() const;
  std::optional<StartError> outcome_from_memory() const;
  void reap(int pid, int pidfd) const;
  void set_mask_of_traced(int pid, int pidfd) const;

  const SysProcAttr& sys() const { return attr_.sys; }
  // Both parts run at a time, so a socket connects them instead of vfork's suspension.
  bool needs_socket() const {
    return copies_memory() || plan_.maps_after_clone || plan_.maps_after_unshare;
  }
  bool copies_memory() const { return plan_.function != nullptr || sys::copies_memory(attr_); }

  const ProcAttr& attr_;
  std::shared_ptr<const EnvironmentSnapshot> environment_;
  std::vector<char*> argv_;
  std::vector<char*> env_;
  internal::FunctionCall call_;
  std::vector<internal::FileStep> file_steps_;
  internal::IdMapTexts id_maps_;
  ChildPlan plan_;
  UniqueFd report_;        // the caller's end
  UniqueFd child_report_;  // the child's end
  UniqueFd parent_pidfd_;
};

void Start::set_program(const std::string& path, const std::vector<std::string>& argv) {
  argv_ = internal::pointers_to(argv);
  plan_.path = path.c_str();
  plan_.argv = argv_.data();
  if (attr_.env) {
    env_ = internal::pointers_to(*attr_.env);
    plan_.envp = env_.data();
  } else {
    environment_ = environment_snapshot();
    plan_.envp = environment_->pointers();
  }
}

void Start::set_function(ChildFunction function, void* argument) {
  call_ = internal::make_function_call(function, argument);
  plan_.function = internal::run_function_call;
  plan_.function_argument = &call_;
}

Start::Start(const ProcAttr& attr)
    : attr_(attr),
      file_steps_(internal::plan_files(attr.files)),
      id_maps_(internal::make_id_map_texts(attr.sys)) {
  plan_.dir = attr.dir.empty() ? nullptr : attr.dir.c_str();
  plan_.chroot = sys().chroot.empty() ? nullptr : sys().chroot.c_str();
  plan_.file_steps = file_steps_.data();
  plan_.file_step_count = file_steps_.size();
  plan_.file_count = static_cast<int>(attr.files.size());
  plan_.first_free = std::max(plan_.file_count, 3);
  plan_.close_others = !attr.keep_other_files;

  const bool has_maps = !sys().uid_mappings.empty() || !sys().gid_mappings.empty();
  plan_.maps_after_clone = has_maps && (sys().clone_flags & CLONE_NEWUSER) != 0;
  plan_.maps_after_unshare = has_maps && !plan_.maps_after_clone;
  plan_.unshare_flags = sys().unshare_flags;
  plan_.setsid = sys().setsid;
  plan_.setpgid = sys().setpgid;
  plan_.pgid = sys().pgid;
  plan_.foreground = sys().foreground;
  plan_.noctty = sys().noctty;
  plan_.setctty = sys().setctty;
  plan_.ctty = sys().ctty;
  plan_.ptrace = sys().ptrace;
  plan_.caller_traces = sys().ptrace && (sys().clone_flags & CLONE_PARENT) == 0;
  if (sys().credential) {
    const Credential& credential = *sys().credential;
    plan_.has_credential = true;
    plan_.uid = credential.uid;
    plan_.gid = credential.gid;
    plan_.groups = credential.groups.data();
    plan_.group_count = credential.groups.size();
    // Where setgroups(2) is switched off, an empty list needs no call.
    const bool switched_off = !sys().gid_mappings.empty() && !sys().gid_mappings_enable_setgroups;
    plan_.set_groups = !credential.no_set_groups && !(switched_off && credential.groups.empty());
  }
  plan_.ambient_caps = sys().ambient_caps.data();
  plan_.ambient_cap_count = sys().ambient_caps.size();
  plan_.pdeathsig = sys().pdeathsig.number();
}

std::optional<StartError> Start::prepare() {
  const bool watch_parent = plan_.pdeathsig != 0;
  // Before we or the child open anything: a stale number in the list must not mean a descriptor of
  // ours. Where nothing is opened the child's own calls find out.
  const bool saves = std::any_of(file_steps_.begin(), file_steps_.end(), [](const auto& step) {
    return step.kind == internal::FileStep::kSave;
  });
  if (saves || needs_socket() || watch_parent) {
    for (int i = 0; i < plan_.file_count; ++i) {
      if (attr_.files[i] < 0) continue;
      const RawResult open = raw_syscall(SYS_fcntl, attr_.files[i], F_GETFD);
      if (!open.ok()) return StartError{Step::kFiles, open.error(), i};
    }
  }
  if (watch_parent) {
    const bool sibling = (sys().clone_flags & CLONE_PARENT) != 0;
    plan_.parent_pid = static_cast<int>(raw_syscall(sibling ? SYS_getppid : SYS_getpid).value());
    // The child may be in another PID namespace, also where unshare(2) in the caller made it.
    const RawResult opened = raw_syscall(SYS_pidfd_open, plan_.parent_pid, 0);
    if (opened.ok()) parent_pidfd_.reset(static_cast<int>(opened.value()));
    plan_.parent_pidfd = parent_pidfd_.get();
    if ((sys().clone_flags & CLONE_NEWPID) != 0) plan_.parent_pid = 0;  // what the child sees
  }
  if (needs_socket()) {
    int ends[2];
    const RawResult made =
        raw_syscall(SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, raw_arg(ends));
    if (!made.ok()) return StartError{Step::kReport, made.error(), -1};
    report_.reset(ends[0]);
    child_report_.reset(ends[1]);
    plan_.report_caller_fd = ends[0];
    plan_.report_fd = ends[1];
  }
  return std::nullopt;
}

Result<Process, StartError> Start::run() {
  if (auto problem = prepare()) return std::move(*problem);
  internal::CloneRequest request;
  request.flags = sys().clone_flags & ~uint64_t{CLONE_PIDFD | CLONE_CLEAR_SIGHAND |
                                                CLONE_INTO_CGROUP | CLONE_VM | CLONE_VFORK};
  if (!copies_memory()) request.flags |= CLONE_VM;
  if (!needs_socket()) request.flags |= CLONE_VFORK;
  if (sys().use_cgroup_fd) request.cgroup_fd = sys().cgroup_fd;
  alignas(16) std::byte stack[kChildStackSize];
  if (plan_.function == nullptr) {
    request.stack = stack;
    request.stack_size = sizeof(stack);
  }

  fork_lock().lock();
  const SignalBlock block;
  plan_.caller_mask = block.before();
  const internal::CloneResult cloned = clone_child(request, plan_);
  fork_lock().unlock();
  if (!cloned.pid.ok()) return StartError{Step::kClone, cloned.pid.error(), -1};

  const int pid = static_cast<int>(cloned.pid.value());
  Process process(pid, UniqueFd(cloned.pidfd));
  auto problem = needs_socket() ? supervise(pid, process.pidfd()) : outcome_from_memory();
  if (problem) {
    reap(pid, process.pidfd());
    return std::move(*problem);
  }
  if (plan_.caller_traces) set_mask_of_traced(pid, process.pidfd());
  return process;
}

// At the stop of exec, which stays to be waited for (see restore_signal_mask() in child.cc). Asking
// again and again does not depend on the stop's report: another thread's wait may take it.
void Start::set_mask_of_traced(int pid, int pidfd) const {
  const uint64_t mask = plan_.caller_mask;
  const struct timespec pause = {.tv_sec = 0, .tv_nsec = 50'000};
  for (;;) {
    const RawResult set =
        raw_syscall(SYS_ptrace, PTRACE_SETSIGMASK, pid, sizeof(mask), raw_arg(&mask));
    if (set.value() != -ESRCH) return;
    siginfo_t ended{};
    const RawResult asked = internal::wait_for_child(pid, pidfd, ended, WNOHANG | WNOWAIT);
    if (!asked.ok() || internal::has_ended(ended)) return;
    raw_syscall(SYS_nanosleep, raw_arg(&pause), 0).ignore();
  }
}

// vfork(2) order: when clone has returned here, the child runs its program or has ended.
std::optional<StartError> Start::outcome_from_memory() const {
  if (plan_.failed_step >= 0)
    return StartError{static_cast<Step>(plan_.failed_step), Errno(plan_.failed_error),
                      plan_.failed_index};
  if (!plan_.executing) return StartError{Step::kChild, Errno(ESRCH), -1};
  return std::nullopt;
}

// The child's next report. False: there will be none, it is dead or has left our memory. With a
// pidfd the end of the stream is not needed: others that forked meanwhile may hold the socket open.
bool Start::receive(Report& report, int pidfd, bool wait) {
  for (;;) {
    pollfd ready[] = {{report_.get(), POLLIN, 0}, {pidfd, POLLIN, 0}};
    if (wait && pidfd >= 0) raw_syscall(SYS_poll, raw_arg(ready), 2, -1).ignore();
    const RawResult received = raw_syscall(SYS_recvfrom, report_.get(), raw_arg(&report),
                                           sizeof(report), wait && pidfd < 0 ? 0 : MSG_DONTWAIT);
    // ECONNRESET comes once, before the reports, if the child ended without reading our answer.
    if (received.value() == -EINTR || received.value() == -ECONNRESET) continue;
    if (received.value() == -EAGAIN && wait && ready[1].revents == 0) continue;
    return received.value() == sizeof(report);
  }
}

// Until exec has closed what the child has locked, or the child is dead.
bool Start::wait_for_exec() const {
  const struct flock whole = {
      .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 0, .l_pid = 0};
  RawResult locked(0);
  do {
    locked = raw_syscall(SYS_fcntl, child_report_.get(), F_SETLKW, raw_arg(&whole));
  } while (locked.value() == -EINTR);
  return locked.ok();
}

std::optional<StartError> Start::supervise(int pid, int pidfd) {
  // Without a pidfd it is the end of the stream that tells of the child's end and of exec.
  if (pidfd < 0) child_report_.reset();
  std::optional<StartError> problem;
  bool executing = false;
  bool wait = true;
  for (Report report{}; receive(report, pidfd, wait);) {
    switch (report.kind) {
      case Report::kFailure:
        problem = StartError{static_cast<Step>(report.step), Errno(report.error), report.index};
        break;
      case Report::kExecuting:
        executing = true;
        if (plan_.function != nullptr) return std::nullopt;
        if (child_report_ && report.step == 1) wait = !wait_for_exec();
        child_report_.reset();
        break;
      case Report::kWantMaps: {
        problem = internal::write_id_maps(pid, pidfd, id_maps_);
        if (problem) {
          raw_syscall(SYS_shutdown, report_.get(), SHUT_WR).ignore();
          break;
        }
        const Report done{Report::kMapsDone, 0, 0, 0};
        raw_syscall(SYS_sendto, report_.get(), raw_arg(&done), sizeof(done), MSG_NOSIGNAL).ignore();
        break;
      }
      default:
        break;
    }
  }
  if (!problem && !executing) problem = StartError{Step::kChild, Errno(ESRCH), -1};
  return problem;
}

// ECHILD (SIGCHLD is ignored, CLONE_PARENT, or another thread was first): not ours any more.
void Start::reap(int pid, int pidfd) const {
  for (;;) {
    siginfo_t ended{};
    const RawResult waited = internal::wait_for_child(pid, pidfd, ended, 0);
    if (waited.ok() && !internal::has_ended(ended)) {
      raw_syscall(SYS_kill, pid, SIGKILL).ignore();  // it waits for its tracer on its way out
    } else if (waited.value() != -EINTR) {
      return;
    }
  }
}

}  // namespace

bool copies_memory(const ProcAttr& attr) {
  const uint64_t both = attr.sys.clone_flags | attr.sys.unshare_flags;
  return attr.sys.credential.has_value() || (both & CLONE_NEWTIME) != 0 ||
         (attr.sys.unshare_flags & (CLONE_VM | CLONE_SIGHAND)) != 0;
}

Result<Process, StartError> start_process(const std::string& path,
                                          const std::vector<std::string>& argv,
                                          const ProcAttr& attr) {
  if (auto problem = internal::check_attributes(path, argv, attr)) return std::move(*problem);
  Start start(attr);
  start.set_program(path, argv);
  return start.run();
}

Result<Process, StartError> start_function(ChildFunction function, void* argument,
                                           const ProcAttr& attr) {
  if (auto problem = internal::check_function_attributes(function, attr))
    return std::move(*problem);
  Start start(attr);
  start.set_function(function, argument);
  return start.run();
}

Result<int, StartError> fork_exec(const std::string& path, const std::vector<std::string>& argv,
                                  const ProcAttr& attr) {
  if (auto problem = internal::check_fork_exec_attributes(path, argv, attr))
    return std::move(*problem);
  Start start(attr);
  start.set_program(path, argv);
  auto process = start.run();
  if (!process.ok()) return process.error();
  return process->pid();
}

}  // namespace caisson::sys
