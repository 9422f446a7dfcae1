// Memory under attack by its own process: threads that map, unmap, protect and touch the same pages
// while others do I/O into them; mapped files that shrink in use; tens of thousands of mappings;
// reservations of a terabyte. A neighbour process watches that its memory stays its own.
#include <fcntl.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstring>
#include <thread>

#include "tests/util/child.h"
#include "tests/util/clock.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"
#include "tests/util/temp_dir.h"

namespace caisson::test {
namespace {

constexpr size_t kMiB = 1024 * 1024;
constexpr size_t kGiB = 1024 * kMiB;
constexpr int kRoundsMs = 700;

thread_local sigjmp_buf* t_escape = nullptr;

void escape(int) {
  if (t_escape == nullptr) _exit(98);
  siglongjmp(*t_escape, 1);
}

// True if the body came through, false if it met SIGSEGV or SIGBUS.
template <typename F>
bool survives(F body) {
  sigjmp_buf here;
  t_escape = &here;
  bool ok = false;
  if (sigsetjmp(here, 1) == 0) {
    body();
    ok = true;
  }
  t_escape = nullptr;
  return ok;
}

void catch_faults() {
  struct sigaction action {};
  action.sa_handler = escape;
  must(sigaction(SIGSEGV, &action, nullptr), "sigaction");
  must(sigaction(SIGBUS, &action, nullptr), "sigaction");
}

// Holds a pattern of its own in memory all the time; ends with 0 if nobody ever changed it.
class Neighbour {
 public:
  Neighbour() : stop_(must_pipe()), child_(Child::run([this] { return watch(); })) {
    stop_.read_end.reset();
  }
  int finish() {
    stop_.write_end.reset();
    return child_.wait();
  }

 private:
  int watch() {
    stop_.write_end.reset();
    must(fcntl(stop_.read_end.get(), F_SETFL, O_NONBLOCK), "fcntl");
    constexpr size_t kWords = 2 * kMiB / sizeof(uint64_t);
    char byte;
    for (uint64_t round = 1;; ++round) {
      // Fresh memory each time: nothing of others may be in it.
      Mapping mapping = Mapping::anonymous(kWords * sizeof(uint64_t));
      auto* words = mapping.as<volatile uint64_t>();
      for (size_t i = 0; i < kWords; i += 64) {
        if (words[i] != 0) return 1;
        words[i] = round * 0x9e3779b97f4a7c15 + i;
      }
      for (size_t i = 0; i < kWords; i += 64)
        if (words[i] != round * 0x9e3779b97f4a7c15 + i) return 2;
      if (read(stop_.read_end.get(), &byte, 1) == 0) return 0;
    }
  }
  Pipe stop_;
  Child child_;
};

class Rounds {
 public:
  bool go_on() const { return now_ms() < end_; }

