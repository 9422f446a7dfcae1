// A benchmark of bench/micro: a named function that does one thing n times and says how long it
// took.
//
// Ordinary Linux programs: they run natively and inside, and know nothing of the kernel. Setting up
// is done on the first call (static locals), so that only the thing itself is timed. A call that
// fails ends the program: a wrong result is never a figure.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>

namespace bench {

inline uint64_t now_ns() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

// Does the thing `count` times; returns the nanoseconds that took.
using Run = uint64_t (*)(uint64_t count);

struct Benchmark {
  const char* name;
  Run run;
  Benchmark* next;
  static Benchmark* first;

  Benchmark(const char* name, Run run) : name(name), run(run), next(first) { first = this; }
};

[[noreturn]] inline void fail(const char* what, const char* file, int line) {
  std::fprintf(stderr, "%s:%d: failed: %s (%m)\n", file, line, what);
  std::exit(1);
}

template <typename F>
uint64_t timed(uint64_t count, F&& thing) {
  const uint64_t start = now_ns();
  for (uint64_t i = 0; i < count; ++i) thing();
  return now_ns() - start;
}

}  // namespace bench

#define REQUIRE(expression)                           \
  do {                                                \
    if (!(expression)) [[unlikely]]                   \
      ::bench::fail(#expression, __FILE__, __LINE__); \
  } while (false)

// BENCH(name) { body that does it `count` times and returns nanoseconds }
#define BENCH(name)                                                \
  static uint64_t bench_##name(uint64_t count);                    \
  static ::bench::Benchmark benchmark_##name(#name, bench_##name); \
  static uint64_t bench_##name([[maybe_unused]] uint64_t count)
