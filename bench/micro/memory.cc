// Mappings, first touches, and faults that a program handles itself.
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench/micro/bench.h"

namespace {

using bench::now_ns;
using bench::timed;

constexpr size_t kPage = 4096;

char* map(size_t size, int prot) {
  void* at = mmap(nullptr, size, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  REQUIRE(at != MAP_FAILED);
  return static_cast<char*>(at);
}

void touch(char* at, size_t size) {
  for (size_t i = 0; i < size; i += kPage) *static_cast<volatile char*>(at + i) = 1;
}

BENCH(mmap_touch_munmap_64k) {
  constexpr size_t kSize = 64 << 10;
  return timed(count, [] {
    char* at = map(kSize, PROT_READ | PROT_WRITE);
    touch(at, kSize);
    REQUIRE(munmap(at, kSize) == 0);
  });
}

// The touches alone of `count` pages, in mappings of `size` bytes; one operation is one page.
uint64_t touch_fresh(uint64_t count, size_t size) {
  uint64_t took = 0;
  for (uint64_t left = count; left > 0;) {
    const uint64_t pages = left < size / kPage ? left : size / kPage;
    char* at = map(size, PROT_READ | PROT_WRITE);
    const uint64_t start = now_ns();
    touch(at, pages * kPage);
    took += now_ns() - start;
    REQUIRE(munmap(at, size) == 0);
    left -= pages;
  }
  return took;
}

BENCH(first_touch_page) { return touch_fresh(count, 4 << 20); }
BENCH(fault_256m_page) { return touch_fresh(count, 256 << 20); }

// read(2) of `count` pages, as much at once as there is fresh memory for.
uint64_t read_fresh(uint64_t count, size_t size) {
  static const int file = [] {
    const int made = memfd_create("source", 0);
    constexpr size_t kMost = 64 << 20;
    REQUIRE(made >= 0 && ftruncate(made, kMost) == 0);
    char* at =
        static_cast<char*>(mmap(nullptr, kMost, PROT_READ | PROT_WRITE, MAP_SHARED, made, 0));
    REQUIRE(at != MAP_FAILED);
    touch(at, kMost);
    REQUIRE(munmap(at, kMost) == 0);
    return made;
  }();
  uint64_t took = 0;
  for (uint64_t left = count; left != 0;) {
    const uint64_t pages = left < size / kPage ? left : size / kPage;
    char* at = map(size, PROT_READ | PROT_WRITE);
    const uint64_t start = now_ns();
    REQUIRE(pread(file, at, pages * kPage, 0) == static_cast<ssize_t>(pages * kPage));
    took += now_ns() - start;
    REQUIRE(munmap(at, size) == 0);
    left -= pages;
  }
  return took;
}

BENCH(read_fresh_3m_page) { return read_fresh(count, 3 << 20); }
BENCH(read_fresh_64m_page) { return read_fresh(count, 64 << 20); }

BENCH(mprotect_pair) {
  static char* const at = [] {
    char* made = map(kPage, PROT_READ | PROT_WRITE);
    touch(made, kPage);
    return made;
  }();
  return timed(count, [] {
    REQUIRE(mprotect(at, kPage, PROT_READ) == 0);
    REQUIRE(mprotect(at, kPage, PROT_READ | PROT_WRITE) == 0);
  });
}

// What garbage collectors and databases do: protect a page, write it, allow the write in the
// handler.
BENCH(segv_mprotect) {
  static char* const at = [] {
    char* made = map(kPage, PROT_READ | PROT_WRITE);
    touch(made, kPage);
    return made;
  }();
  struct sigaction action = {};
  action.sa_flags = SA_SIGINFO;
  action.sa_sigaction = [](int, siginfo_t* info, void*) {
    if (info->si_addr != at || mprotect(at, kPage, PROT_READ | PROT_WRITE) != 0) _exit(1);
  };
  REQUIRE(sigaction(SIGSEGV, &action, nullptr) == 0);
  const uint64_t took = timed(count, [] {
    REQUIRE(mprotect(at, kPage, PROT_READ) == 0);
    *static_cast<volatile char*>(at) = 1;
  });
  signal(SIGSEGV, SIG_DFL);
  return took;
}

}  // namespace
