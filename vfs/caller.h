// Caller: on whose behalf the file system acts: credentials, root and working directory, and the
// process for /proc/self. A handler makes one for each call from its CurrentTask; it is never
// stored.
#pragma once

#include <cstdint>

#include "kernel/auth/credentials.h"
#include "vfs/path.h"

namespace caisson {

struct Caller {
  const Credentials& credentials;
  MountNamespace& mounts;
  const Path& root;
  const Path& working_directory;
  uint32_t umask = 022;
  int32_t process_id = 0;  // in the caller's PID namespace
  int32_t thread_id = 0;
};

}  // namespace caisson
