// must: for set-up steps whose failure makes the rest of a test pointless. Throws with the call's
// name and errno, which GoogleTest reports as this test's failure; owners on the stack clean up.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <string>

#include "base/unique_fd.h"

namespace caisson::test {

// Returns `result` unless it is -1.
long must(long result, const char* call);

UniqueFd must_open(const std::string& path, int flags, mode_t mode = 0644);

struct Pipe {
  UniqueFd read_end;
  UniqueFd write_end;
};
Pipe must_pipe(int flags = 0);
// Writes until the (non-blocking for the time) pipe takes no more; the bytes written.
size_t fill_pipe(int fd);

void write_all(int fd, const std::string& bytes);
// Until end of file.
std::string read_all(int fd);
std::string read_file(const std::string& path);
void write_file(const std::string& path, const std::string& bytes, mode_t mode = 0644);

}  // namespace caisson::test
