// caisson_bench NAME: runs one benchmark and prints nanoseconds per operation: the median of
// several batches, each long enough for the clock.
//
// caisson_bench --list; --run COUNT -- CMD...: wall time of whole runs of CMD; --exit: does
// nothing.
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "bench/micro/bench.h"

extern char** environ;

namespace bench {

Benchmark* Benchmark::first = nullptr;

namespace {

constexpr uint64_t kBatchNs = 20'000'000;
constexpr int kBatches = 7;

void print_median(std::vector<double> figures) {
  std::sort(figures.begin(), figures.end());
  std::printf("%.1f\n", figures[figures.size() / 2]);
}

void run_one(const Benchmark& benchmark) {
  uint64_t count = 1;
  uint64_t took = benchmark.run(1);  // sets up; its time does not count
  while ((took = benchmark.run(count)) < kBatchNs && count < (1u << 28)) {
    const uint64_t wanted = took == 0 ? count * 10 : count * kBatchNs / took + 1;
    count = std::clamp(wanted, count + 1, count * 10);
  }
  std::vector<double> figures;
  for (int batch = 0; batch < kBatches; ++batch) {
    figures.push_back(static_cast<double>(benchmark.run(count)) / static_cast<double>(count));
  }
  print_median(std::move(figures));
}

void run_program(int times, char** command) {
  std::vector<double> figures;
  for (int i = 0; i < times; ++i) {
    const uint64_t start = now_ns();
    pid_t pid;
    REQUIRE(posix_spawnp(&pid, command[0], nullptr, nullptr, command, environ) == 0);
    int status;
    REQUIRE(waitpid(pid, &status, 0) == pid);
    figures.push_back(static_cast<double>(now_ns() - start));
    REQUIRE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }
  print_median(std::move(figures));
}

int usage() {
  std::fprintf(stderr, "usage: caisson_bench NAME | --list | --run COUNT -- CMD... | --exit\n");
  return 2;
}

int main_of(int argc, char** argv) {
  if (argc < 2) return usage();
  if (std::strcmp(argv[1], "--exit") == 0) return 0;
  if (std::strcmp(argv[1], "--list") == 0) {
    for (Benchmark* one = Benchmark::first; one != nullptr; one = one->next) std::puts(one->name);
    return 0;
  }
  if (std::strcmp(argv[1], "--run") == 0) {
    if (argc < 5 || std::strcmp(argv[3], "--") != 0 || std::atoi(argv[2]) < 1) return usage();
    run_program(std::atoi(argv[2]), argv + 4);
    return 0;
  }
  for (Benchmark* one = Benchmark::first; one != nullptr; one = one->next) {
    if (std::strcmp(one->name, argv[1]) != 0) continue;
    run_one(*one);
    return 0;
  }
  std::fprintf(stderr, "caisson_bench: no benchmark called %s\n", argv[1]);
  return 2;
}

}  // namespace
}  // namespace bench

int main(int argc, char** argv) { return bench::main_of(argc, argv); }
