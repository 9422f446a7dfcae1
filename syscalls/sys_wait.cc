// Waiting for children, and pidfds: wait4(2), waitid(2), pidfd_open(2). Linux: kernel/exit.c,
// kernel/pid.c.
#include "syscalls/sys_wait.h"

#include <fcntl.h>

#include "kernel/kernel.h"
#include "kernel/pid_file.h"
#include "kernel/run_operation.h"
#include "kernel/signals.h"
#include "kernel/task_wait.h"
#include "syscalls/resource_usage.h"

namespace caisson {
namespace {

constexpr uint32_t kCommonOptions = kWNoThread | kWAll | kWClone;

void set_common(WaitRequest& request, uint32_t options) {
  request.no_hang = (options & kWNoHang) != 0;
  request.continued = (options & kWContinued) != 0;
  request.keep = (options & kWNoWait) != 0;
  request.clone_only = (options & kWClone) != 0;
  request.all = (options & kWAll) != 0;
  request.own_only = (options & kWNoThread) != 0;
}

// The pidfd's process; `nonblocking` is what PIDFD_NONBLOCK asks of waitid.
Result<Ref<PidFile>> pid_file_of(CurrentTask& task, int fd) {
  Ref<FileDescription> file = TRY(task.files().get(fd));
  auto* pid_file = dynamic_cast<PidFile*>(file.get());
  if (pid_file == nullptr) return Errno(EBADF);
  return Ref<PidFile>(*pid_file);
}

Result<void> store_info(CurrentTask& task, UserOut<SigInfo> where, const ChildEvent* event) {
  if (where.is_null()) return {};
  SigInfo info;
  if (event != nullptr) {
    info.signo = SIGCHLD;
    info.code = event->code;
    info.child.pid = event->id;
    info.child.uid = event->uid;
    int status = event->wait_status;
    if (event->code == CLD_EXITED || event->code == CLD_STOPPED)
      info.child.status = status >> 8 & 0xff;
    else if (event->code == CLD_CONTINUED)
      info.child.status = SIGCONT;
    else
      info.child.status = status & 0x7f;
  }
  // Linux writes these fields one by one and nothing beyond them.
  return task.copy_out_bytes(where.addr(), &info, offsetof(SigInfo, child.utime) - 4);
}

}  // namespace

SyscallResult sys_wait4(CurrentTask& task, int pid, UserOut<int> status, uint32_t options,
                        UserOut<ResourceUsage> usage) {
  if ((options & ~(kWNoHang | kWUntraced | kWContinued | kCommonOptions)) != 0)
    return Errno(EINVAL);
  if (pid == INT32_MIN) return Errno(ESRCH);
  WaitRequest request;
  set_common(request, options);
  request.exited = true;
  request.stopped = (options & kWUntraced) != 0;
  if (pid > 0) {
    request.which = WaitFor::kProcess;
    request.id = pid;
  } else if (pid < -1) {
    request.which = WaitFor::kProcessGroup;
    request.id = -pid;
  } else if (pid == 0) {
    request.which = WaitFor::kProcessGroup;
    MutexLock tree(task_tree_mu);
    task.group().assert_tree_locked();
    request.id = task.group().process_group ? task.group().process_group->id : 0;
  }
  auto deliver = [status, usage](CurrentTask& current,
                                 const ChildEvent* event) -> Result<uint64_t> {
    if (event == nullptr) return uint64_t{0};
    if (!status.is_null()) TRY(current.copy_out(status, event->wait_status));
    if (!usage.is_null()) TRY(current.copy_out(usage, to_resource_usage(event->use)));
    return static_cast<uint64_t>(event->id);
  };
  return run(task, WaitChildOperation(request, deliver));
}

SyscallResult sys_waitid(CurrentTask& task, int id_type, int id, UserOut<SigInfo> info,
                         uint32_t options, UserOut<ResourceUsage> usage) {
  constexpr uint32_t kEvents = kWExited | kWStopped | kWContinued;
  if ((options & ~(kWNoHang | kWNoWait | kEvents | kCommonOptions)) != 0) return Errno(EINVAL);
  if ((options & kEvents) == 0) return Errno(EINVAL);
  WaitRequest request;
  set_common(request, options);
  request.exited = (options & kWExited) != 0;
  request.stopped = (options & kWStopped) != 0;
  bool nonblocking = false;
  switch (id_type) {
    case kWaitAll:
      break;
    case kWaitPid:
      if (id <= 0) return Errno(EINVAL);
      request.which = WaitFor::kProcess;
      request.id = id;
      break;
    case kWaitGroup: {
      if (id < 0) return Errno(EINVAL);
      request.which = WaitFor::kProcessGroup;
      request.id = id;
      if (id != 0) break;
      MutexLock tree(task_tree_mu);
      task.group().assert_tree_locked();
      request.id = task.group().process_group ? task.group().process_group->id : 0;
      break;
    }
    case kWaitPidFd: {
      if (id < 0) return Errno(EINVAL);
      Ref<PidFile> file = TRY(pid_file_of(task, id));
      request.which = WaitFor::kProcess;
      request.id = file->group().id;
      if (file->group().is_reaped.load()) return Errno(ECHILD);
      nonblocking = file->is_nonblocking() && !request.no_hang;
      break;
    }
    default:
      return Errno(EINVAL);
  }
  if (nonblocking) request.no_hang = true;
  auto deliver = [info, usage, nonblocking](CurrentTask& current,
                                            const ChildEvent* event) -> Result<uint64_t> {
    if (event == nullptr && nonblocking) return Errno(EAGAIN);
    if (event != nullptr && !usage.is_null())
      TRY(current.copy_out(usage, to_resource_usage(event->use)));
    TRY(store_info(current, info, event));
    return uint64_t{0};
  };
  return run(task, WaitChildOperation(request, deliver));
}

SyscallResult sys_pidfd_open(CurrentTask& task, int pid, uint32_t flags) {
  if ((flags & ~static_cast<uint32_t>(O_NONBLOCK)) != 0) return Errno(EINVAL);
  if (pid <= 0) return Errno(EINVAL);
  RefOrNull<ThreadGroup> group;
  {
    MutexLock tree(task_tree_mu);
    Task* found = task.kernel().tasks().find_task_locked(pid);
    if (found == nullptr) return Errno(ESRCH);
    if (found->group.id != pid) return Errno(ENOENT);  // a thread that leads no process
    group = found->group_ref.or_null();
  }
  FdOptions options{.close_on_exec = true, .limit = task.limit(RLIMIT_NOFILE)};
  return task.files().install(PidFile::create(*group, flags), options);
}

SyscallResult sys_pidfd_send_signal(CurrentTask& task, int pidfd, int signo,
                                    UserIn<SigInfo> user_info, uint32_t flags) {
  if (flags != 0) return Errno(EINVAL);
  Ref<PidFile> file = TRY(pid_file_of(task, pidfd));
  SigInfo info = user_signal_info(signo, SI_USER, task.process_id(), task.credentials().ruid);
  ThreadGroup& group = file->group();
  if (!user_info.is_null()) {
    info = TRY(task.copy_in(user_info));
    if (info.signo != signo) return Errno(EINVAL);
    if ((info.code >= 0 || info.code == SI_TKILL) && &group != &task.group()) return Errno(EPERM);
  }
  if (signo != 0 && !is_valid_signal(signo)) return Errno(EINVAL);
  {
    MutexLock tree(task_tree_mu);
    group.assert_tree_locked();
    task.group().assert_tree_locked();
    if (group.leader == nullptr) return Errno(ESRCH);
    ProcessId session = task.group().process_group->session->id;
    if (&group != &task.group() && !may_signal(task.credentials(), session, *group.leader, signo))
      return Errno(EPERM);
  }
  if (signo == 0) return 0;
  Result<Sent> sent = send_signal(group, info);
  if (!sent.ok()) return sent.error();
  return 0;
}

SyscallResult sys_pidfd_getfd(CurrentTask& task, int pidfd, int target_fd, uint32_t flags) {
  if (flags != 0) return Errno(EINVAL);
  Ref<PidFile> file = TRY(pid_file_of(task, pidfd));
  RefOrNull<Task> target;
  {
    MutexLock tree(task_tree_mu);
    file->group().assert_tree_locked();
    target = RefOrNull<Task>(file->group().leader);
  }
  if (!target) return Errno(ESRCH);
  TRY(may_inspect(task, *target));
  RefOrNull<FdTable> files = target->files_ref();
  if (!files) return Errno(ESRCH);
  Ref<FileDescription> found = TRY(files->get_any(target_fd));
  FdOptions options{.close_on_exec = true, .limit = task.limit(RLIMIT_NOFILE)};
  return task.files().install(std::move(found), options);
}

}  // namespace caisson
