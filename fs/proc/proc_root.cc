#include <linux/mount.h>

#include "fs/proc/proc.h"
#include "kernel/kernel.h"
#include "kernel/task.h"

namespace caisson {
namespace {

Result<RefOrNull<Inode>> lookup_root(const ProcPlace& root, std::string_view name) {
  RefOrNull<Inode> fixed = lookup_static(root, system_children(), name);
  if (fixed) return fixed;
  std::optional<int32_t> id = parse_number(name);
  if (!id) return RefOrNull<Inode>();
  // Threads are found under their own number too, though not listed.
  RefOrNull<Task> task = root.kernel().tasks().find_task(*id);
  if (!task) return RefOrNull<Inode>();
  return make_task_directory(root.child(name), *task, false).or_null();
}

Result<std::vector<DirectoryEntry>> list_root(const ProcPlace& root) {
  std::vector<DirectoryEntry> entries;
  list_static(root, system_children(), entries);
  for (const Ref<ThreadGroup>& group : root.kernel().tasks().groups()) {
    std::string name = std::to_string(group->id);
    uint64_t ino = root.child(name).ino();
    entries.push_back(DirectoryEntry{std::move(name), ino, dirent_type(S_IFDIR)});
  }
  return entries;
}

}  // namespace

Ref<Mount> make_proc_mount(Kernel& kernel) {
  Ref<ProcFilesystem> filesystem = make_ref<ProcFilesystem>(kernel);
  ProcPlace root{filesystem, "", 0, 0};
  Ref<Inode> inode = make_ref<ProcDirectory>(
      root, [root](std::string_view name) { return lookup_root(root, name); },
      [root] { return list_root(root); });
  return Mount::create(filesystem, Dentry::create_root(inode), MS_NOSUID | MS_NODEV | MS_NOEXEC,
                       "proc");
}

}  // namespace caisson
