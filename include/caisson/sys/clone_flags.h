// The CLONE_* flags of clone(2), clone3(2) and unshare(2), in Linux's own spelling.
//
// They are the host headers' macros; this header makes sure that all are there, also where the C
// library is older than a flag, and kCloneFlags lists them by name for messages and tests.
#pragma once

#include <linux/sched.h>
#include <sched.h>

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif
#ifndef CLONE_CLEAR_SIGHAND
#define CLONE_CLEAR_SIGHAND 0x100000000ULL
#endif
#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif

namespace caisson::sys {

struct CloneFlag {
  std::string_view name;
  uint64_t value;
};

inline constexpr std::array kCloneFlags = {
    CloneFlag{"CLONE_NEWTIME", CLONE_NEWTIME},
    CloneFlag{"CLONE_VM", CLONE_VM},
    CloneFlag{"CLONE_FS", CLONE_FS},
    CloneFlag{"CLONE_FILES", CLONE_FILES},
    CloneFlag{"CLONE_SIGHAND", CLONE_SIGHAND},
    CloneFlag{"CLONE_PIDFD", CLONE_PIDFD},
    CloneFlag{"CLONE_PTRACE", CLONE_PTRACE},
    CloneFlag{"CLONE_VFORK", CLONE_VFORK},
    CloneFlag{"CLONE_PARENT", CLONE_PARENT},
    CloneFlag{"CLONE_THREAD", CLONE_THREAD},
    CloneFlag{"CLONE_NEWNS", CLONE_NEWNS},
    CloneFlag{"CLONE_SYSVSEM", CLONE_SYSVSEM},
    CloneFlag{"CLONE_SETTLS", CLONE_SETTLS},
    CloneFlag{"CLONE_PARENT_SETTID", CLONE_PARENT_SETTID},
    CloneFlag{"CLONE_CHILD_CLEARTID", CLONE_CHILD_CLEARTID},
    CloneFlag{"CLONE_DETACHED", CLONE_DETACHED},
    CloneFlag{"CLONE_UNTRACED", CLONE_UNTRACED},
    CloneFlag{"CLONE_CHILD_SETTID", CLONE_CHILD_SETTID},
    CloneFlag{"CLONE_NEWCGROUP", CLONE_NEWCGROUP},
    CloneFlag{"CLONE_NEWUTS", CLONE_NEWUTS},
    CloneFlag{"CLONE_NEWIPC", CLONE_NEWIPC},
    CloneFlag{"CLONE_NEWUSER", CLONE_NEWUSER},
    CloneFlag{"CLONE_NEWPID", CLONE_NEWPID},
    CloneFlag{"CLONE_NEWNET", CLONE_NEWNET},
    CloneFlag{"CLONE_IO", CLONE_IO},
    CloneFlag{"CLONE_CLEAR_SIGHAND", CLONE_CLEAR_SIGHAND},
    CloneFlag{"CLONE_INTO_CGROUP", CLONE_INTO_CGROUP},
};

// "CLONE_FILES|CLONE_THREAD"; unknown bits are printed as a number, no bits as "0".
std::string clone_flags_text(uint64_t flags);

}  // namespace caisson::sys
