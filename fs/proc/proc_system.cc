// The files of /proc that are about the machine and the kernel.
#include <cpuid.h>
#include <linux/magic.h>

#include <cinttypes>
#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "fs/pipe/pipe.h"
#include "fs/proc/proc.h"
#include "kernel/kernel.h"
#include "kernel/task.h"
#include "kernel/time/clock.h"
#include "vfs/fd_table.h"

namespace caisson {
namespace {

__attribute__((format(printf, 1, 2))) std::string format(const char* pattern, ...) {
  char buffer[512];
  va_list arguments;
  va_start(arguments, pattern);
  std::vsnprintf(buffer, sizeof buffer, pattern, arguments);
  va_end(arguments);
  return buffer;
}

uint64_t uptime_ns(Kernel& kernel) { return boot_clock_ns() - kernel.boot_time_ns(); }

std::string version(Kernel&) {
  return format("%s version %s (caisson@caisson) %s\n", UtsNames::kSystem, UtsNames::kRelease,
                UtsNames::kVersion);
}

std::string meminfo(Kernel& kernel) {
  MemoryStatus memory = kernel.memory_status();
  std::string text;
  auto line = [&](const char* name, uint64_t bytes) {
    text += format("%-15s %8" PRIu64 " kB\n", name, bytes / 1024);
  };
  line("MemTotal:", memory.total_bytes);
  line("MemFree:", memory.free_bytes);
  line("MemAvailable:", memory.free_bytes);
  for (const char* name : {"Buffers:", "Cached:", "SwapCached:", "Active:", "Inactive:",
                           "SwapTotal:", "SwapFree:", "Dirty:", "Writeback:", "AnonPages:",
                           "Mapped:", "Shmem:", "Slab:", "SReclaimable:", "SUnreclaim:"})
    line(name, 0);
  line("CommitLimit:", memory.total_bytes);
  line("Committed_AS:", memory.total_bytes - memory.free_bytes);
  line("VmallocTotal:", 0);
  text += "HugePages_Total:       0\nHugePages_Free:        0\n";
  line("Hugepagesize:", 2048 * 1024);
  return text;
}

// Names of cpuid bits as Linux writes them: leaf 1 ecx and edx, leaf 7 ebx.
struct Flag {
  uint8_t word, bit;  // word 0: 1.edx, 1: 1.ecx, 2: 7.ebx
  const char* name;
};
constexpr Flag kFlags[] = {
    {0, 0, "fpu"},         {0, 4, "tsc"},       {0, 8, "cx8"},       {0, 15, "cmov"},
    {0, 19, "clflush"},    {0, 23, "mmx"},      {0, 24, "fxsr"},     {0, 25, "sse"},
    {0, 26, "sse2"},       {0, 28, "ht"},       {1, 0, "pni"},       {1, 1, "pclmulqdq"},
    {1, 9, "ssse3"},       {1, 12, "fma"},      {1, 13, "cx16"},     {1, 19, "sse4_1"},
    {1, 20, "sse4_2"},     {1, 22, "movbe"},    {1, 23, "popcnt"},   {1, 25, "aes"},
    {1, 26, "xsave"},      {1, 28, "avx"},      {1, 29, "f16c"},     {1, 30, "rdrand"},
    {1, 31, "hypervisor"}, {2, 0, "fsgsbase"},  {2, 3, "bmi1"},      {2, 5, "avx2"},
    {2, 8, "bmi2"},        {2, 9, "erms"},      {2, 16, "avx512f"},  {2, 17, "avx512dq"},
    {2, 18, "rdseed"},     {2, 19, "adx"},      {2, 28, "avx512cd"}, {2, 29, "sha_ni"},
    {2, 30, "avx512bw"},   {2, 31, "avx512vl"},
};

std::string cpuinfo(Kernel& kernel) {
  unsigned a = 0, b = 0, c = 0, d = 0;
  char vendor[13] = {};
  __get_cpuid(0, &a, &b, &c, &d);
  std::memcpy(vendor, &b, 4);
  std::memcpy(vendor + 4, &d, 4);
  std::memcpy(vendor + 8, &c, 4);
  unsigned words[3] = {};
  unsigned signature = 0;
  __get_cpuid(1, &signature, &b, &words[1], &words[0]);
  __get_cpuid_count(7, 0, &a, &words[2], &c, &d);
  char brand[49] = {};
  for (unsigned leaf = 0; leaf < 3; ++leaf) {
    unsigned part[4] = {};
    __get_cpuid(0x80000002 + leaf, &part[0], &part[1], &part[2], &part[3]);
    std::memcpy(brand + leaf * 16, part, 16);
  }
  unsigned family = (signature >> 8) & 15;
  unsigned model = (signature >> 4) & 15;
  if (family == 6 || family == 15) model |= ((signature >> 16) & 15) << 4;
  if (family == 15) family += (signature >> 20) & 255;
  std::string flags;
  for (const Flag& flag : kFlags) {
    if ((words[flag.word] >> flag.bit & 1) == 0) continue;
    if (!flags.empty()) flags += ' ';
    flags += flag.name;
  }
  std::string text;
  for (int cpu = 0; cpu < kernel.cpu_count(); ++cpu) {
    text += format("processor\t: %d\nvendor_id\t: %s\ncpu family\t: %u\nmodel\t\t: %u\n", cpu,
                   vendor, family, model);
    text += format("model name\t: %s\nstepping\t: %u\nsiblings\t: %d\ncore id\t\t: %d\n", brand,
                   signature & 15, kernel.cpu_count(), cpu);
    text += format("cpu cores\t: %d\nfpu\t\t: yes\nwp\t\t: yes\nflags\t\t: ", kernel.cpu_count());
    text += flags + "\nclflush size\t: 64\ncache_alignment\t: 64\n\n";
  }
  return text;
}

std::string system_stat(Kernel& kernel) {
  std::string text = "cpu  0 0 0 0 0 0 0 0 0 0\n";
  for (int cpu = 0; cpu < kernel.cpu_count(); ++cpu)
    text += format("cpu%d 0 0 0 0 0 0 0 0 0 0\n", cpu);
  uint64_t boot_seconds = (real_clock_ns() - uptime_ns(kernel)) / kNsPerSecond;
  text += format("intr 0\nctxt 0\nbtime %" PRIu64 "\nprocesses %" PRIu64
                 "\nprocs_running 1\nprocs_blocked 0\n",
                 boot_seconds, kernel.forks());
  return text;
}

std::string uptime(Kernel& kernel) {
  uint64_t hundredths = uptime_ns(kernel) / 10'000'000;
  return format("%" PRIu64 ".%02" PRIu64 " 0.00\n", hundredths / 100, hundredths % 100);
}

std::string loadavg(Kernel& kernel) {
  size_t tasks;
  {
    MutexLock tree(task_tree_mu);
    tasks = kernel.tasks().task_count();
  }
  return format("0.00 0.00 0.00 1/%zu %" PRIu64 "\n", tasks, kernel.forks() + 2);
}

// What of it we keep. oom_kill: processes that were ended because memory was used up.
std::string vmstat(Kernel& kernel) {
  return format("nr_free_pages %" PRIu64 "\noom_kill %" PRIu64 "\n",
                kernel.memory_status().free_bytes / kPageSize, kernel.memory_killer().kills());
}

std::string filesystems(Kernel&) {
  return "nodev\ttmpfs\nnodev\tproc\nnodev\tdevtmpfs\nnodev\toverlay\n";
}

template <std::string (*kText)(Kernel&)>
Ref<Inode> text(const ProcPlace& place) {
  Kernel* kernel = &place.kernel();
  return make_ref<ProcText>(place, 0444,
                            [kernel]() -> Result<std::string> { return kText(*kernel); });
}

// /proc/self and its like.
Ref<Inode> self(const ProcPlace& place) {
  return make_ref<ProcLink>(place, [](const Caller& caller) -> Result<LinkTarget> {
    return LinkTarget(std::to_string(caller.process_id));
  });
}
Ref<Inode> thread_self(const ProcPlace& place) {
  return make_ref<ProcLink>(place, [](const Caller& caller) -> Result<LinkTarget> {
    return LinkTarget(std::to_string(caller.process_id) + "/task/" +
                      std::to_string(caller.thread_id));
  });
}
Ref<Inode> mounts_link(const ProcPlace& place) {
  return make_ref<ProcLink>(
      place, [](const Caller&) -> Result<LinkTarget> { return LinkTarget("self/mounts"); });
}

std::string ostype(Kernel&) { return std::string(UtsNames::kSystem) + "\n"; }
std::string osrelease(Kernel&) { return std::string(UtsNames::kRelease) + "\n"; }
std::string osversion(Kernel&) { return std::string(UtsNames::kVersion) + "\n"; }
std::string hostname(Kernel& kernel) { return kernel.uts().host() + "\n"; }
std::string domainname(Kernel& kernel) { return kernel.uts().domain() + "\n"; }
std::string pid_max(Kernel&) { return std::to_string(kMaxProcessId) + "\n"; }
std::string threads_max(Kernel&) { return std::to_string(kMaxProcessId) + "\n"; }
std::string cap_last_cap(Kernel&) { return std::to_string(kLastCapability) + "\n"; }
std::string boot_id(Kernel& kernel) { return kernel.boot_id() + "\n"; }
std::string ngroups_max(Kernel&) { return "65536\n"; }
std::string randomize(Kernel&) { return "2\n"; }
std::string overcommit(Kernel&) { return "0\n"; }
std::string max_map_count(Kernel&) { return "65530\n"; }
std::string mmap_min_addr(Kernel& kernel) {
  return std::to_string(kernel.platform().min_user_address()) + "\n";
}
std::string pipe_max_size(Kernel&) { return std::to_string(kMaxPipeSize) + "\n"; }
std::string nr_open(Kernel&) { return std::to_string(kMaxDescriptors) + "\n"; }
std::string file_max(Kernel&) { return "9223372036854775807\n"; }

std::string shm_segments(Kernel& kernel) { return kernel.shared_memory().text(); }
std::string shmmax(Kernel&) { return std::to_string(kShmMaxBytes) + "\n"; }
std::string shmall(Kernel&) { return std::to_string(kShmMaxPages) + "\n"; }
std::string shmmni(Kernel&) { return std::to_string(kShmMaxSegments) + "\n"; }
std::string shm_rmid_forced(Kernel&) { return "0\n"; }

constexpr ProcChild kSysvIpc[] = {{"shm", S_IFREG, text<shm_segments>}};
constexpr ProcChild kRandom[] = {{"boot_id", S_IFREG, text<boot_id>}};
constexpr ProcChild kSysKernel[] = {
    {"cap_last_cap", S_IFREG, text<cap_last_cap>},
    {"domainname", S_IFREG, text<domainname>},
    {"hostname", S_IFREG, text<hostname>},
    {"ngroups_max", S_IFREG, text<ngroups_max>},
    {"osrelease", S_IFREG, text<osrelease>},
    {"ostype", S_IFREG, text<ostype>},
    {"pid_max", S_IFREG, text<pid_max>},
    {"random", S_IFDIR, [](const ProcPlace& p) { return make_static_directory(p, kRandom); }},
    {"randomize_va_space", S_IFREG, text<randomize>},
    {"shm_rmid_forced", S_IFREG, text<shm_rmid_forced>},
    {"shmall", S_IFREG, text<shmall>},
    {"shmmax", S_IFREG, text<shmmax>},
    {"shmmni", S_IFREG, text<shmmni>},
    {"threads-max", S_IFREG, text<threads_max>},
    {"version", S_IFREG, text<osversion>},
};
constexpr ProcChild kSysVm[] = {
    {"max_map_count", S_IFREG, text<max_map_count>},
    {"mmap_min_addr", S_IFREG, text<mmap_min_addr>},
    {"overcommit_memory", S_IFREG, text<overcommit>},
};
constexpr ProcChild kSysFs[] = {
    {"file-max", S_IFREG, text<file_max>},
    {"nr_open", S_IFREG, text<nr_open>},
    {"pipe-max-size", S_IFREG, text<pipe_max_size>},
};
constexpr ProcChild kSys[] = {
    {"fs", S_IFDIR, [](const ProcPlace& p) { return make_static_directory(p, kSysFs); }},
    {"kernel", S_IFDIR, [](const ProcPlace& p) { return make_static_directory(p, kSysKernel); }},
    {"vm", S_IFDIR, [](const ProcPlace& p) { return make_static_directory(p, kSysVm); }},
};
constexpr ProcChild kSystem[] = {
    {"cpuinfo", S_IFREG, text<cpuinfo>},
    {"filesystems", S_IFREG, text<filesystems>},
    {"loadavg", S_IFREG, text<loadavg>},
    {"meminfo", S_IFREG, text<meminfo>},
    {"mounts", S_IFLNK, mounts_link},
    {"self", S_IFLNK, self},
    {"stat", S_IFREG, text<system_stat>},
    {"sys", S_IFDIR, [](const ProcPlace& p) { return make_static_directory(p, kSys); }},
    {"sysvipc", S_IFDIR, [](const ProcPlace& p) { return make_static_directory(p, kSysvIpc); }},
    {"thread-self", S_IFLNK, thread_self},
    {"uptime", S_IFREG, text<uptime>},
    {"version", S_IFREG, text<version>},
    {"vmstat", S_IFREG, text<vmstat>},
};

}  // namespace

std::span<const ProcChild> system_children() { return kSystem; }

}  // namespace caisson
