#include "tests/util/must.h"

#include <stdexcept>

#include "tests/util/result_matchers.h"

namespace caisson::test {

long must(long result, const char* call) {
  if (result == -1) throw std::runtime_error(std::string(call) + ": " + errno_name(errno));
  return result;
}

UniqueFd must_open(const std::string& path, int flags, mode_t mode) {
  const int fd = open(path.c_str(), flags, mode);
  if (fd == -1) throw std::runtime_error("open " + path + ": " + errno_name(errno));
  return UniqueFd(fd);
}

Pipe must_pipe(int flags) {
  int fds[2];
  must(pipe2(fds, flags), "pipe2");
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

size_t fill_pipe(int fd) {
  const long flags = must(fcntl(fd, F_GETFL), "F_GETFL");
  must(fcntl(fd, F_SETFL, flags | O_NONBLOCK), "F_SETFL");
  const std::string block(4096, 'f');
  size_t bytes = 0;
  ssize_t written;
  while ((written = write(fd, block.data(), block.size())) > 0) bytes += written;
  must(fcntl(fd, F_SETFL, flags), "F_SETFL");
  return bytes;
}

void write_all(int fd, const std::string& bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t written = write(fd, bytes.data() + done, bytes.size() - done);
    if (written == -1 && errno == EINTR) continue;
    done += must(written, "write");
  }
}

std::string read_all(int fd) {
  std::string bytes;
  char buffer[16 * 1024];
  while (true) {
    const ssize_t got = read(fd, buffer, sizeof(buffer));
    if (got == -1 && errno == EINTR) continue;
    must(got, "read");
    if (got == 0) return bytes;
    bytes.append(buffer, got);
  }
}

std::string read_file(const std::string& path) { return read_all(must_open(path, O_RDONLY).get()); }

void write_file(const std::string& path, const std::string& bytes, mode_t mode) {
  write_all(must_open(path, O_WRONLY | O_CREAT | O_TRUNC, mode).get(), bytes);
}

}  // namespace caisson::test