 private:
  static uint64_t now_ms() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<uint64_t>(now.tv_sec) * 1000 +
           static_cast<uint64_t>(now.tv_nsec) / 1'000'000;
  }
  const uint64_t end_ = now_ms() + kRoundsMs;
};

uint32_t next_random(uint32_t& state) { return state = state * 1664525 + 1013904223; }

TEST(MemoryRace, MapUnmapProtectTouchAndTransfer) {
  Neighbour neighbour;
  Child child = Child::run([] {
    catch_faults();
    constexpr size_t kPages = 64;
    Mapping arena = Mapping::anonymous(kPages * kPageSize);
    Rounds rounds;
    std::atomic<uint64_t> transferred{0}, touched{0};
    auto range = [&](uint32_t& random, size_t* bytes) {
      const size_t first = next_random(random) / 65536 % kPages;
      *bytes = (1 + next_random(random) / 65536 % (kPages - first)) * kPageSize;
      return arena.page(first);
    };
    std::vector<std::thread> threads;
    for (uint32_t n = 0; n < 2; ++n) {
      threads.emplace_back([&, n] {
        uint32_t random = 17 + n;
        while (rounds.go_on()) {
          size_t bytes;
          char* at = range(random, &bytes);
          switch (next_random(random) / 65536 % 6) {
            case 0:
              mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
                   0);
              break;
            case 1:
              munmap(at, bytes);
              break;
            case 2:
              mprotect(at, bytes, static_cast<int>(next_random(random) / 65536 % 4));
              break;
            case 3:
              madvise(at, bytes, MADV_DONTNEED);
              break;
            case 4:
              mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1,
                   0);
              break;
            default:
              if (survives([&] { memset(at, 'w', bytes); })) touched.fetch_add(1);
          }
        }
      });
    }
    for (uint32_t n = 0; n < 2; ++n) {
      threads.emplace_back([&, n] {
        uint32_t random = 99 + n;
        Pipe pipe = must_pipe(O_NONBLOCK);
        UniqueFd zero = must_open("/dev/zero", O_RDONLY);
        UniqueFd file(memfd_create("transfer", 0));
        while (rounds.go_on()) {
          size_t bytes;
          char* at = range(random, &bytes);
          ssize_t done = 0;
          switch (next_random(random) / 65536 % 5) {
            case 0:
              done = read(zero.get(), at, bytes);
              break;
            case 1:
              done = write(pipe.write_end.get(), at, bytes);
              break;
            case 2:
              done = read(pipe.read_end.get(), at, bytes);
              break;
            case 3:
              done = pwrite(file.get(), at, bytes, 0);
              break;
            default:
              done = pread(file.get(), at, bytes, 0);
          }
          if (done > 0) transferred.fetch_add(1);
          if (done < 0) REQUIRE(errno == EFAULT || errno == EAGAIN);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    REQUIRE(transferred.load() > 20);
    REQUIRE(touched.load() > 5);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
  EXPECT_THAT(neighbour.finish(), ExitedWith(0));
}

TEST(MemoryRace, ForkWhileThreadsChangeTheMappings) {
  Child child = Child::run([] {
    catch_faults();
    Rounds rounds;
    std::thread changes([&] {
      while (rounds.go_on()) {
        Mapping mapping = Mapping::anonymous(16 * kPageSize);
        mapping.page(3)[0] = 'c';
        mprotect(mapping.page(2), kPageSize, PROT_NONE);
      }
    });
    Mapping stable = Mapping::anonymous(32 * kPageSize);
    for (size_t i = 0; i < 32; ++i) stable.page(i)[0] = static_cast<char>(i);
    int forks = 0;
    while (rounds.go_on()) {
      const pid_t pid = fork();
      REQUIRE(pid >= 0);
      if (pid == 0) {
        for (size_t i = 0; i < 32; ++i)
          if (stable.page(i)[0] != static_cast<char>(i)) _exit(1);
        _exit(0);
      }
      int status;
      REQUIRE(waitpid(pid, &status, 0) == pid && status == 0);
      ++forks;
    }
    changes.join();
    REQUIRE(forks > 3);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

TEST(MemoryRace, FilesShrinkUnderTransfers) {
  Neighbour neighbour;
  TempDir dir;
  Child child = Child::run([&] {
    catch_faults();
    constexpr size_t kPages = 32;
    UniqueFd fd = must_open(dir.file("file"), O_RDWR | O_CREAT);
    must(ftruncate(fd.get(), kPages * kPageSize), "ftruncate");
    Mapping shared =
        Mapping::map(kPages * kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    Mapping own =
        Mapping::map(kPages * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd.get(), 0);
    Rounds rounds;
    std::atomic<uint64_t> faults{0}, good{0};
    std::vector<std::thread> threads;
    threads.emplace_back([&] {
      uint32_t random = 5;
      while (rounds.go_on()) {
        must(ftruncate(fd.get(),
                       static_cast<off_t>(next_random(random) / 65536 % (kPages * kPageSize))),
             "ftruncate");
        must(ftruncate(fd.get(), kPages * kPageSize), "ftruncate");
      }
    });
    for (Mapping* mapping : {&shared, &own}) {
      threads.emplace_back([&, mapping] {
        while (rounds.go_on()) {
          const bool ok = survives([&] {
            for (size_t i = 0; i < kPages; ++i) {
              auto* page = reinterpret_cast<volatile char*>(mapping->page(i));
              page[7] = static_cast<char>(page[9] + 1);
            }
          });
          (ok ? good : faults).fetch_add(1);
        }
      });
    }
    threads.emplace_back([&] {
      Pipe pipe = must_pipe(O_NONBLOCK);
      while (rounds.go_on()) {
        for (Mapping* mapping : {&shared, &own}) {
          if (write(pipe.write_end.get(), mapping->page(9), 8 * kPageSize) < 0)
            REQUIRE(errno == EFAULT || errno == EAGAIN);
          if (read(pipe.read_end.get(), mapping->page(20), 8 * kPageSize) < 0)
            REQUIRE(errno == EFAULT || errno == EAGAIN);
        }
      }
    });
    for (std::thread& thread : threads) thread.join();
    REQUIRE(good.load() + faults.load() > 20);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
  EXPECT_THAT(neighbour.finish(), ExitedWith(0));
}

TEST(ManyMappings, SixtyFiveThousandLiveForkAndGo) {
  Child child = Child::run([] {
    constexpr size_t kCount = 32'500;  // and as many holes of another protection between them
    char* at = static_cast<char*>(mmap(nullptr, 2 * kCount * kPageSize, PROT_NONE,
                                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    REQUIRE(at != MAP_FAILED);
    for (size_t i = 0; i < kCount; ++i)
      REQUIRE(mprotect(at + 2 * i * kPageSize, kPageSize, PROT_READ | PROT_WRITE) == 0);
    for (size_t i = 0; i < kCount; i += 50) at[2 * i * kPageSize] = static_cast<char>(i);
    Child copy = Child::run([&] {
      for (size_t i = 0; i < kCount; i += 50)
        if (at[2 * i * kPageSize] != static_cast<char>(i)) return 1;
      return 0;
    });
    REQUIRE(copy.wait() == 0);
    REQUIRE(munmap(at, 2 * kCount * kPageSize) == 0);
    // One by one into the hole that this has left: to find it takes no longer and longer.
    for (size_t i = 0; i < 2 * kCount; ++i) {
      const int protection = i % 2 == 0 ? PROT_READ : PROT_READ | PROT_WRITE;
      REQUIRE(mmap(nullptr, kPageSize, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) !=
              MAP_FAILED);
    }
    return 0;
  });
  EXPECT_THAT(child.wait(30'000), ExitedWith(0));
}

// As Go reserves its arenas, and Java its heap: a terabyte without access, opened in pieces.
TEST(Reservation, ATerabyteOpenedInPieces) {
  char* at = static_cast<char*>(
      mmap(nullptr, 1024 * kGiB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  ASSERT_NE(at, MAP_FAILED);
  for (size_t i = 0; i < 1024; i += 64) {
    char* piece = at + i * kGiB;
    ASSERT_THAT(mprotect(piece, 64 * kMiB, PROT_READ | PROT_WRITE), SucceedsWith(0));
    piece[0] = 'p';
    piece[64 * kMiB - 1] = 'q';
    // Go maps anew over its reservation.
    ASSERT_EQ(mmap(piece + kGiB / 2, 4 * kMiB, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
              piece + kGiB / 2);
    piece[kGiB / 2] = 'r';
  }
  Child child = Child::run([&] {
    for (size_t i = 0; i < 1024; i += 64)
      if (at[i * kGiB] != 'p' || at[i * kGiB + kGiB / 2] != 'r') return 1;
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
  EXPECT_THAT(madvise(at, 64 * kMiB, MADV_DONTNEED), SucceedsWith(0));
  EXPECT_EQ(at[0], 0);
  EXPECT_THAT(munmap(at + 512 * kGiB, 100 * kGiB), SucceedsWith(0));
  EXPECT_EQ(at[448 * kGiB], 'p');
  EXPECT_EQ(at[640 * kGiB], 'p');
  EXPECT_THAT(munmap(at, 1024 * kGiB), SucceedsWith(0));
}

// As ASan maps its shadow: readable and writable at once, sparse, never all used.
TEST(Reservation, ASparseShadow) {
  const size_t bytes = 16 * 1024 * kGiB;
  char* at = static_cast<char*>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  ASSERT_NE(at, MAP_FAILED);
  madvise(at, bytes, MADV_DONTDUMP);
  for (size_t i = 0; i < 64; ++i) {
    char* page = at + i * (bytes / 64) + i * kPageSize;
    EXPECT_EQ(*page, 0);
    *page = static_cast<char>(i);
  }
  Child child = Child::run([&] {
    for (size_t i = 0; i < 64; ++i)
      if (at[i * (bytes / 64) + i * kPageSize] != static_cast<char>(i)) return 1;
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
  EXPECT_THAT(munmap(at, bytes), SucceedsWith(0));
}

}  // namespace
}  // namespace caisson::test
