// /proc/PID/mounts and mountinfo. Linux: fs/proc_namespace.c.
#include <linux/mount.h>

#include "fs/proc/proc.h"
#include "kernel/task.h"
#include "vfs/path_walk.h"

namespace caisson {
namespace {

// Blanks in names as octal, as getmntent(3) reads them.
std::string escape(const std::string& text) {
  std::string out;
  for (char c : text) {
    switch (c) {
      case ' ':
        out += "\\040";
        break;
      case '\t':
        out += "\\011";
        break;
      case '\n':
        out += "\\012";
        break;
      case '\\':
        out += "\\134";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string options(uint64_t flags) {
  std::string text = (flags & MS_RDONLY) != 0 ? "ro" : "rw";
  if ((flags & MS_NOSUID) != 0) text += ",nosuid";
  if ((flags & MS_NODEV) != 0) text += ",nodev";
  if ((flags & MS_NOEXEC) != 0) text += ",noexec";
  text += (flags & MS_NOATIME) != 0 ? ",noatime" : ",relatime";
  return text;
}

// Calls `line` for every mount that is below the task's root, with its mount point.
template <typename F>
void for_each(Task& task, F line) {
  RefOrNull<FsContext> fs = task.fs_ref();
  if (!fs) return;
  Path root = fs->root();
  for (const MountNamespace::Entry& entry : fs->mounts().list()) {
    PathText where = describe_path(fs->mounts(), root, Path{entry.mount, entry.mount->root()});
    if (where.reachable) line(entry, escape(where.text));
  }
}

}  // namespace

std::string mounts_text(Task& task) {
  std::string text;
  for_each(task, [&](const MountNamespace::Entry& entry, const std::string& where) {
    const Mount& mount = *entry.mount;
    text += escape(mount.source()) + " " + where + " " + mount.filesystem().name() + " " +
            options(mount.flags()) + " 0 0\n";
  });
  return text;
}

std::string mountinfo_text(Task& task) {
  std::string text;
  for_each(task, [&](const MountNamespace::Entry& entry, const std::string& where) {
    const Mount& mount = *entry.mount;
    uint64_t device = mount.filesystem().device();
    int parent = entry.parent ? entry.parent->id() : 0;
    text += std::to_string(mount.id()) + " " + std::to_string(parent) + " " +
            std::to_string(device_major(device)) + ":" + std::to_string(device_minor(device)) +
            " / " + where + " " + options(mount.flags()) + " - " + mount.filesystem().name() + " " +
            escape(mount.source()) + ((mount.flags() & MS_RDONLY) != 0 ? " ro\n" : " rw\n");
  });
  return text;
}

}  // namespace caisson
