// The directory of a process or thread. Linux: fs/proc/base.c, fd.c.
#include <algorithm>
#include <charconv>

#include "fs/proc/proc.h"
#include "kernel/executable.h"
#include "kernel/kernel.h"
#include "kernel/task.h"
#include "vfs/epoll.h"
#include "vfs/path_walk.h"

namespace caisson {
namespace {

// The task of a node: looked up at each use, so that an open file of proc keeps no task alive.
struct TaskOf {
  Kernel* kernel;
  int32_t id;
  uint64_t start_time_ns;  // tells it from a later task with the same number

  Result<Ref<Task>> get() const {
    RefOrNull<Task> task = kernel->tasks().find_task(id);
    if (!task || task->start_time_ns.load() != start_time_ns) return Errno(ESRCH);
    return Ref<Task>::from(std::move(task));
  }
};

// ptrace_may_access() for reading: the same user, or CAP_SYS_PTRACE.
bool may_access(const Caller& caller, Task& task) {
  if (caller.process_id == task.tgid()) return true;
  const Credentials& own = caller.credentials;
  if (own.has(Capability::kSysPtrace)) return true;
  Ref<Credentials> other = task.credentials_ref();
  return task.group.dumpable.load() && own.fsuid == other->euid && own.fsuid == other->suid &&
         own.fsuid == other->ruid && own.fsgid == other->egid && own.fsgid == other->sgid &&
         own.fsgid == other->rgid && other->permitted.is_subset_of(own.permitted);
}

using Text = std::string (*)(Task&);
enum class Guard : bool { kNone, kAccess };

template <typename F>
Ref<Inode> make_text(const ProcPlace& place, TaskOf task, uint32_t permissions, Guard guard, F read,
                     ProcText::Write write = nullptr) {
  ProcText::MayOpen may_open;
  if (guard == Guard::kAccess) {
    may_open = [task](const Caller& caller) {
      Result<Ref<Task>> found = task.get();
      return found.ok() && may_access(caller, *found.value());
    };
  }
  return make_ref<ProcText>(
      place, permissions,
      [task, read]() -> Result<std::string> {
        Ref<Task> found = TRY(task.get());
        return read(*found);
      },
      std::move(write), std::move(may_open));
}

template <typename F>
Ref<Inode> make_link(const ProcPlace& place, TaskOf task, F target) {
  return make_ref<ProcLink>(place, [task, target](const Caller& caller) -> Result<LinkTarget> {
    Result<Ref<Task>> found = task.get();
    if (!found.ok()) return Errno(ENOENT);
    if (!may_access(caller, *found.value())) return Errno(EACCES);
    return target(*found.value());
  });
}

std::string read_range(Task& task, GuestAddr start, GuestAddr end) {
  constexpr uint64_t kMost = 1 << 20;
  RefOrNull<MemoryManager> mm = task.mm_ref();
  if (!mm || end <= start) return "";
  std::string text(std::min(end - start, kMost), '\0');
  CopyResult copied = mm->copy_in(text.data(), start, text.size());
  text.resize(copied.done);
  return text;
}

std::string cmdline(Task& task) {
  RefOrNull<MemoryManager> mm = task.mm_ref();
  if (!mm) return "";
  ProgramLayout layout = mm->program();
  return read_range(task, layout.arguments_start, layout.arguments_end);
}
std::string environ_text(Task& task) {
  RefOrNull<MemoryManager> mm = task.mm_ref();
  if (!mm) return "";
  ProgramLayout layout = mm->program();
  return read_range(task, layout.environment_start, layout.environment_end);
}
std::string auxv(Task& task) {
  RefOrNull<MemoryManager> mm = task.mm_ref();
  if (!mm) return "";
  std::vector<uint64_t> words = mm->program().auxv;
  return std::string(reinterpret_cast<const char*>(words.data()), words.size() * 8);
}
std::string maps(Task& task) {
  RefOrNull<MemoryManager> mm = task.mm_ref();
  return mm ? mm->maps_text() : "";
}
std::string smaps(Task& task) {
  RefOrNull<MemoryManager> mm = task.mm_ref();
  return mm ? mm->smaps_text() : "";
}
std::string smaps_rollup(Task& task) {
  RefOrNull<MemoryManager> mm = task.mm_ref();
  return mm ? mm->smaps_rollup_text() : "";
}
std::string comm(Task& task) { return task.name() + "\n"; }
std::string wchan(Task& task) { return task.wait_name(); }
std::string process_stat(Task& task) { return stat_text(task, false); }
std::string thread_stat(Task& task) { return stat_text(task, true); }
std::string cgroup(Task&) { return "0::/\n"; }
std::string oom_score(Task& task) {
  return std::to_string(task.kernel.memory_killer().score(task.group)) + "\n";
}

Result<LinkTarget> executable(Task& task) {
  RefOrNull<ExecutableFile> file = task.executable();
  auto* opened = dynamic_cast<OpenedExecutable*>(file.get());
  if (opened == nullptr) return Errno(ENOENT);
  return LinkTarget(opened->file().path());
}
Result<LinkTarget> working_directory(Task& task) {
  RefOrNull<FsContext> fs = task.fs_ref();
  if (!fs) return Errno(ENOENT);
  return LinkTarget(fs->working_directory());
}
Result<LinkTarget> root_directory(Task& task) {
  RefOrNull<FsContext> fs = task.fs_ref();
  if (!fs) return Errno(ENOENT);
  return LinkTarget(fs->root());
}

std::string fd_info(FileDescription& file) {
  Result<uint64_t> offset = file.lseek(0, SEEK_CUR);
  char flags[16];
  std::snprintf(flags, sizeof flags, "%07o", file.flags());
  std::string text = "pos:\t" + std::to_string(offset.ok() ? offset.value() : 0) + "\nflags:\t" +
                     flags + "\nmnt_id:\t" + std::to_string(file.path().mount->id()) + "\nino:\t" +
                     std::to_string(file.inode().ino()) + "\n";
  if (auto* epoll = dynamic_cast<EpollFile*>(&file)) {
    for (const auto& [fd, event] : epoll->items()) {
      char line[96];
      std::snprintf(line, sizeof line, "tfd: %8d events: %8x data: %16llx\n", fd, event.events,
                    static_cast<unsigned long long>(event.data));
      text += line;
    }
  }
  return text;
}

Result<Ref<FileDescription>> file_of(TaskOf task, int fd) {
  Ref<Task> found = TRY(task.get());
  RefOrNull<FdTable> files = found->files_ref();
  if (!files) return Errno(ENOENT);
  Result<Ref<FileDescription>> file = files->get_any(fd);
  if (!file.ok()) return Errno(ENOENT);
  return file;
}

// fd/ and fdinfo/.
Ref<Inode> make_fd_directory(const ProcPlace& place, TaskOf task, bool info) {
  auto lookup = [place, task, info](std::string_view name) -> Result<RefOrNull<Inode>> {
    std::optional<int32_t> fd = parse_number(name);
    if (!fd) return RefOrNull<Inode>();
    Result<Ref<FileDescription>> file = file_of(task, *fd);
    if (!file.ok()) return RefOrNull<Inode>();
    if (info) {
      return make_text(place.child(name), task, 0444, Guard::kAccess,
                       [task, fd](Task&) -> Result<std::string> {
                         Ref<FileDescription> file = TRY(file_of(task, *fd));
                         return fd_info(*file);
                       })
          .or_null();
    }
    // The link's own permissions show how the file was opened.
    uint32_t permissions = 0;
    if (file.value()->is_readable()) permissions |= 0500;
    if (file.value()->is_writable()) permissions |= 0300;
    Ref<Inode> link = make_ref<ProcLink>(
        place.child(name),
        [task, fd](const Caller& caller) -> Result<LinkTarget> {
          Result<Ref<Task>> found = task.get();
          if (!found.ok()) return Errno(ENOENT);
          if (!may_access(caller, *found.value())) return Errno(EACCES);
          Ref<FileDescription> file = TRY(file_of(task, *fd));
          return LinkTarget(file->path());
        },
        permissions);
    return link.or_null();
  };
  auto list = [place, task, info]() -> Result<std::vector<DirectoryEntry>> {
    std::vector<DirectoryEntry> entries;
    Result<Ref<Task>> found = task.get();
    if (!found.ok()) return Errno(ENOENT);
    RefOrNull<FdTable> files = found.value()->files_ref();
    if (!files) return entries;
    for (int fd : files->numbers()) {
      std::string name = std::to_string(fd);
      uint64_t ino = place.child(name).ino();
      entries.push_back(
          DirectoryEntry{std::move(name), ino, dirent_type(info ? S_IFREG : S_IFLNK)});
    }
    return entries;
  };
  return make_ref<ProcDirectory>(place, lookup, list, 0500);
}

// task/: the threads.
Ref<Inode> make_threads_directory(const ProcPlace& place, TaskOf task) {
  auto lookup = [place, task](std::string_view name) -> Result<RefOrNull<Inode>> {
    std::optional<int32_t> id = parse_number(name);
    Result<Ref<Task>> leader = task.get();
    if (!id || !leader.ok()) return RefOrNull<Inode>();
    RefOrNull<Task> thread = task.kernel->tasks().find_task(*id);
    if (!thread || &thread->group != &leader.value()->group) return RefOrNull<Inode>();
    return make_task_directory(place.child(name), *thread, true).or_null();
  };
  auto list = [place, task]() -> Result<std::vector<DirectoryEntry>> {
    Result<Ref<Task>> leader = task.get();
    if (!leader.ok()) return Errno(ENOENT);
    std::vector<int32_t> ids;
    {
      ThreadGroup& group = leader.value()->group;
      MutexLock lock(group.mu);
      for (Task* thread : group.tasks) ids.push_back(thread->tid());
    }
    std::vector<DirectoryEntry> entries;
    for (int32_t id : ids) {
      std::string name = std::to_string(id);
      uint64_t ino = place.child(name).ino();
      entries.push_back(DirectoryEntry{std::move(name), ino, dirent_type(S_IFDIR)});
    }
    return entries;
  };
  return make_ref<ProcDirectory>(place, lookup, list);
}

template <Text kText, uint32_t kPermissions = 0444, Guard kGuard = Guard::kNone>
Ref<Inode> text(const ProcPlace& place, TaskOf task) {
  return make_text(place, task, kPermissions, kGuard,
                   [](Task& found) -> Result<std::string> { return kText(found); });
}
template <Result<LinkTarget> (*kTarget)(Task&)>
Ref<Inode> link(const ProcPlace& place, TaskOf task) {
  return make_link(place, task, kTarget);
}

// Written by the process itself: pthread_setname_np(3).
Ref<Inode> comm_file(const ProcPlace& place, TaskOf task) {
  return make_text(
      place, task, 0644, Guard::kNone,
      [](Task& found) -> Result<std::string> { return comm(found); },
      [task](std::string_view name, const Credentials&) -> Result<void> {
        Ref<Task> found = TRY(task.get());
        name = name.substr(0, std::min(name.find('\n'), size_t{15}));
        found->set_name(std::string(name));
        return {};
      });
}

// As kstrtoint(, 0,) reads what is left of the first 12 bytes without blanks around it.
Result<int> parse_int(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\n\v\f\r";
  text = text.substr(0, std::min(text.size(), size_t{12}));
  text = text.substr(0, text.find('\0'));
  text.remove_prefix(std::min(text.find_first_not_of(kBlanks), text.size()));
  text = text.substr(0, text.find_last_not_of(kBlanks) + 1);
  bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  int base = 10;
  if (text.starts_with("0x") || text.starts_with("0X")) {
    base = 16;
    text.remove_prefix(2);
  } else if (text.starts_with('0')) {
    base = 8;
  }
  int64_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error == std::errc::result_out_of_range) return Errno(ERANGE);
  if (error != std::errc() || text.starts_with('-') || end != text.data() + text.size())
    return Errno(EINVAL);
  if (negative) value = -value;
  if (value != static_cast<int>(value)) return Errno(ERANGE);
  return static_cast<int>(value);
}

// Linux: __set_oom_adj().
Result<void> set_oom_score_adj(Task& task, std::string_view text, const Credentials& writer) {
  int value = TRY(parse_int(text));
  if (value < kOomScoreAdjMin || value > kOomScoreAdjMax) return Errno(EINVAL);
  ThreadGroup& group = task.group;
  bool privileged = writer.has(Capability::kSysResource);
  if (value < group.oom_score_adj_min.load() && !privileged) return Errno(EACCES);
  group.oom_score_adj.store(value);
  if (privileged) group.oom_score_adj_min.store(value);
  return {};
}

Ref<Inode> oom_score_adj_file(const ProcPlace& place, TaskOf task) {
  return make_text(
      place, task, 0644, Guard::kNone,
      [](Task& found) -> Result<std::string> {
        return std::to_string(found.group.oom_score_adj.load()) + "\n";
      },
      [task](std::string_view text, const Credentials& opener) -> Result<void> {
        return set_oom_score_adj(*TRY(task.get()), text, opener);
      });
}

Ref<Inode> pagemap(const ProcPlace& place, TaskOf task) {
  return make_pagemap(place, [task](const Caller& caller) -> Result<RefOrNull<MemoryManager>> {
    Ref<Task> found = TRY(task.get());
    if (!may_access(caller, *found)) return Errno(EACCES);
    return found->mm_ref();
  });
}

struct TaskChild {
  std::string_view name;
  uint32_t type;
  Ref<Inode> (*make)(const ProcPlace&, TaskOf);
  bool process_only = false;
};
constexpr TaskChild kTaskChildren[] = {
    {"auxv", S_IFREG, text<auxv, 0400, Guard::kAccess>},
    {"cgroup", S_IFREG, text<cgroup>},
    {"cmdline", S_IFREG, text<cmdline>},
    {"comm", S_IFREG, comm_file},
    {"cwd", S_IFLNK, link<working_directory>},
    {"environ", S_IFREG, text<environ_text, 0400, Guard::kAccess>},
    {"exe", S_IFLNK, link<executable>},
    {"fd", S_IFDIR,
     [](const ProcPlace& place, TaskOf task) { return make_fd_directory(place, task, false); }},
    {"fdinfo", S_IFDIR,
     [](const ProcPlace& place, TaskOf task) { return make_fd_directory(place, task, true); }},
    {"limits", S_IFREG, text<limits_text>},
    {"maps", S_IFREG, text<maps, 0444, Guard::kAccess>},
    {"mountinfo", S_IFREG, text<mountinfo_text>},
    {"mounts", S_IFREG, text<mounts_text>},
    {"oom_score", S_IFREG, text<oom_score>},
    {"oom_score_adj", S_IFREG, oom_score_adj_file},
    {"pagemap", S_IFREG, pagemap},
    {"root", S_IFLNK, link<root_directory>},
    {"smaps", S_IFREG, text<smaps, 0444, Guard::kAccess>},
    {"smaps_rollup", S_IFREG, text<smaps_rollup, 0444, Guard::kAccess>},
    {"statm", S_IFREG, text<statm_text>},
    {"status", S_IFREG, text<status_text>},
    {"task", S_IFDIR, make_threads_directory, true},
    {"wchan", S_IFREG, text<wchan>},
};

}  // namespace

