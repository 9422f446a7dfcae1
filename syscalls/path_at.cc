#include "syscalls/path_at.h"

namespace caisson {

Result<Path> directory_at(CurrentTask& task, const TaskCaller& caller, int dirfd,
                          const std::string& path) {
  if (path.empty()) return Errno(ENOENT);
  if (path[0] == '/' || dirfd == AT_FDCWD) return caller.working_directory();
  Ref<FileDescription> file = TRY(task.files().get_any(dirfd));
  if (!file->inode().is_directory()) return Errno(ENOTDIR);
  return file->path();
}

Result<Path> place_at(CurrentTask& task, const TaskCaller& caller, int dirfd,
                      const std::string& path, int flags) {
  if (path.empty() && (flags & AT_EMPTY_PATH) != 0) {
    if (dirfd == AT_FDCWD) return caller.working_directory();
    return TRY(task.files().get_any(dirfd))->path();
  }
  Path at = TRY(directory_at(task, caller, dirfd, path));
  return resolve_path(caller.caller(), at, path, {(flags & AT_SYMLINK_NOFOLLOW) == 0, false, 0});
}

}  // namespace caisson
