// The names of the steps and the sentences of StartError.
#include "caisson/sys/start.h"

namespace caisson::sys {

std::string_view step_name(Step step) {
  switch (step) {
    case Step::kAttributes:
      return "attributes";
    case Step::kReport:
      return "report socket";
    case Step::kClone:
      return "clone";
    case Step::kUidMap:
      return "uid_map";
    case Step::kSetgroupsMap:
      return "setgroups switch";
    case Step::kGidMap:
      return "gid_map";
    case Step::kChild:
      return "child killed before exec";
    case Step::kSignalReset:
      return "signal reset";
    case Step::kCgroup:
      return "cgroup.procs";
    case Step::kKeepCaps:
      return "keep capabilities";
    case Step::kMapWait:
      return "wait for id maps";
    case Step::kSetsid:
      return "setsid";
    case Step::kSetpgid:
      return "setpgid";
    case Step::kForeground:
      return "foreground";
    case Step::kUnshare:
      return "unshare";
    case Step::kMountPrivate:
      return "make mounts private";
    case Step::kChroot:
      return "chroot";
    case Step::kSetgroups:
      return "setgroups";
    case Step::kSetgid:
      return "setgid";
    case Step::kSetuid:
      return "setuid";
    case Step::kCapget:
      return "capget";
    case Step::kCapset:
      return "capset";
    case Step::kAmbientCaps:
      return "ambient_caps";
    case Step::kChdir:
      return "chdir";
    case Step::kPdeathsig:
      return "pdeathsig";
    case Step::kFiles:
      return "files";
    case Step::kCloseOthers:
      return "close other files";
    case Step::kNoctty:
      return "noctty";
    case Step::kSetctty:
      return "setctty";
    case Step::kSignalMask:
      return "signal mask";
    case Step::kPtrace:
      return "ptrace";
    case Step::kExec:
      return "exec";
  }
  return "unknown step";
}

Error StartError::to_error() const {
  if (step == Step::kAttributes) return Error(detail, code);
  std::string message(step_name(step));
  if (index >= 0) message += "[" + std::to_string(index) + "]";
  return Error(std::move(message), code);
}

std::string StartError::text() const { return to_error().text(); }

}  // namespace caisson::sys
