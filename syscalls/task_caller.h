// TaskCaller: the Caller that vfs wants, of the current task; lives for one call.
#pragma once

#include "kernel/current_task.h"
#include "vfs/caller.h"
#include "vfs/fs_context.h"

namespace caisson {

class TaskCaller {
 public:
  explicit TaskCaller(CurrentTask& task)
      : credentials_(task.credentials_ref()),
        root_(task.fs().root()),
        working_directory_(task.fs().working_directory()),
        caller_{*credentials_,     task.fs().mounts(), root_,           working_directory_,
                task.fs().umask(), task.process_id(),  task.thread_id()} {}
  TaskCaller(const TaskCaller&) = delete;
  TaskCaller& operator=(const TaskCaller&) = delete;
  const Caller& caller() const { return caller_; }
  const Path& root() const { return root_; }
  const Path& working_directory() const { return working_directory_; }

 private:
  const Ref<Credentials> credentials_;
  const Path root_;
  const Path working_directory_;
  const Caller caller_;
};

}  // namespace caisson
