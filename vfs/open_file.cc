#include "vfs/open_file.h"

#include <linux/mount.h>

#include "vfs/filesystem.h"
#include "vfs/path_walk.h"
#include "vfs/permissions.h"

namespace caisson {
namespace {

constexpr uint32_t kTmpfile = 020000000;  // O_TMPFILE without its O_DIRECTORY
constexpr uint64_t kKnownFlags = O_ACCMODE | O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_APPEND |
                                 O_NONBLOCK | O_SYNC | O_ASYNC | O_DIRECT | abi::kOLargeFile |
                                 O_DIRECTORY | O_NOFOLLOW | O_NOATIME | O_CLOEXEC | O_PATH |
                                 kTmpfile;

class PathOnlyFile final : public FileDescription {
 public:
  PathOnlyFile(Path path, uint32_t flags) : FileDescription(std::move(path), flags) {}
};

AccessMask access_of(uint32_t flags) {
  AccessMask mask = 0;
  uint32_t mode = flags & O_ACCMODE;
  if (mode != O_WRONLY) mask |= kMayRead;
  if (mode != O_RDONLY) mask |= kMayWrite;
  if ((flags & O_TRUNC) != 0) mask |= kMayWrite;
  return mask;
}

// The last part of every open: type and permission checks, truncation.
Result<Ref<FileDescription>> finish_open(const Caller& caller, const Path& place, uint32_t flags,
                                         bool created) {
  Inode& inode = place.inode();
  if (inode.is_symlink()) return Errno(ELOOP);
  if (inode.is_directory() && (flags & (O_CREAT | O_ACCMODE)) != 0) return Errno(EISDIR);
  if ((flags & O_DIRECTORY) != 0 && !inode.is_directory()) return Errno(ENOTDIR);
  const bool for_writing = (access_of(flags) & kMayWrite) != 0;
  if (!created) {
    TRY(check_access(caller.credentials, place, access_of(flags)));
    if ((flags & O_NOATIME) != 0 && !is_owner_or_capable(caller.credentials, inode))
      return Errno(EPERM);
  }
  if (for_writing && inode.is_regular()) TRY(inode.prepare_write((flags & O_TRUNC) != 0));
  Ref<FileDescription> file = TRY(inode.open(place, flags, caller));
  TRY(file->count_as_writer());
  if ((flags & O_TRUNC) != 0 && inode.is_regular() && !created) {
    // Truncation is writing, even through a descriptor that only reads: ETXTBSY.
    TRY(inode.add_writer());
    Result<void> truncated = inode.truncate(0);
    inode.remove_writer();
    TRY(truncated);
  }
  return file;
}

Result<Ref<FileDescription>> open_unnamed(const Caller& caller, const Path& at,
                                          std::string_view path, const OpenRequest& request) {
  Path directory = TRY(resolve_path(caller, at, path, {true, true, request.resolve}));
  TRY(check_writable(*directory.mount));
  TRY(check_permission(caller.credentials, directory.inode(), kMayWrite | kMayExecute));
  NewFile file = new_file_in(caller.credentials, directory.inode(),
                             S_IFREG | (request.mode & 07777), caller.umask);
  Ref<Inode> inode = TRY(directory.inode().create_unnamed(file));
  Path place{directory.mount,
             Dentry::create_root(inode, "/#" + std::to_string(inode->ino()) + " (deleted)")};
  return finish_open(caller, place, request.flags & ~static_cast<uint32_t>(O_DIRECTORY), true);
}

Result<Ref<FileDescription>> open_once(const Caller& caller, const Path& at, std::string_view path,
                                       const OpenRequest& request) {
  const uint32_t flags = request.flags;
  const bool create = (flags & O_CREAT) != 0;
  const bool follow = (flags & O_NOFOLLOW) == 0 && !(create && (flags & O_EXCL) != 0);
  if (!create) {
    Path place =
        TRY(resolve_path(caller, at, path, {follow, (flags & O_DIRECTORY) != 0, request.resolve}));
    return open_place(caller, place, request);
  }
  PathWalk walk(caller, {follow, false, request.resolve});
  TRY(walk.start(at, path));
  for (;;) {
    TRY(walk.to_last());
    if (walk.last_kind() != LastKind::kName) {
      if ((flags & O_EXCL) != 0 && walk.last_kind() != LastKind::kNothing) return Errno(EEXIST);
      return open_place(caller, TRY(walk.finish()), request);
    }
    if (walk.has_trailing_slash()) return Errno(EISDIR);
    Path directory = walk.directory();
    Path place = TRY(walk.lookup_last());
    if (!place.dentry->is_negative()) {
      if ((flags & O_EXCL) != 0) return Errno(EEXIST);
      if (place.inode().is_symlink() && follow) {
        TRY(walk.follow(place));
        continue;
      }
      return open_place(caller, place, request);
    }
    TRY(check_writable(*directory.mount));
    TRY(check_create(caller.credentials, directory));
    NewFile file = new_file_in(caller.credentials, directory.inode(),
                               S_IFREG | (request.mode & 07777), caller.umask);
    Result<Ref<Inode>> made = directory.dentry->create(*place.dentry, file);
    if (!made.ok()) {
      // Somebody else made it first: open that one.
      if (made.error() == Errno(EEXIST) && (flags & O_EXCL) == 0) return Errno(kLookUpAgain);
      return made.error();
    }
    return finish_open(caller, place, flags, true);
  }
}

}  // namespace

Result<OpenRequest> check_open_request(uint64_t flags, uint64_t mode, uint64_t resolve,
                                       bool strict) {
  if (strict) {
    if ((flags & ~kKnownFlags) != 0) return Errno(EINVAL);
    constexpr uint64_t kKnownResolve = 0x3f;
    if ((resolve & ~kKnownResolve) != 0) return Errno(EINVAL);
    if ((resolve & (abi::kResolveBeneath | abi::kResolveInRoot)) ==
        (abi::kResolveBeneath | abi::kResolveInRoot))
      return Errno(EINVAL);
    const bool makes = (flags & (O_CREAT | kTmpfile)) != 0;
    if (makes ? (mode & ~uint64_t{07777}) != 0 : mode != 0) return Errno(EINVAL);
    if ((flags & O_PATH) != 0 &&
        (flags & ~uint64_t{O_DIRECTORY | O_NOFOLLOW | O_PATH | O_CLOEXEC}) != 0)
      return Errno(EINVAL);
    if ((resolve & abi::kResolveCached) != 0) {
      if ((flags & (O_TRUNC | O_CREAT | kTmpfile)) != 0) return Errno(EAGAIN);
    }
  }
  OpenRequest request;
  request.flags = static_cast<uint32_t>(flags & kKnownFlags);
  request.mode = static_cast<uint32_t>(mode & 07777);
  request.resolve = resolve;
  if ((request.flags & O_PATH) != 0) request.flags &= O_DIRECTORY | O_NOFOLLOW | O_PATH | O_CLOEXEC;
  if ((request.flags & (O_DIRECTORY | O_CREAT)) == (O_DIRECTORY | O_CREAT)) return Errno(EINVAL);
  if ((request.flags & kTmpfile) != 0) {
    if ((request.flags & O_DIRECTORY) == 0) return Errno(EINVAL);
    if ((request.flags & O_ACCMODE) == O_RDONLY) return Errno(EINVAL);
  }
  return request;
}

Result<Ref<FileDescription>> open_place(const Caller& caller, const Path& place,
                                        const OpenRequest& request) {
  if ((request.flags & O_PATH) != 0) {
    if ((request.flags & O_DIRECTORY) != 0 && !place.inode().is_directory()) return Errno(ENOTDIR);
    return Ref<FileDescription>(make_ref<PathOnlyFile>(place, request.flags));
  }
  return finish_open(caller, place, request.flags, false);
}

Result<Ref<FileDescription>> open_file(const Caller& caller, const Path& at, std::string_view path,
                                       const OpenRequest& request) {
  if ((request.flags & kTmpfile) != 0) return open_unnamed(caller, at, path, request);
  for (;;) {
    Result<Ref<FileDescription>> file = open_once(caller, at, path, request);
    if (file.ok() || !(file.error() == Errno(kLookUpAgain))) return file;
  }
}

}  // namespace caisson
