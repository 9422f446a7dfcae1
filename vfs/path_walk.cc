#include "vfs/path_walk.h"

#include "vfs/permissions.h"

namespace caisson {

PathWalk::PathWalk(const Caller& caller, WalkOptions options)
    : caller_(caller), options_(options), root_(caller.root), current_(caller.working_directory) {}

Result<void> PathWalk::start(const Path& at, std::string_view path) {
  if (path.empty()) return Errno(ENOENT);
  current_ = at;
  if ((options_.resolve & (abi::kResolveInRoot | abi::kResolveBeneath)) != 0) root_ = at;
  frames_.clear();
  frames_.push_back(Frame{std::string(path), 0});
  if (path[0] == '/') TRY(jump_to_root());
  return {};
}

Result<void> PathWalk::jump_to_root() {
  if ((options_.resolve & abi::kResolveBeneath) != 0) return Errno(EXDEV);
  if ((options_.resolve & abi::kResolveNoXdev) != 0 && !(current_.mount == root_.mount))
    return Errno(EXDEV);
  current_ = root_;
  return {};
}

bool PathWalk::next_component(std::string& component, bool& is_last) {
  while (!frames_.empty()) {
    Frame& frame = frames_.back();
    size_t begin = frame.text.find_first_not_of('/', frame.position);
    if (begin == std::string::npos) {
      frames_.pop_back();
      continue;
    }
    size_t end = std::min(frame.text.find('/', begin), frame.text.size());
    component.assign(frame.text, begin, end - begin);
    frame.position = end;
    // Last if nothing but slashes follows, here and in the texts that this link stood in.
    is_last = true;
    trailing_slash_ = false;
    for (const Frame& rest : frames_) {
      if (rest.position == rest.text.size()) continue;
      trailing_slash_ = true;
      if (rest.text.find_first_not_of('/', rest.position) != std::string::npos) is_last = false;
    }
    return true;
  }
  return false;
}

Result<void> PathWalk::check_search() const {
  if (!current_.inode().is_directory()) return Errno(ENOTDIR);
  return check_permission(caller_.credentials, current_.inode(), kMayExecute);
}

Result<void> PathWalk::go_up() {
  if (current_ == root_) {
    if ((options_.resolve & abi::kResolveBeneath) != 0) return Errno(EXDEV);
    return {};
  }
  Path up = current_;
  if (up.dentry == up.mount->root()) {
    up = caller_.mounts.mount_point_of(up);
    if (up == current_) return {};  // the root of everything, or of an unmounted tree
    if ((options_.resolve & abi::kResolveNoXdev) != 0) return Errno(EXDEV);
    while (up.dentry == up.mount->root() && !(up == root_)) {  // mounts on top of one another
      Path next = caller_.mounts.mount_point_of(up);
      if (next == up) break;
      up = next;
    }
    if (up == root_) {
      current_ = up;
      return {};
    }
  }
  up.dentry = up.dentry->parent();
  while (up.dentry->mount_count.load(std::memory_order_relaxed) != 0) {
    RefOrNull<Mount> mount = caller_.mounts.mounted_at(*up.mount, *up.dentry);
    if (!mount) break;
    up = Path{Ref<Mount>::from(mount), mount->root()};
  }
  current_ = up;
  return {};
}

Result<Path> PathWalk::lookup_child(const std::string& name) {
  // Not in the braces below: leaving from the middle of an initializer drops no finished member.
  Ref<Dentry> dentry = TRY(current_.dentry->lookup(name));
  Path child{current_.mount, std::move(dentry)};
  while (child.dentry->mount_count.load(std::memory_order_relaxed) != 0) {
    RefOrNull<Mount> mount = caller_.mounts.mounted_at(*child.mount, *child.dentry);
    if (!mount) break;
    if ((options_.resolve & abi::kResolveNoXdev) != 0) return Errno(EXDEV);
    child = Path{Ref<Mount>::from(mount), mount->root()};
  }
  return child;
}

Result<void> PathWalk::to_last() {
  std::string component;
  bool is_last = false;
  last_kind_ = LastKind::kNothing;
  while (next_component(component, is_last)) {
    TRY(check_search());
    if (is_last) {
      last_kind_ = component == "."    ? LastKind::kDot
                   : component == ".." ? LastKind::kDotDot
                                       : LastKind::kName;
      last_ = std::move(component);
      return {};
    }
    if (component == ".") continue;
    if (component == "..") {
      TRY(go_up());
      continue;
    }
    Path child = TRY(lookup_child(component));
    if (child.dentry->is_negative()) return Errno(ENOENT);
    if (child.inode().is_symlink()) {
      TRY(follow(child));
    } else {
      current_ = std::move(child);
    }
  }
  return {};
}

Result<Path> PathWalk::lookup_last() { return lookup_child(last_); }

Result<void> PathWalk::follow(const Path& link) {
  if (++links_ > abi::kMaxSymlinks) return Errno(ELOOP);
  if ((options_.resolve & abi::kResolveNoSymlinks) != 0) return Errno(ELOOP);
  LinkTarget target = TRY(link.inode().link_target(caller_));
  if (auto* place = std::get_if<Path>(&target)) {
    if ((options_.resolve & abi::kResolveNoMagicLinks) != 0) return Errno(ELOOP);
    if ((options_.resolve & (abi::kResolveBeneath | abi::kResolveInRoot)) != 0) return Errno(EXDEV);
    if ((options_.resolve & abi::kResolveNoXdev) != 0 && !(place->mount == current_.mount))
      return Errno(EXDEV);
    current_ = std::move(*place);
    return {};
  }
  std::string& text = std::get<std::string>(target);
  if (text.empty()) return Errno(ENOENT);
  if (text[0] == '/') TRY(jump_to_root());
  frames_.push_back(Frame{std::move(text), 0});
  return {};
}

Result<Path> PathWalk::finish() {
  for (;;) {
    TRY(to_last());
    if (last_kind_ == LastKind::kDotDot) TRY(go_up());
    if (last_kind_ != LastKind::kName) break;
    Path found = TRY(lookup_last());
    if (found.dentry->is_negative()) return Errno(ENOENT);
    if (found.inode().is_symlink() && (options_.follow_last || trailing_slash_)) {
      TRY(follow(found));
      continue;
    }
    current_ = std::move(found);
    break;
  }
  if ((options_.directory || trailing_slash_) && !current_.inode().is_directory())
    return Errno(ENOTDIR);
  return current_;
}

Result<Path> resolve_path(const Caller& caller, const Path& at, std::string_view path,
                          WalkOptions options) {
  PathWalk walk(caller, options);
  TRY(walk.start(at, path));
  return walk.finish();
}

PathText describe_path(const MountNamespace& mounts, const Path& root, const Path& path) {
  PathText result;
  result.deleted = path.dentry->is_removed();
  Path walk = path;
  std::vector<std::string> names;
  while (!(walk == root)) {
    if (walk.dentry == walk.mount->root()) {
      Path up = mounts.mount_point_of(walk);
      if (up == walk) {  // not below root, or no longer mounted
        result.reachable = false;
        break;
      }
      walk = up;
      continue;
    }
    if (walk.dentry->is_root()) {  // a place of its own, such as a pipe, or an unnamed file
      result.reachable = false;
      result.text = walk.dentry->name();
      return result;
    }
    names.push_back(walk.dentry->name());
    walk.dentry = walk.dentry->parent();
  }
  for (auto it = names.rbegin(); it != names.rend(); ++it) result.text += "/" + *it;
  if (result.text.empty()) result.text = "/";
  if (result.deleted) result.text += " (deleted)";
  return result;
}

}  // namespace caisson
