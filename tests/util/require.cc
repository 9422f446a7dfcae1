#include "tests/util/require.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>

namespace caisson::test {
namespace {

// A line builder that allocates nothing and takes no lock.
class Line {
 public:
  void add(const char* text) {
    while (*text != 0 && size_ < sizeof(bytes_)) bytes_[size_++] = *text++;
  }
  void add(int number) {
    char digits[12];
    size_t count = 0;
    if (number < 0) {
      add("-");
      number = -number;
    }
    do {
      digits[count++] = static_cast<char>('0' + number % 10);
      number /= 10;
    } while (number != 0);
    while (count > 0 && size_ < sizeof(bytes_)) bytes_[size_++] = digits[--count];
  }
  void print() { [[maybe_unused]] ssize_t written = write(2, bytes_, size_); }

 private:
  char bytes_[400];
  size_t size_ = 0;
};

}  // namespace

void require_failed(const char* file, int line, const char* what, int error) {
  Line text;
  text.add(file);
  text.add(":");
  text.add(line);
  text.add(": REQUIRE(");
  text.add(what);
  text.add(") is false, errno ");
  const char* name = error == 0 ? "0" : strerrorname_np(error);
  text.add(name != nullptr ? name : "unknown");
  text.add("\n");
  text.print();
  syscall(SYS_exit_group, kRequireFailed);
  __builtin_unreachable();
}

}  // namespace caisson::test
