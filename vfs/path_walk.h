// PathWalk: path resolution, path_resolution(7) and openat2(2). Linux: fs/namei.c.
//
// Made on the stack for one call. resolve_path() answers most needs; calls that create or remove a
// name stop before the last component. Symbolic links are kept as a stack of texts, so nothing
// nests. No lock is held between two components.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "vfs/caller.h"
#include "vfs/path.h"

namespace caisson {

struct WalkOptions {
  bool follow_last = true;  // a symbolic link in the last place
  bool directory = false;   // the last must be a directory (O_DIRECTORY): ENOTDIR
  uint64_t resolve = 0;     // abi::kResolve*
};

enum class LastKind : uint8_t { kName, kDot, kDotDot, kNothing };

class PathWalk {
 public:
  explicit PathWalk(const Caller& caller, WalkOptions options = {});

  // ENOENT for an empty path. `at` is the directory that relative paths begin at.
  Result<void> start(const Path& at, std::string_view path);
  // Goes on until only the last component is left: directory() and last() are set then, and the
  // directory is one in which the caller may search.
  Result<void> to_last();
  // Looks the last component up and crosses mounts: the place, possibly negative.
  Result<Path> lookup_last();
  // After lookup_last() found a symbolic link: goes through it; then to_last() again.
  Result<void> follow(const Path& link);

  const Path& directory() const { return current_; }
  const std::string& last() const { return last_; }
  LastKind last_kind() const { return last_kind_; }
  // The path demanded a directory by a slash at its end.
  bool has_trailing_slash() const { return trailing_slash_; }
  // The whole rest, including the last component.
  Result<Path> finish();

 private:
  struct Frame {
    std::string text;
    size_t position = 0;
  };
  // The next component, or nothing at the end of everything.
  bool next_component(std::string& component, bool& is_last);
  Result<Path> lookup_child(const std::string& name);
  Result<void> go_up();
  Result<void> check_search() const;
  Result<void> jump_to_root();

  const Caller& caller_;
  const WalkOptions options_;
  Path root_;
  Path current_;
  std::vector<Frame> frames_;
  std::string last_;
  LastKind last_kind_ = LastKind::kNothing;
  bool trailing_slash_ = false;
  int links_ = 0;
};

// Where `path` leads; ENOENT if it is not there.
Result<Path> resolve_path(const Caller& caller, const Path& at, std::string_view path,
                          WalkOptions options = {});

// The text of a place as seen from `root`, for getcwd(2) and /proc: " (deleted)" is appended where
// the name is gone, and `reachable` is false where it is not below root.
struct PathText {
  std::string text;
  bool reachable = true;
  bool deleted = false;
};
PathText describe_path(const MountNamespace& mounts, const Path& root, const Path& path);

}  // namespace caisson
