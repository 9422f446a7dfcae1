#include "runtime/root_filesystem.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "fs/dev/devices.h"
#include "fs/hostfs/host_filesystem.h"
#include "fs/proc/proc.h"
#include "fs/stdio/host_stdio.h"
#include "fs/tmpfs/tmpfs.h"
#include "kernel/auth/credentials.h"
#include "runtime/protocol.h"
#include "vfs/caller.h"
#include "vfs/path_walk.h"

namespace caisson::runtime {
namespace {

Error at(const char* what, Errno error) { return Error(what, error); }

// Mounts over an existing directory; a root without that directory goes without the mount.
Result<void, Error> mount_over(MountNamespace& mounts, const char* where, Ref<Mount> mount) {
  Path root = mounts.root();
  Ref<Credentials> credentials = Credentials::root();
  Caller caller{*credentials, mounts, root, root, 022, 1, 1};
  auto place = resolve_path(caller, root, where);
  if (!place.ok()) return {};
  auto attached = mounts.attach(std::move(mount), place.value());
  if (!attached.ok()) return at(where, attached.error());
  return {};
}

}  // namespace

ClosedStdio occupy_closed_stdio() {
  ClosedStdio closed{};
  for (int fd = 0; fd < 3; ++fd) {
    if (fcntl(fd, F_GETFD) >= 0) continue;
    closed[static_cast<size_t>(fd)] = true;
    // Neither to be read nor to be written.
    if (epoll_create1(EPOLL_CLOEXEC) != fd) _exit(kExitInternal);
  }
  return closed;
}

Result<Ref<FdTable>, Error> take_stdio(host::EventLoop& events, const ClosedStdio& closed) {
  Ref<FdTable> table = FdTable::create();
  for (int fd = 0; fd < 3; ++fd) {
    if (closed[static_cast<size_t>(fd)]) continue;  // closed outside, so closed inside
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (copy < 0) return at("standard input and output", Errno(errno));
    auto file = HostStdio::create(events, UniqueFd(copy));
    if (!file.ok()) return at("standard input and output", file.error());
    if (fd == 0 && file.value()->is_terminal())
      set_terminal(Ref<FileDescription>(file.value()).or_null());
    auto installed = table->install_at(fd, file.value(), {});
    if (!installed.ok()) return at("standard input and output", installed.error());
  }
  return table;
}

Result<Ref<FsContext>, Error> make_root(UniqueFd host_root, platform::Platform& platform,
                                        MemoryFile& memory, const SandboxOptions& options) {
  register_standard_devices();
  auto host = HostFilesystem::create(std::move(host_root), &platform);
  if (!host.ok()) return at("the host's root", host.error());
  auto lower = host.value()->make_root();
  if (!lower.ok()) return at("the host's root", lower.error());
  TmpfsOptions overlay;
  overlay.name = "overlay";
  auto mount = Tmpfs::mount(memory, overlay, 0, "caisson", lower.value().or_null());
  if (!mount.ok()) return at("the layer over the host's root", mount.error());
  Ref<MountNamespace> mounts = MountNamespace::create(mount.value());
  auto dev = make_dev_mount(memory);
  if (!dev.ok()) return at("/dev", dev.error());
  if (auto done = mount_over(*mounts, "/dev", dev.value()); !done.ok()) return done.error();
  // shm_open(3) and sem_open(3) look for it.
  auto shared = Tmpfs::mount(memory, {}, MS_NOSUID | MS_NODEV, "tmpfs");
  if (!shared.ok()) return at("/dev/shm", shared.error());
  if (auto done = mount_over(*mounts, "/dev/shm", shared.value()); !done.ok()) return done.error();
  // The host's /sys is about the host: never seen inside. mount_proc() covers its /proc.
  TmpfsOptions empty;
  empty.root_mode = 0555;
  auto cover = Tmpfs::mount(memory, empty, 0, "none");
  if (!cover.ok()) return at("/sys", cover.error());
  if (auto done = mount_over(*mounts, "/sys", cover.value()); !done.ok()) return done.error();

  Path root = mounts->root();
  Path directory = root;
  Ref<Credentials> credentials = Credentials::root();
  Caller caller{*credentials, *mounts, root, root, 022, 1, 1};
  auto place = resolve_path(caller, root, options.directory);
  if (!place.ok() && options.directory_required)
    return Error("--cwd " + options.directory, place.error());
  if (place.ok()) directory = place.value();
  return FsContext::create(std::move(mounts), std::move(root), std::move(directory));
}

Result<void, Error> mount_proc(FsContext& fs, Kernel& kernel) {
  return mount_over(fs.mounts(), "/proc", make_proc_mount(kernel));
}

}  // namespace caisson::runtime
