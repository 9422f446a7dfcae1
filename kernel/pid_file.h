// PidFile: what a pidfd refers to, pidfd_open(2). Linux: kernel/pid.c, fs/pidfs.c.
//
// Keeps the thread group's object, not the process: readable once the process has ended.
#pragma once

#include "kernel/thread_group.h"
#include "vfs/file_description.h"

namespace caisson {

class PidFile final : public FileDescription {
 public:
  // `flags`: O_NONBLOCK (PIDFD_NONBLOCK) or 0.
  static Ref<PidFile> create(ThreadGroup& group, uint32_t flags);
  ThreadGroup& group() const { return *group_; }

  EventMask readiness(EventMask mask) override;
  void add_waiter(WaitEntry& entry) override { group_->exited.add(entry); }
  void remove_waiter(WaitEntry& entry) override { group_->exited.remove(entry); }
  bool can_poll() const override { return true; }

 private:
  PidFile(Ref<ThreadGroup> group, uint32_t flags);
  const Ref<ThreadGroup> group_;
};

}  // namespace caisson
