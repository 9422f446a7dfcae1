// Files: reading with the data looked at afterwards, and names.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <vector>

#include "bench/micro/bench.h"

namespace {

using bench::timed;

constexpr size_t kFileSize = 1 << 20;
constexpr char kName[] = "/etc/passwd";
constexpr char kMissing[] = "/etc/caisson-no-such-name";

// A file of 1 MiB that this program wrote, already without a name.
int written_file() {
  static const int fd = [] {
    std::string name = "/tmp/caisson-bench-XXXXXX";
    const int made = mkstemp(name.data());
    REQUIRE(made >= 0);
    REQUIRE(unlink(name.c_str()) == 0);
    const std::vector<char> data(kFileSize, 'x');
    REQUIRE(write(made, data.data(), data.size()) == static_cast<ssize_t>(data.size()));
    return made;
  }();
  return fd;
}

// This program: a file of the host below the sandbox's writable layer.
int program_file() {
  static const int fd = [] {
    const int opened = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    REQUIRE(opened >= 0);
    return opened;
  }();
  return fd;
}

uint64_t look_at(const char* data, size_t size) {
  uint64_t sum = 0;
  for (size_t i = 0; i + sizeof sum <= size; i += sizeof sum) {
    uint64_t word;
    std::memcpy(&word, data + i, sizeof word);
    sum += word;
  }
  return sum + static_cast<unsigned char>(data[0]);
}

uint64_t read_at_start(uint64_t count, int fd, size_t size) {
  static std::vector<char> buffer(kFileSize, 1);
  return timed(count, [&] {
    REQUIRE(pread(fd, buffer.data(), size, 0) == static_cast<ssize_t>(size));
    const uint64_t sum = look_at(buffer.data(), size);
    __asm__ volatile("" : : "r"(sum));  // the sum is wanted
  });
}

BENCH(pread_1) { return read_at_start(count, written_file(), 1); }
BENCH(pread_4k) { return read_at_start(count, written_file(), 4 << 10); }
BENCH(pread_64k) { return read_at_start(count, written_file(), 64 << 10); }
BENCH(pread_1m) { return read_at_start(count, written_file(), 1 << 20); }
BENCH(pread_program_4k) { return read_at_start(count, program_file(), 4 << 10); }

BENCH(lseek) {
  const int fd = written_file();
  return timed(count, [&] { REQUIRE(lseek(fd, 0, SEEK_SET) == 0); });
}

BENCH(fstat) {
  const int fd = written_file();
  struct stat found;
  return timed(count, [&] { REQUIRE(fstat(fd, &found) == 0); });
}

BENCH(stat) {
  struct stat found;
  return timed(count, [&] { REQUIRE(stat(kName, &found) == 0); });
}

BENCH(stat_missing) {
  struct stat found;
  return timed(count, [&] { REQUIRE(stat(kMissing, &found) < 0); });
}

BENCH(open_close) {
  return timed(count, [] {
    const int fd = open(kName, O_RDONLY);
    REQUIRE(fd >= 0);
    close(fd);
  });
}

}  // namespace
