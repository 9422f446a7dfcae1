// Making, running and ending tasks: clone(2), clone3(2), fork(2), vfork(2), execve(2), execveat(2),
// _exit(2), exit_group(2). Linux: kernel/fork.c, fs/exec.c, kernel/exit.c.
#include "syscalls/sys_process.h"

#include <fcntl.h>

#include <cstring>

#include "kernel/kernel.h"
#include "kernel/run_operation.h"
#include "kernel/signals.h"
#include "kernel/task_clone.h"
#include "kernel/task_exec.h"
#include "syscalls/task_caller.h"
#include "vfs/path_walk.h"

namespace caisson {
namespace {

SyscallResult clone_and_wait(CurrentTask& task, const CloneRequest& request) {
  Cloned cloned = TRY(clone_task(task, request));
  if (!cloned.vfork) return cloned.id;
  return run(task, VforkOperation(Ref<VforkDone>::from(cloned.vfork), cloned.id));
}

// One list of strings, argv or envp; `space` is what is left for both.
Result<std::vector<std::string>> copy_in_strings(CurrentTask& task, UserIn<uint64_t> list,
                                                 uint64_t& space) {
  std::vector<std::string> strings;
  if (list.is_null()) return strings;
  for (uint64_t index = 0;; ++index) {
    uint64_t addr = TRY(task.copy_in(UserIn<uint64_t>(list.addr_of(index))));
    if (addr == 0) return strings;
    Result<std::string> text = task.copy_in_string(UserCString(addr), kMaxArgumentString);
    if (!text.ok()) {
      if (text.error() == Errno(ENAMETOOLONG)) return Errno(E2BIG);
      return text.error();
    }
    uint64_t cost = text.value().size() + 1 + sizeof(uint64_t);
    if (cost > space) return Errno(E2BIG);
    space -= cost;
    strings.push_back(std::move(text).value());
  }
}

SyscallResult exec_place(CurrentTask& task, const TaskCaller& caller, const Path& place,
                         std::string filename, UserIn<uint64_t> argv, UserIn<uint64_t> envp) {
  ResourceLimits::Array limits = task.group().limits.all();
  uint64_t space = argument_space_limit(memory_limits_of(limits));
  ExecRequest request;
  request.filename = std::move(filename);
  request.arguments = TRY(copy_in_strings(task, argv, space));
  request.environment = TRY(copy_in_strings(task, envp, space));
  // Linux gives a program without arguments an empty one.
  if (request.arguments.empty()) request.arguments.emplace_back();
  Result<ExecImage, LoadError> image =
      load_image(task.kernel(), caller.caller(), place, std::move(request), limits,
                 task.task().no_new_privileges.load(), task.task().personality);
  if (!image.ok()) {
    if (image.error().fatal) begin_group_exit(task.group(), SIGSEGV);
    return image.error().error;
  }
  return run(task, ExecOperation(std::move(image).value()));
}

}  // namespace

// clone(2), x86-64's argument order.
SyscallResult sys_clone(CurrentTask& task, uint64_t flags, uint64_t stack, UserOut<int> parent_tid,
                        UserOut<int> child_tid, uint64_t tls) {
  if (!task.task().context->has_vector_state()) return NeedsVectorState{};
  CloneRequest request;
  request.flags = flags & 0xffffff00u;
  request.exit_signal = static_cast<int>(flags & 0xff);
  if (!is_valid_signal(request.exit_signal) && request.exit_signal != 0) return Errno(EINVAL);
  // The legacy call hands the pidfd out through parent_tid.
  if ((request.flags & CLONE_PIDFD) != 0 && (request.flags & CLONE_PARENT_SETTID) != 0)
    return Errno(EINVAL);
  if ((request.flags & CLONE_THREAD) != 0 || (request.flags & CLONE_PARENT) != 0)
    request.exit_signal = 0;
  request.stack = stack;
  request.pidfd = request.parent_tid = parent_tid.addr();
  request.child_tid = child_tid.addr();
  request.tls = tls;
  return clone_and_wait(task, request);
}

SyscallResult sys_clone3(CurrentTask& task, UserIn<CloneArguments> user_args, size_t size) {
  if (!task.task().context->has_vector_state()) return NeedsVectorState{};
  if (size > 4096) return Errno(E2BIG);
  if (size < kCloneArgumentsSize0) return Errno(EINVAL);
  std::vector<std::byte> bytes(size);
  TRY(task.copy_in_bytes(bytes.data(), user_args.addr(), size));
  CloneArguments args;
  std::memcpy(&args, bytes.data(), std::min(size, sizeof args));
  for (size_t i = sizeof args; i < size; ++i)
    if (bytes[i] != std::byte{0}) return Errno(E2BIG);

  constexpr uint64_t kKnown =
      0xffffff00ull | CLONE_CLEAR_SIGHAND | CLONE_INTO_CGROUP | CLONE_NEWTIME;
  if ((args.flags & ~kKnown) != 0 || (args.flags & CLONE_DETACHED) != 0) return Errno(EINVAL);
  if ((args.flags & CLONE_INTO_CGROUP) != 0) return Errno(EBADF);
  if (args.exit_signal > 0xff ||
      (args.exit_signal != 0 && !is_valid_signal(static_cast<int>(args.exit_signal))))
    return Errno(EINVAL);
  if ((args.flags & (CLONE_THREAD | CLONE_PARENT)) != 0 && args.exit_signal != 0)
    return Errno(EINVAL);
  if ((args.stack == 0) != (args.stack_size == 0)) return Errno(EINVAL);
  if (args.stack != 0 &&
      (args.stack + args.stack_size < args.stack ||
       args.stack + args.stack_size > task.kernel().platform().max_user_address()))
    return Errno(EINVAL);
  if (args.set_tid_size != 0 || args.set_tid != 0) {
    if (args.set_tid_size > 32 || args.set_tid == 0 || args.set_tid_size == 0) return Errno(EINVAL);
    TRY(task.credentials().require(Capability::kSysAdmin));
    return Errno(EINVAL);  // choosing numbers is for restoring processes
  }
  CloneRequest request;
  request.flags = args.flags;
  request.exit_signal = static_cast<int>(args.exit_signal);
  request.pidfd = args.pidfd;
  request.child_tid = args.child_tid;
  request.parent_tid = args.parent_tid;
  request.stack = args.stack == 0 ? 0 : args.stack + args.stack_size;
  request.tls = args.tls;
  return clone_and_wait(task, request);
}

SyscallResult sys_fork(CurrentTask& task) {
  if (!task.task().context->has_vector_state()) return NeedsVectorState{};
  CloneRequest request;
  request.exit_signal = SIGCHLD;
  return clone_and_wait(task, request);
}

SyscallResult sys_vfork(CurrentTask& task) {
  if (!task.task().context->has_vector_state()) return NeedsVectorState{};
  CloneRequest request;
  request.flags = CLONE_VFORK | CLONE_VM;
  request.exit_signal = SIGCHLD;
  return clone_and_wait(task, request);
}

SyscallResult sys_execve(CurrentTask& task, UserCString path, UserIn<uint64_t> argv,
                         UserIn<uint64_t> envp) {
  std::string name = TRY(task.copy_in_path(path));
  TaskCaller caller(task);
  Path place = TRY(resolve_path(caller.caller(), caller.working_directory(), name));
  return exec_place(task, caller, place, std::move(name), argv, envp);
}

SyscallResult sys_execveat(CurrentTask& task, int directory, UserCString path,
                           UserIn<uint64_t> argv, UserIn<uint64_t> envp, int flags) {
  if ((flags & ~(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW)) != 0) return Errno(EINVAL);
  std::string name = TRY(task.copy_in_path(path));
  TaskCaller caller(task);
  if (name.empty() && (flags & AT_EMPTY_PATH) == 0) return Errno(ENOENT);
  if (name.empty()) {
    Ref<FileDescription> file = TRY(task.files().get_any(directory));
    Path place = file->path();
    return exec_place(task, caller, place, "/dev/fd/" + std::to_string(directory), argv, envp);
  }
  Path at = caller.working_directory();
  std::string shown = name;
  if (name.front() != '/' && directory != AT_FDCWD) {
    Ref<FileDescription> file = TRY(task.files().get_any(directory));
    if (!file->inode().is_directory()) return Errno(ENOTDIR);
    at = file->path();
    shown = "/dev/fd/" + std::to_string(directory) + "/" + name;
  }
  WalkOptions options;
  options.follow_last = (flags & AT_SYMLINK_NOFOLLOW) == 0;
  Path place = TRY(resolve_path(caller.caller(), at, name, options));
  return exec_place(task, caller, place, std::move(shown), argv, envp);
}

SyscallResult sys_exit(CurrentTask& task, int status) {
  task.task().exit_status_own = (status & 0xff) << 8;
  return TaskExits{};
}

SyscallResult sys_exit_group(CurrentTask& task, int status) {
  begin_group_exit(task.group(), (status & 0xff) << 8);
  return TaskExits{};
}

}  // namespace caisson
