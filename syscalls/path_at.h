// The *at(2) rule: which directory a path argument begins at, and what AT_* flags make of it.
#pragma once

#include <fcntl.h>

#include <string>

#include "syscalls/task_caller.h"
#include "vfs/fd_table.h"
#include "vfs/path_walk.h"

namespace caisson {

// The directory for `path`: the working directory, or that of `dirfd` (EBADF, ENOTDIR) if the path
// is relative.
Result<Path> directory_at(CurrentTask& task, const TaskCaller& caller, int dirfd,
                          const std::string& path);

// The place of an existing file. With AT_EMPTY_PATH in `flags` an empty path is `dirfd` itself.
// AT_SYMLINK_NOFOLLOW, or `follow` for calls whose flag is AT_SYMLINK_FOLLOW.
Result<Path> place_at(CurrentTask& task, const TaskCaller& caller, int dirfd,
                      const std::string& path, int flags);

}  // namespace caisson
