// Host files: thin, typed calls. The names and the order of parameters are the man pages'.
//
// Nothing is retried: EINTR comes back. A path that holds NUL is EINVAL, one of 4,096 bytes and
// more ENAMETOOLONG, without asking the kernel.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"

namespace caisson::sys {

inline constexpr int kStdin = 0;
inline constexpr int kStdout = 1;
inline constexpr int kStderr = 2;

using Stat = struct ::stat;

struct Pipe {
  UniqueFd read_end;
  UniqueFd write_end;
};

// The flags are used as given: add O_CLOEXEC wherever the descriptor is not meant for children.
Result<UniqueFd> open(std::string_view path, int flags, uint32_t mode = 0);
Result<void> close(int fd);
Result<size_t> read(int fd, std::span<std::byte> buffer);
Result<int64_t> seek(int fd, int64_t offset, int whence);
Result<Pipe> pipe();
Result<Pipe> pipe2(int flags);
Result<void> close_on_exec(int fd);
Result<void> set_nonblock(int fd, bool nonblocking);

Result<Stat> stat(std::string_view path);
Result<Stat> lstat(std::string_view path);
// Flags: AT_EACCESS, AT_SYMLINK_NOFOLLOW. Computed from the file's mode where the host has no
// faccessat2(2); access-control lists are then not seen.
Result<void> faccessat(int dirfd, std::string_view path, uint32_t mode, int flags);

// Bytes written to the buffer, the NUL included. ERANGE: too small.
Result<size_t> getcwd(std::span<char> buffer);
// ENOENT: the working directory is outside the process's root.
Result<std::string> getwd();

}  // namespace caisson::sys
