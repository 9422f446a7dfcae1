// caisson_bench_steady COUNT: forks and reaps COUNT children, and prints a line at every tenth:
// "children nanoseconds-each". bench/run.py looks at the memory of the kernel at each line.
//
// caisson_bench_steady --hold: prints "ready" and sleeps until it is killed.
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "bench/micro/bench.h"

namespace bench {
Benchmark* Benchmark::first = nullptr;
}  // namespace bench

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--hold") == 0) {
    std::puts("ready");
    std::fflush(stdout);
    for (;;) pause();
  }
  const long count = argc == 2 ? std::atol(argv[1]) : 0;
  if (count < 10) {
    std::fprintf(stderr, "usage: caisson_bench_steady COUNT | --hold\n");
    return 2;
  }
  const long tenth = count / 10;
  for (long part = 1; part <= 10; ++part) {
    const uint64_t start = bench::now_ns();
    for (long i = 0; i < tenth; ++i) {
      const pid_t pid = fork();
      if (pid == 0) _exit(0);
      int status;
      REQUIRE(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
    }
    std::printf("%ld %.1f\n", part * tenth,
                static_cast<double>(bench::now_ns() - start) / static_cast<double>(tenth));
    std::fflush(stdout);
  }
  return 0;
}
