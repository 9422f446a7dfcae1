#include "sys/start_check.h"

#include <linux/capability.h>

#include "sys/exec_strings.h"

namespace caisson::sys::internal {
namespace {

using Problem = std::optional<StartError>;

StartError bad(std::string what, int error = EINVAL, int index = -1) {
  return {Step::kAttributes, Errno(error), index, std::move(what)};
}

std::string entry(const char* field, size_t index) {
  return std::string(field) + "[" + std::to_string(index) + "]";
}

Problem check_program(const std::string& path, const std::vector<std::string>& argv,
                      const ProcAttr& attr) {
  if (holds_nul(path)) return bad("path holds a NUL byte");
  if (argv.empty()) return bad("argv is empty: it needs at least the program's name");
  for (size_t i = 0; i < argv.size(); ++i)
    if (holds_nul(argv[i]))
      return bad(entry("argv", i) + " holds a NUL byte", EINVAL, static_cast<int>(i));
  if (attr.env)
    for (size_t i = 0; i < attr.env->size(); ++i)
      if (holds_nul((*attr.env)[i]))
        return bad(entry("env", i) + " holds a NUL byte", EINVAL, static_cast<int>(i));
  return std::nullopt;
}

Problem check_directories(const ProcAttr& attr) {
  if (holds_nul(attr.dir)) return bad("dir holds a NUL byte");
  if (holds_nul(attr.sys.chroot)) return bad("chroot holds a NUL byte");
  return std::nullopt;
}

Problem check_clone_flags(const ProcAttr& attr) {
  // The first three would let the child change or end the caller; the next four take pointers that
  // only a caller of clone(2) itself has; CLONE_DETACHED is refused by clone3(2).
  constexpr uint64_t kRefused = CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SETTLS |
                                CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID |
                                CLONE_DETACHED;
  const SysProcAttr& sys = attr.sys;
  if (const uint64_t refused = sys.clone_flags & kRefused; refused != 0)
    return bad("clone_flags: " + clone_flags_text(refused) + " is not for starting programs");
  uint64_t known = 0;
  for (const CloneFlag& flag : kCloneFlags) known |= flag.value;
  if (const uint64_t unknown = sys.clone_flags & ~known; unknown != 0)
    return bad("clone_flags: unknown " + clone_flags_text(unknown));
  if ((sys.clone_flags & CLONE_FS) != 0 && (!attr.dir.empty() || !sys.chroot.empty()))
    return bad("clone_flags: with CLONE_FS, dir and chroot would be the caller's");
  if ((sys.clone_flags & CLONE_INTO_CGROUP) != 0 && !sys.use_cgroup_fd)
    return bad("clone_flags: CLONE_INTO_CGROUP needs use_cgroup_fd");
  if (sys.use_cgroup_fd && sys.cgroup_fd < 0) return bad("cgroup_fd is negative", EBADF);
  return std::nullopt;
}

Problem check_map(const char* field, const std::vector<SysProcIDMap>& map) {
  constexpr int64_t kIds = int64_t{1} << 32;
  const auto overlap = [](int64_t a, int64_t b, int64_t a_size, int64_t b_size) {
    return a < b + b_size && b < a + a_size;
  };
  for (size_t i = 0; i < map.size(); ++i) {
    const SysProcIDMap& line = map[i];
    const int index = static_cast<int>(i);
    for (const int64_t id : {line.container_id, line.host_id})
      if (line.size <= 0 || line.size >= kIds || id < 0 || id >= kIds || id + line.size >= kIds)
        return bad(entry(field, i) + " is not a range of 32-bit ids", EINVAL, index);
    for (size_t j = 0; j < i; ++j)
      if (overlap(map[j].container_id, line.container_id, map[j].size, line.size) ||
          overlap(map[j].host_id, line.host_id, map[j].size, line.size))
        return bad(entry(field, i) + " overlaps " + entry(field, j), EINVAL, index);
  }
  return std::nullopt;
}

Problem check_maps(const SysProcAttr& sys) {
  if (sys.uid_mappings.empty() && sys.gid_mappings.empty()) return std::nullopt;
  if (((sys.clone_flags | sys.unshare_flags) & CLONE_NEWUSER) == 0)
    return bad(std::string(sys.uid_mappings.empty() ? "gid" : "uid") +
                   "_mappings need CLONE_NEWUSER in clone_flags or unshare_flags",
               EPERM);
  if (Problem problem = check_map("uid_mappings", sys.uid_mappings)) return problem;
  return check_map("gid_mappings", sys.gid_mappings);
}

Problem check_terminal(const ProcAttr& attr) {
  const SysProcAttr& sys = attr.sys;
  if (sys.setctty && sys.foreground) return bad("setctty and foreground exclude each other");
  if (sys.setctty && (sys.ctty < 0 || static_cast<size_t>(sys.ctty) >= attr.files.size()))
    return bad("ctty is not an index into files, as setctty needs");
  return std::nullopt;
}

Problem check_both_kinds(const ProcAttr& attr) {
  if (Problem problem = check_directories(attr)) return problem;
  if (Problem problem = check_clone_flags(attr)) return problem;
  if (Problem problem = check_maps(attr.sys)) return problem;
  if (Problem problem = check_terminal(attr)) return problem;
  for (size_t i = 0; i < attr.files.size(); ++i)
    if (attr.files[i] < -1)
      return bad(entry("files", i) + " is negative", EBADF, static_cast<int>(i));
  for (size_t i = 0; i < attr.sys.ambient_caps.size(); ++i)
    if (attr.sys.ambient_caps[i] >= 32 * _LINUX_CAPABILITY_U32S_3)
      return bad(entry("ambient_caps", i) + " is not a capability", EINVAL, static_cast<int>(i));
  if (attr.sys.pdeathsig.number() < 0 || attr.sys.pdeathsig.number() > 64)
    return bad("pdeathsig is not a signal");
  return std::nullopt;
}

}  // namespace

std::optional<StartError> check_attributes(const std::string& path,
                                           const std::vector<std::string>& argv,
                                           const ProcAttr& attr) {
  if (Problem problem = check_program(path, argv, attr)) return problem;
  return check_both_kinds(attr);
}

std::optional<StartError> check_fork_exec_attributes(const std::string& path,
                                                     const std::vector<std::string>& argv,
                                                     const ProcAttr& attr) {
  if (Problem problem = check_attributes(path, argv, attr)) return problem;
  if ((attr.sys.clone_flags & CLONE_PIDFD) != 0)
    return bad("clone_flags: CLONE_PIDFD is for start_process");
  return std::nullopt;
}

std::optional<StartError> check_function_attributes(ChildFunction function, const ProcAttr& attr) {
  if (function == nullptr) return bad("function is null");
  if (attr.env) return bad("env is for programs, not for functions");
  if (attr.sys.ptrace) return bad("ptrace is for programs, not for functions");
  return check_both_kinds(attr);
}

}  // namespace caisson::sys::internal
