// /proc as programs read it: self, maps, stat, status, exe, cmdline, environ, fd, task; and a few
// system-wide files.
#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#include <csignal>
#include <sstream>
#include <thread>

#include "tests/util/child.h"
#include "tests/util/clock.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"
#include "tests/util/program.h"
#include "tests/util/signals.h"
#include "tests/util/temp_dir.h"

namespace caisson::test {
namespace {

using ::testing::HasSubstr;

std::string link_of(const std::string& path) {
  char target[PATH_MAX];
  const ssize_t size = must(readlink(path.c_str(), target, sizeof(target)), "readlink");
  return std::string(target, size);
}

// The value of "Key:   value" in /proc/.../status.
std::string status_field(const std::string& key, const std::string& process = "self") {
  std::istringstream lines(read_file("/proc/" + process + "/status"));
  std::string line;
  while (std::getline(lines, line)) {
    if (!line.starts_with(key + ":")) continue;
    const size_t start = line.find_first_not_of(" \t", key.size() + 1);
    return start == std::string::npos ? "" : line.substr(start);
  }
  return "(no " + key + ")";
}

// Fields of /proc/.../stat from the third on, by their number in proc(5).
std::vector<std::string> stat_fields(const std::string& process = "self") {
  const std::string text = read_file("/proc/" + process + "/stat");
  std::vector<std::string> fields = {"", text.substr(0, text.find(' ')),
                                     text.substr(text.find('('), text.rfind(')') + 1)};
  std::istringstream rest(text.substr(text.rfind(')') + 1));
  std::string field;
  while (rest >> field) fields.push_back(field);
  return fields;
}

TEST(ProcSelf, IsThisProcess) {
  EXPECT_EQ(link_of("/proc/self"), std::to_string(getpid()));
  std::thread([] {
    EXPECT_EQ(link_of("/proc/thread-self"),
              std::to_string(getpid()) + "/task/" + std::to_string(gettid_now()));
  }).join();
}

TEST(ProcSelf, ExeAndCwdAndRoot) {
  char path[PATH_MAX];
  ASSERT_NE(realpath(program_path().c_str(), path), nullptr);
  EXPECT_EQ(link_of("/proc/self/exe"), path);
  UniqueFd exe = must_open("/proc/self/exe", O_RDONLY);
  char magic[4];
  EXPECT_THAT(read(exe.get(), magic, 4), SucceedsWith(4));
  EXPECT_EQ(std::string(magic + 1, 3), "ELF");
  ASSERT_NE(getcwd(path, sizeof(path)), nullptr);
  EXPECT_EQ(link_of("/proc/self/cwd"), path);
  EXPECT_EQ(link_of("/proc/self/root"), "/");
}

int print_command_line(int, char**) {
  write_all(1, read_file("/proc/self/cmdline") + "|" + read_file("/proc/self/environ") + "|" +
                   read_file("/proc/self/comm"));
  return 0;
}
RegisterProbe print_command_line_probe("cmdline", print_command_line);

TEST(ProcSelf, CmdlineEnvironComm) {
  Pipe pipe = must_pipe();
  auto command = probe_command("cmdline", {"two words", ""});
  Child child = Child::run([&] {
    dup2(pipe.write_end.get(), 1);
    char one[] = "A=1", two[] = "B=2";
    char* environment[] = {one, two, nullptr};
    execve(program_path().c_str(), exec_vector(command).data(), environment);
    return 90;
  });
  pipe.write_end.reset();
  const std::string name = program_path().substr(program_path().rfind('/') + 1).substr(0, 15);
  std::string expected;
  for (const std::string& word : command) expected += word + '\0';
  expected += std::string("|A=1\0B=2\0|", 10) + name + "\n";
  EXPECT_EQ(read_all(pipe.read_end.get()), expected);
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

TEST(ProcSelf, Status) {
  EXPECT_EQ(status_field("Pid"), std::to_string(getpid()));
  EXPECT_EQ(status_field("Tgid"), std::to_string(getpid()));
  EXPECT_EQ(status_field("PPid"), std::to_string(getppid()));
  EXPECT_EQ(status_field("Threads"), "1");
  EXPECT_THAT(status_field("State"), HasSubstr("R (running)"));
  EXPECT_THAT(status_field("Uid"), HasSubstr(std::to_string(getuid())));
  EXPECT_THAT(status_field("VmRSS"), HasSubstr("kB"));
  MaskGuard blocked(SIG_BLOCK, {SIGUSR1});
  EXPECT_EQ(status_field("SigBlk"), "0000000000000200");
  HandlerGuard ignored(SIGUSR2, SIG_IGN);
  EXPECT_EQ(std::stoull(status_field("SigIgn"), nullptr, 16) & 0x800, 0x800u);
}

TEST(ProcSelf, Stat) {
  const auto fields = stat_fields();
  ASSERT_GE(fields.size(), 52u);
  EXPECT_EQ(fields[1], std::to_string(getpid()));
  EXPECT_EQ(fields[3], "R");
  EXPECT_EQ(fields[4], std::to_string(getppid()));
  EXPECT_EQ(fields[5], std::to_string(getpgrp()));
  EXPECT_EQ(fields[6], std::to_string(getsid(0)));
  EXPECT_EQ(fields[20], "1");
  EXPECT_GT(std::stoull(fields[23]), 100'000u);
}

TEST(ProcStates, SleepStopZombie) {
  Child child = Child::run([]() -> int {
    while (true) pause();
  });
  const std::string pid = std::to_string(child.pid());
  EXPECT_TRUE(eventually([&] { return stat_fields(pid)[3] == "S"; }));
  child.kill(SIGSTOP);
  EXPECT_TRUE(eventually([&] { return stat_fields(pid)[3] == "T"; }));
  child.kill(SIGKILL);
  EXPECT_TRUE(eventually([&] { return stat_fields(pid)[3] == "Z"; }));
  EXPECT_THAT(status_field("State", pid), HasSubstr("Z (zombie)"));
  EXPECT_EQ(read_file("/proc/" + pid + "/cmdline"), "");
  EXPECT_THAT(child.wait(), KilledBy(SIGKILL));
  EXPECT_THAT(access(("/proc/" + pid).c_str(), F_OK), FailsWith(ENOENT));
}

struct MapsLine {
  uintptr_t start = 0, end = 0;
  std::string permissions, name;
};
std::vector<MapsLine> maps() {
  std::vector<MapsLine> result;
  std::istringstream lines(read_file("/proc/self/maps"));
  std::string line;
  while (std::getline(lines, line)) {
    MapsLine entry;
    char permissions[5] = {};
    int name_at = 0;
    unsigned long offset, inode;
    unsigned major, minor;
    EXPECT_EQ(std::sscanf(line.c_str(), "%lx-%lx %4s %lx %x:%x %lu %n", &entry.start, &entry.end,
                          permissions, &offset, &major, &minor, &inode, &name_at),
              7)
        << line;
    entry.permissions = permissions;
    entry.name = line.substr(std::min<size_t>(name_at, line.size()));
    result.push_back(entry);
  }
  return result;
}
MapsLine mapping_at(const void* address) {
  for (const MapsLine& line : maps()) {
    const auto number = reinterpret_cast<uintptr_t>(address);
    if (line.start <= number && number < line.end) return line;
  }
  return {};
}

TEST(ProcMaps, SortedAndComplete) {
  uintptr_t last = 0;
  for (const MapsLine& line : maps()) {
    EXPECT_GE(line.start, last);
    EXPECT_LT(line.start, line.end);
    last = line.end;
  }
  int on_stack;
  EXPECT_EQ(mapping_at(&on_stack).name, "[stack]");
  EXPECT_EQ(mapping_at(reinterpret_cast<void*>(&link_of)).permissions, "r-xp");
  EXPECT_EQ(mapping_at(reinterpret_cast<void*>(&link_of)).name, link_of("/proc/self/exe"));
  char* heap = static_cast<char*>(sbrk(4096));
  EXPECT_EQ(mapping_at(heap).name, "[heap]");
}

TEST(ProcMaps, FollowsMappings) {
  Mapping memory = Mapping::anonymous(3 * kPageSize, PROT_READ);
  EXPECT_THAT(mapping_at(memory.address()).permissions, "r--p");
  must(mprotect(memory.page(1), kPageSize, PROT_READ | PROT_WRITE), "mprotect");
  EXPECT_EQ(mapping_at(memory.page(1)).permissions, "rw-p");
  must(munmap(memory.page(1), kPageSize), "munmap");
  EXPECT_EQ(mapping_at(memory.page(1)).end, 0u);
  TempDir dir;
  write_file(dir.file("mapped"), std::string(kPageSize, 'm'));
  UniqueFd fd = must_open(dir.file("mapped"), O_RDWR);
  Mapping shared = Mapping::map(kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  EXPECT_EQ(mapping_at(shared.address()).permissions, "rw-s");
  EXPECT_EQ(mapping_at(shared.address()).name, dir.file("mapped"));
}

TEST(ProcFd, ListsAndLinks) {
  TempDir dir;
  UniqueFd file = must_open(dir.file("open"), O_RDWR | O_CREAT);
  Pipe pipe = must_pipe();
  const std::string base = "/proc/self/fd/";
  EXPECT_EQ(link_of(base + std::to_string(file.get())), dir.file("open"));
  EXPECT_THAT(link_of(base + std::to_string(pipe.read_end.get())), HasSubstr("pipe:["));
  bool listed = false;
  DIR* directory = opendir("/proc/self/fd");
  ASSERT_NE(directory, nullptr);
  while (const dirent* entry = readdir(directory)) {
    listed |= entry->d_name == std::to_string(file.get());
  }
  closedir(directory);
  EXPECT_TRUE(listed);
  // Opening the link opens the file anew.
  write_all(file.get(), "through");
  EXPECT_EQ(read_file(base + std::to_string(file.get())), "through");
  write_all(pipe.write_end.get(), "p");
  UniqueFd again = must_open(base + std::to_string(pipe.read_end.get()), O_RDONLY);
  char byte;
  EXPECT_THAT(read(again.get(), &byte, 1), SucceedsWith(1));
  EXPECT_THAT(read_file("/proc/self/fdinfo/" + std::to_string(file.get())), HasSubstr("pos:\t7"));
}

TEST(ProcFd, DeletedFilesSayso) {
  TempDir dir;
  UniqueFd file = must_open(dir.file("gone"), O_RDWR | O_CREAT);
  must(unlink(dir.file("gone").c_str()), "unlink");
  EXPECT_EQ(link_of("/proc/self/fd/" + std::to_string(file.get())),
            dir.file("gone") + " (deleted)");
}

TEST(ProcTask, ListsThreads) {
  std::atomic<bool> stop = false;
  std::atomic<pid_t> tid = 0;
  std::thread thread([&] {
    prctl(PR_SET_NAME, "named-thread");
    tid = gettid_now();
    while (!stop) sleep_us(500);
  });
  ASSERT_TRUE(eventually([&] { return tid != 0; }));
  const std::string task = "/proc/self/task/" + std::to_string(tid);
  EXPECT_THAT(access(task.c_str(), F_OK), SucceedsWith(0));
  EXPECT_EQ(read_file(task + "/comm"), "named-thread\n");
  EXPECT_EQ(status_field("Threads"), "2");
  stop = true;
  thread.join();
  EXPECT_TRUE(eventually([&] { return access(task.c_str(), F_OK) == -1; }));
}

TEST(ProcSystem, CommonFiles) {
  EXPECT_THAT(read_file("/proc/version"), HasSubstr("Linux version"));
  EXPECT_THAT(read_file("/proc/meminfo"), HasSubstr("MemTotal:"));
  EXPECT_THAT(read_file("/proc/cpuinfo"), HasSubstr("processor\t: 0"));
  EXPECT_THAT(read_file("/proc/stat"), HasSubstr("cpu "));
  usleep(20000);  // a machine that has just started says 0.00
  EXPECT_THAT(read_file("/proc/mounts"), HasSubstr(" /proc proc "));
  double up = 0, idle = 0;
  EXPECT_EQ(std::sscanf(read_file("/proc/uptime").c_str(), "%lf %lf", &up, &idle), 2);
  EXPECT_GT(up, 0);
  double load = -1;
  EXPECT_EQ(std::sscanf(read_file("/proc/loadavg").c_str(), "%lf", &load), 1);
  EXPECT_GT(std::stol(read_file("/proc/sys/kernel/pid_max")), 300);
  EXPECT_EQ(read_file("/proc/sys/kernel/ostype"), "Linux\n");
  EXPECT_THAT(read_file("/proc/filesystems"), HasSubstr("proc"));
}

TEST(ProcSystem, ReadOnlyAndMissing) {
  // Root may open it; nobody may write it.
  UniqueFd version(open("/proc/version", O_WRONLY));
  EXPECT_THAT(write(version.get(), "x", 1), Fails());
  EXPECT_THAT(open("/proc/4000000", O_RDONLY), FailsWith(ENOENT));
  EXPECT_THAT(open("/proc/self/none", O_RDONLY), FailsWith(ENOENT));
  EXPECT_THAT(mkdir("/proc/newdir", 0755), Fails());
  EXPECT_THAT(unlink("/proc/version"), Fails());
}

TEST(ProcSystem, SmallReadsGiveTheWholeText) {
  UniqueFd fd = must_open("/proc/self/status", O_RDONLY);
  std::string text;
  char byte;
  while (read(fd.get(), &byte, 1) == 1) text += byte;
  EXPECT_THAT(text, HasSubstr("Name:\t"));
  EXPECT_EQ(text.back(), '\n');
  char start[5] = {};
  EXPECT_THAT(pread(fd.get(), start, 4, 0), SucceedsWith(4));
  EXPECT_STREQ(start, "Name");
}

}  // namespace
}  // namespace caisson::test
