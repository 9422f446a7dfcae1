#include "runtime/confinement.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string>

#include "host/raw_syscall.h"
#include "psx/psx.h"

namespace caisson::runtime {
namespace {

using host::raw_arg;
using host::raw_syscall;

Error failed(const char* what) { return Error(what, Errno(errno)); }

// Any directory serves as a mount point in a mount namespace of our own; this one exists
// everywhere.
constexpr const char* kMountPoint = "/proc";
constexpr const char* kScratch = "/tmp";

const char* mount_point() {
  struct stat info {};
  return stat(kScratch, &info) == 0 && S_ISDIR(info.st_mode) ? kScratch : kMountPoint;
}

Result<UniqueFd, Error> reopen_read_only(int fd) {
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  UniqueFd result(open(path, O_RDONLY | O_CLOEXEC));
  if (!result) return failed("opening guest memory for reading");
  return result;
}

// A file without a name on a tmpfs that is mounted nowhere and holds `limit_bytes`; empty where
// mounting is refused.
UniqueFd file_on_own_tmpfs(uint64_t limit_bytes) {
  UniqueFd context(fsopen("tmpfs", FSOPEN_CLOEXEC));
  const auto set = [&](const char* key, const char* value) {
    return fsconfig(context.get(), FSCONFIG_SET_STRING, key, value, 0) == 0;
  };
  if (!context || !set("source", "caisson") || !set("mode", "0700") ||
      !set("size", std::to_string(limit_bytes).c_str()))
    return UniqueFd();
  (void)set("huge", "advise");  // a host may have no huge pages on tmpfs
  if (fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) return UniqueFd();
  const UniqueFd root(
      fsmount(context.get(), FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV));
  if (!root) return UniqueFd();
  return UniqueFd(openat(root.get(), ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
}

}  // namespace

Result<GuestMemory, Error> prepare_memory(uint64_t limit_bytes) {
  GuestMemory memory;
  memory.read_write = file_on_own_tmpfs(limit_bytes);
  if (!memory.read_write) {
    memory.read_write.reset(memfd_create("caisson-memory", MFD_CLOEXEC));
    if (!memory.read_write) return failed("creating guest memory");
  }
  auto read_only = reopen_read_only(memory.read_write.get());
  if (!read_only.ok()) return read_only.error();
  memory.read_only = std::move(read_only).value();
  return memory;
}

Result<UniqueFd, Error> open_host_root(bool namespaces) {
  if (namespaces) {
    auto tree = raw_syscall(SYS_open_tree, AT_FDCWD, raw_arg("/"),
                            OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
    if (tree.ok()) {
      UniqueFd fd(static_cast<int>(tree.value()));
      struct mount_attr attributes {};
      // Best effort: what is opened through it is only ever opened for reading. Whether mounts are
      // nosuid and noexec is left as it is: guests are told.
      attributes.attr_set = MOUNT_ATTR_RDONLY;
      raw_syscall(SYS_mount_setattr, fd.get(), raw_arg(""), AT_EMPTY_PATH | AT_RECURSIVE,
                  raw_arg(&attributes), sizeof attributes)
          .ignore();
      return fd;
    }
  }
  UniqueFd fd(open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return failed("opening the host's root directory");
  return fd;
}

Result<void, Error> enter_empty_root() {
  const char* where = mount_point();
  if (mount("caisson-root", where, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC,
            "mode=0555,size=4096") < 0)
    return failed("mounting an empty root");
  if (chdir(where) < 0) return failed("entering the empty root");
  // pivot_root(".", "."): the old root ends up on top of the new one and is taken off.
  auto pivoted = raw_syscall(SYS_pivot_root, raw_arg("."), raw_arg("."));
  if (!pivoted.ok()) return Error("changing to the empty root", pivoted.error());
  if (umount2(".", MNT_DETACH) < 0) return failed("letting go of the host's mounts");
  if (mount(nullptr, "/", nullptr,
            MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) < 0)
    return failed("making the empty root read-only");
  if (chdir("/") < 0) return failed("entering the empty root");
  return {};
}

// Privileges belong to threads. This is the only one, and psx makes sure of it: where it is not,
// all of them make the call or the start fails.
Result<void, Error> drop_privileges() {
  const auto process_wide = [](int option, long argument) {
    return psx::syscall6(SYS_prctl, option, argument, 0, 0, 0, 0);
  };
  for (int capability = 0; capability < 64; ++capability) {
    if (process_wide(PR_CAPBSET_DROP, capability).error == EINVAL) break;
  }
  (void)process_wide(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL);
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct none[2] = {};
  auto dropped = psx::syscall3(SYS_capset, raw_arg(&header), raw_arg(none), 0);
  if (!dropped.ok()) return Error("dropping capabilities", Errno(dropped.error));
  auto no_new = process_wide(PR_SET_NO_NEW_PRIVS, 1);
  if (!no_new.ok()) return Error("setting no_new_privs", Errno(no_new.error));
  struct rlimit no_core {};
  setrlimit(RLIMIT_CORE, &no_core);
  if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0) return failed("making the process undumpable");
  return {};
}

}  // namespace caisson::runtime
