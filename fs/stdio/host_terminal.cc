// The terminal side of HostStdio: which requests reach the host's terminal. Linux: drivers/tty/.
#include <linux/termios.h>

#include "fs/stdio/host_stdio.h"
#include "host/raw_syscall.h"
#include "kernel/current_task.h"
#include "kernel/kernel.h"
#include "kernel/task.h"
#include "kernel/task_set.h"

namespace caisson {
namespace {

using host::raw_arg;
using host::raw_syscall;

// struct termios of the kernel: libc's is larger.
struct KernelTermios {
  uint32_t c_iflag, c_oflag, c_cflag, c_lflag;
  uint8_t c_line;
  uint8_t c_cc[19];
};
static_assert(sizeof(KernelTermios) == 36);

struct OwnIds {
  int32_t process_group = 0, session = 0;
};
OwnIds ids_of(CurrentTask& task) {
  OwnIds ids;
  MutexLock lock(task_tree_mu);
  task.group().assert_tree_locked();
  if (task.group().process_group) {
    ids.process_group = task.group().process_group->id;
    ids.session = task.group().process_group->session->id;
  }
  return ids;
}

}  // namespace

Result<uint64_t> HostStdio::ioctl(CurrentTask& task, uint32_t request, uint64_t argument) {
  if (!is_terminal()) return Errno(ENOTTY);
  return terminal_ioctl(task, request, argument);
}

Result<uint64_t> HostStdio::terminal_ioctl(CurrentTask& task, uint32_t request, uint64_t argument) {
  switch (request) {
    case TCGETS: {
      KernelTermios settings;
      TRY(raw_syscall(SYS_ioctl, stream_->fd.get(), TCGETS, raw_arg(&settings)).result());
      TRY(task.copy_out(UserOut<KernelTermios>(argument), settings));
      return uint64_t{0};
    }
    case TCSETS:
    case TCSETSW:  // never waits for the output to drain: that could block a worker
    case TCSETSF: {
      KernelTermios settings = TRY(task.copy_in(UserIn<KernelTermios>(argument)));
      if (request == TCSETSF) raw_syscall(SYS_ioctl, stream_->fd.get(), TCFLSH, TCIFLUSH).ignore();
      TRY(raw_syscall(SYS_ioctl, stream_->fd.get(), TCSETS, raw_arg(&settings)).result());
      return uint64_t{0};
    }
    case TIOCGWINSZ: {
      winsize size;
      TRY(raw_syscall(SYS_ioctl, stream_->fd.get(), TIOCGWINSZ, raw_arg(&size)).result());
      TRY(task.copy_out(UserOut<winsize>(argument), size));
      return uint64_t{0};
    }
    case TIOCSWINSZ: {
      winsize size = TRY(task.copy_in(UserIn<winsize>(argument)));
      TRY(raw_syscall(SYS_ioctl, stream_->fd.get(), TIOCSWINSZ, raw_arg(&size)).result());
      return uint64_t{0};
    }
    case TCFLSH:
      if (argument > TCIOFLUSH) return Errno(EINVAL);
      TRY(raw_syscall(SYS_ioctl, stream_->fd.get(), TCFLSH, static_cast<long>(argument)).result());
      return uint64_t{0};
    case TIOCOUTQ: {
      int count = 0;
      TRY(raw_syscall(SYS_ioctl, stream_->fd.get(), TIOCOUTQ, raw_arg(&count)).result());
      TRY(task.copy_out(UserOut<int>(argument), count));
      return uint64_t{0};
    }
    case TCSBRK:  // drain: what was written is with the host already
      return uint64_t{0};
    case TIOCSCTTY:  // it belongs to the session that the sandbox began with
      return Errno(EPERM);
    case TIOCGPGRP: {
      int32_t group = stream_->foreground.load();
      if (group == 0) group = ids_of(task).process_group;
      TRY(task.copy_out(UserOut<int32_t>(argument), group));
      return uint64_t{0};
    }
    case TIOCSPGRP: {
      int32_t group = TRY(task.copy_in(UserIn<int32_t>(argument)));
      if (group < 0) return Errno(EINVAL);
      OwnIds own = ids_of(task);
      MutexLock lock(task_tree_mu);
      ProcessGroup* target = task.task().kernel.tasks().find_process_group_locked(group);
      if (target == nullptr) return Errno(ESRCH);
      if (target->session->id != own.session) return Errno(EPERM);
      stream_->foreground.store(group);
      return uint64_t{0};
    }
    case TIOCGSID: {
      TRY(task.copy_out(UserOut<int32_t>(argument), ids_of(task).session));
      return uint64_t{0};
    }
    default:
      return Errno(ENOTTY);
  }
}

}  // namespace caisson
