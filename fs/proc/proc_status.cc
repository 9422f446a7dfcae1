// The texts of a process: status, stat, statm, limits. Linux: fs/proc/array.c.
#include <algorithm>
#include <cinttypes>
#include <cstdarg>
#include <cstdio>

#include "fs/proc/proc.h"
#include "kernel/kernel.h"
#include "kernel/task.h"

namespace caisson {
namespace {

__attribute__((format(printf, 2, 3))) void add(std::string& text, const char* pattern, ...) {
  char buffer[512];
  va_list arguments;
  va_start(arguments, pattern);
  std::vsnprintf(buffer, sizeof buffer, pattern, arguments);
  va_end(arguments);
  text += buffer;
}

struct Ids {
  int32_t parent = 0, process_group = 0, session = 0;
  int exit_signal = 0;
};
Ids ids_of(Task& task) {
  Ids ids;
  MutexLock tree(task_tree_mu);
  ThreadGroup& group = task.group;
  group.assert_tree_locked();
  if (group.parent != nullptr) ids.parent = group.parent->id;
  if (group.process_group) {
    ids.process_group = group.process_group->id;
    ids.session = group.process_group->session->id;
  }
  ids.exit_signal = group.exit_signal;
  return ids;
}

struct Signals {
  size_t tasks = 0, queued = 0;
  uint64_t pending = 0, shared = 0, blocked = 0, ignored = 0, caught = 0;
};
Signals signals_of(Task& task) {
  Signals signals;
  ThreadGroup& group = task.group;
  MutexLock lock(group.mu);
  task.assert_group_locked();
  signals.tasks = group.tasks.size();
  signals.queued = task.pending.queued() + group.shared_pending.queued();
  signals.pending = task.pending.set().bits();
  signals.shared = group.shared_pending.set().bits();
  signals.blocked = task.blocked.bits();
  signals.ignored = group.handlers->ignored().bits();
  signals.caught = group.handlers->caught().bits();
  return signals;
}

const char* state_name(char letter) {
  switch (letter) {
    case 'R':
      return "R (running)";
    case 'T':
      return "T (stopped)";
    case 'Z':
      return "Z (zombie)";
    default:
      return "S (sleeping)";
  }
}

}  // namespace

std::string status_text(Task& task) {
  const Ids ids = ids_of(task);
  const Signals signals = signals_of(task);
  Ref<Credentials> credentials = task.credentials_ref();
  RefOrNull<FdTable> files = task.files_ref();
  RefOrNull<FsContext> fs = task.fs_ref();
  RefOrNull<MemoryManager> mm = task.mm_ref();
  std::string text = "Name:\t" + task.name() + "\n";
  if (fs) add(text, "Umask:\t%04o\n", fs->umask());
  add(text, "State:\t%s\nTgid:\t%d\nNgid:\t0\nPid:\t%d\nPPid:\t%d\nTracerPid:\t0\n",
      state_name(task.state_letter()), task.tgid(), task.tid(), ids.parent);
  add(text, "Uid:\t%u\t%u\t%u\t%u\n", credentials->ruid, credentials->euid, credentials->suid,
      credentials->fsuid);
  add(text, "Gid:\t%u\t%u\t%u\t%u\n", credentials->rgid, credentials->egid, credentials->sgid,
      credentials->fsgid);
  std::vector<int> numbers;
  if (files) numbers = files->numbers();
  add(text, "FDSize:\t%d\nGroups:\t", numbers.empty() ? 64 : (numbers.back() / 64 + 1) * 64);
  for (uint32_t group : credentials->groups) add(text, "%u ", group);
  add(text, "\nNStgid:\t%d\nNSpid:\t%d\nNSpgid:\t%d\nNSsid:\t%d\n", task.tgid(), task.tid(),
      ids.process_group, ids.session);
  if (mm) {
    MemoryUse use = mm->usage();
    auto line = [&](const char* name, uint64_t bytes) {
      add(text, "%s:\t%8" PRIu64 " kB\n", name, bytes / 1024);
    };
    line("VmPeak", use.peak_total);
    line("VmSize", use.total);
    line("VmLck", use.locked);
    line("VmPin", 0);
    line("VmHWM", use.peak_resident);
    line("VmRSS", use.resident);
    line("RssAnon", use.resident - std::min(use.resident, use.shared));
    line("RssFile", 0);
    line("RssShmem", use.shared);
    line("VmData", use.data);
    line("VmStk", use.stack);
    line("VmExe", use.text);
    line("VmLib", use.library);
    line("VmPTE", 0);
    line("VmSwap", 0);
  }
  add(text, "Threads:\t%zu\nSigQ:\t%zu/%" PRIu64 "\n", signals.tasks, signals.queued,
      task.group.limits.soft(RLIMIT_SIGPENDING));
  add(text, "SigPnd:\t%016" PRIx64 "\nShdPnd:\t%016" PRIx64 "\nSigBlk:\t%016" PRIx64 "\n",
      signals.pending, signals.shared, signals.blocked);
  add(text, "SigIgn:\t%016" PRIx64 "\nSigCgt:\t%016" PRIx64 "\n", signals.ignored, signals.caught);
  add(text, "CapInh:\t%016" PRIx64 "\nCapPrm:\t%016" PRIx64 "\nCapEff:\t%016" PRIx64 "\n",
      credentials->inheritable.bits(), credentials->permitted.bits(),
      credentials->effective.bits());
  add(text, "CapBnd:\t%016" PRIx64 "\nCapAmb:\t%016" PRIx64 "\n", credentials->bounding.bits(),
      credentials->ambient.bits());
  add(text, "NoNewPrivs:\t%d\nSeccomp:\t0\nSeccomp_filters:\t0\n",
      task.no_new_privileges.load() ? 1 : 0);
  uint64_t cpus = 0;
  {
    MutexLock lock(task.mu);
    for (int cpu = 0; cpu < 64; ++cpu) {
      if (CPU_ISSET(cpu, &task.affinity)) cpus |= 1ull << cpu;
    }
  }
  add(text, "Cpus_allowed:\t%" PRIx64 "\n", cpus);
  text += "voluntary_ctxt_switches:\t0\nnonvoluntary_ctxt_switches:\t0\n";
  return text;
}

std::string stat_text(Task& task, bool thread) {
  const Ids ids = ids_of(task);
  const Signals signals = signals_of(task);
  RefOrNull<MemoryManager> mm = task.mm_ref();
  MemoryUse use;
  ProgramLayout layout;
  if (mm) {
    use = mm->usage();
    layout = mm->program();
  }
  int nice;
  {
    MutexLock lock(task.mu);
    nice = task.scheduling.nice;
  }
  uint64_t cpu_ns = 0;
  if (thread) {
    cpu_ns = task.cpu_time_ns();
  } else {
    MutexLock lock(task.group.mu);
    cpu_ns = task.group.dead_cpu_ns;
    for (Task* each : task.group.tasks) cpu_ns += each->cpu_time_ns();
  }
  constexpr uint64_t kNsPerTick = 10'000'000;
  std::string text;
  add(text, "%d (%s) %c %d %d %d 0 -1 4194304 0 0 0 0 ", task.tid(), task.name().c_str(),
      task.state_letter(), ids.parent, ids.process_group, ids.session);
  add(text, "%" PRIu64 " 0 0 0 %d %d %zu 0 %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " ",
      cpu_ns / kNsPerTick, 20 + nice, nice, signals.tasks,
      (task.start_time_ns.load() - task.kernel.boot_time_ns()) / kNsPerTick, use.total,
      use.resident / kPageSize, task.group.limits.soft(RLIMIT_RSS));
  add(text, "%" PRIu64 " %" PRIu64 " %" PRIu64 " 0 0 ", layout.code_start, layout.code_end,
      layout.stack_start);
  add(text, "%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " 0 0 0 %d 0 0 0 0 0 0 ",
      signals.pending & 0x7fffffff, signals.blocked & 0x7fffffff, signals.ignored & 0x7fffffff,
      signals.caught & 0x7fffffff, ids.exit_signal);
  add(text, "%" PRIu64 " %" PRIu64 " %" PRIu64 " ", layout.data_start, layout.data_end,
      layout.brk_start);
  add(text, "%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " 0\n", layout.arguments_start,
      layout.arguments_end, layout.environment_start, layout.environment_end);
  return text;
}

std::string statm_text(Task& task) {
  RefOrNull<MemoryManager> mm = task.mm_ref();
  MemoryUse use;
  if (mm) use = mm->usage();
  std::string text;
  add(text, "%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " 0 %" PRIu64 " 0\n",
      use.total / kPageSize, use.resident / kPageSize, use.shared / kPageSize, use.text / kPageSize,
      (use.data + use.stack) / kPageSize);
  return text;
}

std::string limits_text(Task& task) {
  struct Row {
    int resource;
    const char* name;
    const char* unit;
  };
  constexpr Row kRows[] = {
      {RLIMIT_CPU, "Max cpu time", "seconds"},
      {RLIMIT_FSIZE, "Max file size", "bytes"},
      {RLIMIT_DATA, "Max data size", "bytes"},
      {RLIMIT_STACK, "Max stack size", "bytes"},
      {RLIMIT_CORE, "Max core file size", "bytes"},
      {RLIMIT_RSS, "Max resident set", "bytes"},
      {RLIMIT_NPROC, "Max processes", "processes"},
      {RLIMIT_NOFILE, "Max open files", "files"},
      {RLIMIT_MEMLOCK, "Max locked memory", "bytes"},
      {RLIMIT_AS, "Max address space", "bytes"},
      {RLIMIT_LOCKS, "Max file locks", "locks"},
      {RLIMIT_SIGPENDING, "Max pending signals", "signals"},
      {RLIMIT_MSGQUEUE, "Max msgqueue size", "bytes"},
      {RLIMIT_NICE, "Max nice priority", ""},
      {RLIMIT_RTPRIO, "Max realtime priority", ""},
      {RLIMIT_RTTIME, "Max realtime timeout", "us"},
  };
  std::string text;
  add(text, "%-25s %-20s %-20s %-10s\n", "Limit", "Soft Limit", "Hard Limit", "Units");
  auto shown = [](uint64_t value) {
    return value == ~0ull ? std::string("unlimited") : std::to_string(value);
  };
  for (const Row& row : kRows) {
    ResourceLimit limit = task.group.limits.get(row.resource);
    add(text, "%-25s %-20s %-20s %-10s\n", row.name, shown(limit.soft).c_str(),
        shown(limit.hard).c_str(), row.unit);
  }
  return text;
}

}  // namespace caisson
