#include "vfs/path_calls.h"

#include <linux/fs.h>

#include "vfs/path_walk.h"
#include "vfs/permissions.h"

namespace caisson {
namespace {

// Repeats `attempt` while another change overtakes it.
template <typename F>
Result<void> until_current(F attempt) {
  for (;;) {
    Result<void> result = attempt();
    if (result.ok() || !(result.error() == Errno(kLookUpAgain))) return result;
  }
}

struct NewPlace {
  Path directory;
  Path place;  // negative
};

// Where a new name goes. Linux: filename_create().
Result<NewPlace> resolve_new(const Caller& caller, const Path& at, std::string_view path,
                             bool directory) {
  PathWalk walk(caller, {false, false, 0});
  TRY(walk.start(at, path));
  TRY(walk.to_last());
  if (walk.last_kind() != LastKind::kName) return Errno(EEXIST);
  Path parent = walk.directory();
  Path place = TRY(walk.lookup_last());
  if (!place.dentry->is_negative()) return Errno(EEXIST);
  if (walk.has_trailing_slash() && !directory) return Errno(ENOENT);
  TRY(check_writable(*parent.mount));
  return NewPlace{std::move(parent), std::move(place)};
}

Result<void> make_any(const Caller& caller, const Path& at, std::string_view path, uint32_t mode,
                      uint64_t device, std::string_view target) {
  return until_current([&]() -> Result<void> {
    NewPlace where = TRY(resolve_new(caller, at, path, S_ISDIR(mode)));
    TRY(check_create(caller.credentials, where.directory));
    NewFile file = new_file_in(caller.credentials, where.directory.inode(), mode, caller.umask);
    file.special_device = device;
    file.link_target = target;
    TRY(where.directory.dentry->create(*where.place.dentry, file));
    return {};
  });
}

}  // namespace

Result<void> make_node(const Caller& caller, const Path& at, std::string_view path, uint32_t mode,
                       uint64_t device) {
  switch (mode & S_IFMT) {
    case S_IFCHR:
    case S_IFBLK:
      // Whiteouts (device 0:0) are free for everyone since Linux 5.8.
      if (!(S_ISCHR(mode) && device == 0) && !caller.credentials.has(Capability::kMknod)) {
        TRY(resolve_new(caller, at, path, false));
        return Errno(EPERM);
      }
      break;
    case S_IFREG:
    case S_IFIFO:
    case S_IFSOCK:
      break;
    case S_IFDIR:
      return Errno(EPERM);
    default:
      return Errno(EINVAL);
  }
  return make_any(caller, at, path, mode, device, {});
}

Result<void> make_directory(const Caller& caller, const Path& at, std::string_view path,
                            uint32_t mode) {
  return make_any(caller, at, path, S_IFDIR | (mode & 01777), 0, {});
}

Result<void> make_symlink(const Caller& caller, std::string_view target, const Path& at,
                          std::string_view path) {
  if (target.empty()) return Errno(ENOENT);
  return make_any(caller, at, path, S_IFLNK | 0777, 0, target);
}

Result<void> make_link(const Caller& caller, const Path& file, const Path& at,
                       std::string_view path) {
  return until_current([&]() -> Result<void> {
    NewPlace where = TRY(resolve_new(caller, at, path, false));
    if (!(where.directory.mount == file.mount)) return Errno(EXDEV);
    // fs.protected_hardlinks, as every distribution sets it: only one's own or accessible files.
    Inode& inode = file.inode();
    if (!is_owner_or_capable(caller.credentials, inode)) {
      bool plain = inode.is_regular() && (inode.mode() & S_ISUID) == 0 &&
                   (inode.mode() & (S_ISGID | S_IXGRP)) != (S_ISGID | S_IXGRP) &&
                   check_permission(caller.credentials, inode, kMayRead | kMayWrite).ok();
      if (!plain) return Errno(EPERM);
    }
    TRY(check_create(caller.credentials, where.directory));
    if (inode.is_directory()) return Errno(EPERM);
    return where.directory.dentry->link(*where.place.dentry, inode);
  });
}

Result<void> remove_file(const Caller& caller, const Path& at, std::string_view path) {
  return until_current([&]() -> Result<void> {
    PathWalk walk(caller, {false, false, 0});
    TRY(walk.start(at, path));
    TRY(walk.to_last());
    if (walk.last_kind() != LastKind::kName) return Errno(EISDIR);
    Path parent = walk.directory();
    Path place = TRY(walk.lookup_last());
    if (place.dentry->is_negative()) return Errno(ENOENT);
    if (walk.has_trailing_slash())
      return place.inode().is_directory() ? Errno(EISDIR) : Errno(ENOTDIR);
    TRY(check_writable(*parent.mount));
    TRY(check_delete(caller.credentials, parent.inode(), place.inode()));
    if (place.inode().is_directory()) return Errno(EISDIR);
    if (place.dentry == place.mount->root()) return Errno(EBUSY);
    return parent.dentry->unlink(*place.dentry);
  });
}

Result<void> remove_directory(const Caller& caller, const Path& at, std::string_view path) {
  return until_current([&]() -> Result<void> {
    PathWalk walk(caller, {false, false, 0});
    TRY(walk.start(at, path));
    TRY(walk.to_last());
    switch (walk.last_kind()) {
      case LastKind::kDotDot:
        return Errno(ENOTEMPTY);
      case LastKind::kDot:
        return Errno(EINVAL);
      case LastKind::kNothing:
        return Errno(EBUSY);
      case LastKind::kName:
        break;
    }
    Path parent = walk.directory();
    Path place = TRY(walk.lookup_last());
    if (place.dentry->is_negative()) return Errno(ENOENT);
    TRY(check_writable(*parent.mount));
    TRY(check_delete(caller.credentials, parent.inode(), place.inode()));
    if (!place.inode().is_directory()) return Errno(ENOTDIR);
    if (place.dentry == place.mount->root()) return Errno(EBUSY);
    return parent.dentry->rmdir(*place.dentry);
  });
}

Result<void> rename_path(const Caller& caller, const Path& old_at, std::string_view old_path,
                         const Path& new_at, std::string_view new_path, uint32_t flags) {
  if ((flags & ~uint32_t{RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT}) != 0)
    return Errno(EINVAL);
  if ((flags & (RENAME_NOREPLACE | RENAME_WHITEOUT)) != 0 && (flags & RENAME_EXCHANGE) != 0)
    return Errno(EINVAL);
  if ((flags & RENAME_WHITEOUT) != 0) return Errno(EINVAL);  // as filesystems without it
  return until_current([&]() -> Result<void> {
    PathWalk from(caller, {false, false, 0});
    TRY(from.start(old_at, old_path));
    TRY(from.to_last());
    PathWalk to(caller, {false, false, 0});
    TRY(to.start(new_at, new_path));
    TRY(to.to_last());
    if (!(from.directory().mount == to.directory().mount)) return Errno(EXDEV);
    if (from.last_kind() != LastKind::kName) return Errno(EBUSY);
    if (to.last_kind() != LastKind::kName)
      return (flags & RENAME_NOREPLACE) != 0 ? Errno(EEXIST) : Errno(EBUSY);
    TRY(check_writable(*from.directory().mount));
    Path source = TRY(from.lookup_last());
    if (source.dentry->is_negative()) return Errno(ENOENT);
    Path target = TRY(to.lookup_last());
    if ((flags & RENAME_NOREPLACE) != 0 && !target.dentry->is_negative()) return Errno(EEXIST);
    if ((flags & RENAME_EXCHANGE) != 0) {
      if (target.dentry->is_negative()) return Errno(ENOENT);
      if (!target.inode().is_directory() && to.has_trailing_slash()) return Errno(ENOTDIR);
    }
    if (!source.inode().is_directory()) {
      if (from.has_trailing_slash()) return Errno(ENOTDIR);
      if ((flags & RENAME_EXCHANGE) == 0 && to.has_trailing_slash()) return Errno(ENOTDIR);
    }
    if (source.dentry == source.mount->root() || target.dentry == target.mount->root())
      return Errno(EBUSY);
    TRY(check_delete(caller.credentials, from.directory().inode(), source.inode()));
    if (target.dentry->is_negative()) {
      TRY(check_create(caller.credentials, to.directory()));
    } else {
      TRY(check_delete(caller.credentials, to.directory().inode(), target.inode()));
    }
    // A directory that gets another parent changes its "..".
    if (source.inode().is_directory() && !(from.directory().dentry == to.directory().dentry))
      TRY(check_permission(caller.credentials, source.inode(), kMayWrite));
    return Dentry::rename(*from.directory().dentry, *source.dentry, *to.directory().dentry,
                          *target.dentry, flags);
  });
}

Result<void> change_mode(const Caller& caller, const Path& place, uint32_t mode) {
  TRY(check_writable(*place.mount));
  Inode& inode = place.inode();
  if (inode.is_symlink()) return Errno(EOPNOTSUPP);
  if (!is_owner_or_capable(caller.credentials, inode)) return Errno(EPERM);
  AttributeChange change;
  change.mode = mode & 07777;
  if (!caller.credentials.in_group(inode.gid()) && !caller.credentials.has(Capability::kFsetid))
    *change.mode &= ~static_cast<uint32_t>(S_ISGID);
  return inode.set_attributes(change);
}

Result<void> change_owner(const Caller& caller, const Path& place, uint32_t uid, uint32_t gid) {
  TRY(check_writable(*place.mount));
  Inode& inode = place.inode();
  const Credentials& credentials = caller.credentials;
  AttributeChange change;
  if (uid != ~0u) {
    if (!(credentials.fsuid == inode.uid() && uid == inode.uid()) &&
        !credentials.has(Capability::kChown))
      return Errno(EPERM);
    change.uid = uid;
  }
  if (gid != ~0u) {
    if (!(credentials.fsuid == inode.uid() && (credentials.in_group(gid) || gid == inode.gid())) &&
        !credentials.has(Capability::kChown))
      return Errno(EPERM);
    change.gid = gid;
  }
  // A change of owner takes the set-id bits away, whoever makes it.
  if (!inode.is_directory() && !inode.is_symlink()) {
    uint32_t mode = inode.mode() & 07777;
    uint32_t stripped = mode & ~static_cast<uint32_t>(S_ISUID);
    if ((mode & S_IXGRP) != 0) stripped &= ~static_cast<uint32_t>(S_ISGID);
    if (stripped != mode) change.mode = stripped;
  }
  return inode.set_attributes(change);
}

Result<void> change_times(const Caller& caller, const Path& place, const TimePair& times) {
  if (times.accessed_omit && times.modified_omit) return {};
  TRY(check_writable(*place.mount));
  Inode& inode = place.inode();
  if (times.accessed_now && times.modified_now) {
    if (!is_owner_or_capable(caller.credentials, inode)) {
      TRY(check_permission(caller.credentials, inode, kMayWrite));
    }
  } else if (!is_owner_or_capable(caller.credentials, inode)) {
    return Errno(EPERM);
  }
  FileTime now = file_time_now();
  AttributeChange change;
  if (!times.accessed_omit) change.accessed = times.accessed_now ? now : times.accessed;
  if (!times.modified_omit) change.modified = times.modified_now ? now : times.modified;
  return inode.set_attributes(change);
}

Result<void> truncate_path(const Caller& caller, const Path& place, uint64_t size) {
  Inode& inode = place.inode();
  if (inode.is_directory()) return Errno(EISDIR);
  if (!inode.is_regular()) return Errno(EINVAL);
  TRY(check_writable(*place.mount));
  TRY(check_permission(caller.credentials, inode, kMayWrite));
  TRY(inode.add_writer());
  Result<void> result = [&]() -> Result<void> {
    TRY(inode.prepare_write(size == 0));
    return inode.truncate(size);
  }();
  inode.remove_writer();
  return result;
}

}  // namespace caisson
