// bench_start: what starting a program and waiting for its end costs, from a process with 1 MB,
// 100 MB and 1 GB of resident memory: caisson::sys against posix_spawn, fork+exec and Python's
// subprocess. The ways take turns, so that a busy moment of the machine meets all of them; medians.
//
//   bench_start [--quick] [MEGABYTES...]    exit status 1: slower than posix_spawn somewhere
//   bench_start --exit                      the program that is started
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "caisson/sys.h"

namespace {

namespace sys = caisson::sys;

char self_path[] = "/proc/self/exe";
char exit_option[] = "--exit";
char* const kArgv[] = {self_path, exit_option, nullptr};

void die(const char* what) {
  std::perror(what);
  std::exit(2);
}

void by_start_process() {
  auto process = sys::start_process(self_path, {self_path, exit_option});
  if (!process.ok() || !process->wait().ok()) die("start_process");
}

void by_fork_exec() {
  const auto pid = sys::fork_exec(self_path, {self_path, exit_option});
  if (!pid.ok() || !sys::wait4(*pid).ok()) die("fork_exec");
}

void by_posix_spawn() {
  pid_t pid = 0;
  if (posix_spawn(&pid, self_path, nullptr, nullptr, kArgv, environ) != 0) die("posix_spawn");
  if (waitpid(pid, nullptr, 0) != pid) die("waitpid");
}

void by_fork() {
  const pid_t pid = fork();
  if (pid == 0) {
    execve(self_path, kArgv, environ);
    _exit(127);
  }
  if (pid < 0 || waitpid(pid, nullptr, 0) != pid) die("fork");
}

struct Way {
  const char* name;
  void (*run)();
  std::vector<double> micros = {};
};

double median(std::vector<double>& values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

// A Python process with as much resident memory, which starts the program whenever it is told to.
class Python {
 public:
  Python(const std::string& self, long megabytes) {
    const std::string script =
        "import subprocess,sys,time\n"
        "memory=bytearray(b'x')*(" +
        std::to_string(megabytes) +
        "<<20)\n"
        "for line in sys.stdin:\n"
        "  t=time.perf_counter()\n"
        "  subprocess.Popen(['" +
        self +
        "','--exit']).wait()\n"
        "  print((time.perf_counter()-t)*1e6,flush=True)\n";
    auto in = sys::pipe2(O_CLOEXEC);
    auto out = sys::pipe2(O_CLOEXEC);
    if (!in.ok() || !out.ok()) die("pipe2");
    sys::ProcAttr attr;
    attr.files = {in->read_end.get(), out->write_end.get(), 2};
    auto python = sys::start_process("/usr/bin/env", {"env", "python3", "-c", script}, attr);
    if (!python.ok()) die("python3");
    process_.emplace(std::move(python).value());
    orders_ = std::move(in->write_end);
    times_ = std::move(out->read_end);
  }
  ~Python() {
    orders_.reset();
    if (!process_->wait().ok()) die("python3");
  }

  double one_start() {
    char text[64] = {};
    if (write(orders_.get(), "\n", 1) != 1 || read(times_.get(), text, sizeof(text) - 1) <= 0)
      die("python3");
    return std::atof(text);
  }

 private:
  std::optional<sys::Process> process_;
  caisson::UniqueFd orders_;
  caisson::UniqueFd times_;
};

double time_of(void (*run)()) {
  const auto begin = std::chrono::steady_clock::now();
  run();
  const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - begin;
  return took.count();
}

// The ratio of posix_spawn's time to ours.
double compare(const std::string& self, long megabytes, int rounds) {
  const size_t size = static_cast<size_t>(megabytes) << 20;
  const std::unique_ptr<char, void (*)(void*)> memory(static_cast<char*>(std::malloc(size)),
                                                      [](void* at) { std::free(at); });
  if (memory == nullptr) die("malloc");
  std::memset(memory.get(), 'x', size);

  Python python(self, megabytes);
  Way ways[] = {{"start_process", by_start_process},
                {"fork_exec", by_fork_exec},
                {"posix_spawn", by_posix_spawn},
                {"fork+exec", by_fork},
                {"Python", nullptr}};
  constexpr size_t kWays = std::size(ways);
  constexpr size_t kFork = 3;  // apart: it leaves write-protected pages to whoever comes next
  // A random order each round: what a way finds in the caches is the one before.
  std::mt19937 random(1);
  size_t order[kWays];
  std::iota(order, order + kWays, 0);
  for (int round = -3; round < rounds; ++round) {
    std::shuffle(order, order + kWays, random);
    for (const size_t i : order) {
      if (i == kFork) continue;
      const double micros = ways[i].run != nullptr ? time_of(ways[i].run) : python.one_start();
      if (round >= 0) ways[i].micros.push_back(micros);
    }
  }

  for (int round = 0; round < std::max(rounds / 10, 5); ++round)
    ways[kFork].micros.push_back(time_of(by_fork));

  std::printf("%5ld MB", megabytes);
  for (Way& way : ways) std::printf(" %13.0f", median(way.micros));
  const double ours = median(ways[0].micros);
  std::printf("   ");
  for (size_t i = 1; i < kWays; ++i) std::printf(" %6.2f", median(ways[i].micros) / ours);
  std::printf("\n");
  return median(ways[2].micros) / ours;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], exit_option) == 0) return 0;
  int rounds = 300;
  std::vector<long> sizes;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--quick") == 0) {
      rounds = 20;
    } else if (std::atol(argv[i]) > 0) {
      sizes.push_back(std::atol(argv[i]));
    } else {
      std::fprintf(stderr, "usage: bench_start [--quick] [MEGABYTES...]\n");
      return 2;
    }
  }
  if (sizes.empty()) sizes = {1, 100, 1024};
  char self[4096] = {};
  if (readlink(self_path, self, sizeof(self) - 1) < 0) die("readlink");

  std::printf("microseconds a start, median of %d; then how many times start_process's\n", rounds);
  std::printf("resident start_process     fork_exec   posix_spawn     fork+exec        Python");
  std::printf("    f_exec  spawn   fork Python\n");
  bool slower = false;
  for (const long megabytes : sizes)
    if (compare(self, megabytes, rounds) < 1.0) slower = true;
  return slower ? 1 : 0;
}