Ref<Inode> make_task_directory(const ProcPlace& place, Task& task, bool thread) {
  ProcPlace own = place;
  Ref<Credentials> credentials = task.credentials_ref();
  if (task.group.dumpable.load()) {
    own.uid = credentials->euid;
    own.gid = credentials->egid;
  }
  TaskOf of{&task.kernel, task.tid(), task.start_time_ns.load()};
  auto lookup = [own, of, thread](std::string_view name) -> Result<RefOrNull<Inode>> {
    if (!of.get().ok()) return RefOrNull<Inode>();
    if (name == "stat") {
      ProcPlace place = own.child(name);
      return (thread ? text<thread_stat>(place, of) : text<process_stat>(place, of)).or_null();
    }
    for (const TaskChild& child : kTaskChildren) {
      if (child.name == name && !(thread && child.process_only))
        return child.make(own.child(name), of).or_null();
    }
    return RefOrNull<Inode>();
  };
  auto list = [own, of, thread]() -> Result<std::vector<DirectoryEntry>> {
    if (!of.get().ok()) return Errno(ENOENT);
    std::vector<DirectoryEntry> entries{
        DirectoryEntry{"stat", own.child("stat").ino(), dirent_type(S_IFREG)}};
    for (const TaskChild& child : kTaskChildren) {
      if (thread && child.process_only) continue;
      entries.push_back(DirectoryEntry{std::string(child.name), own.child(child.name).ino(),
                                       dirent_type(child.type)});
    }
    return entries;
  };
  return make_ref<ProcDirectory>(own, lookup, list);
}

}  // namespace caisson
