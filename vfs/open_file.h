// open(2) and openat2(2) on paths. Linux: path_openat() and do_dentry_open().
#pragma once

#include <string_view>

#include "base/result.h"
#include "vfs/caller.h"
#include "vfs/file_description.h"

namespace caisson {

struct OpenRequest {
  uint32_t flags = 0;    // O_*, already checked
  uint32_t mode = 0;     // of a new file, before the umask
  uint64_t resolve = 0;  // abi::kResolve*
};

// open(2)'s rules about flags that concern nothing but flags; strict is openat2's, which refuses
// unknown ones that open(2) ignores.
Result<OpenRequest> check_open_request(uint64_t flags, uint64_t mode, uint64_t resolve,
                                       bool strict);

// The new open file; FIFOs may still have to wait (is_open_complete()).
Result<Ref<FileDescription>> open_file(const Caller& caller, const Path& at, std::string_view path,
                                       const OpenRequest& request);
// A place that is already known: /proc/PID/fd/N, the loader.
Result<Ref<FileDescription>> open_place(const Caller& caller, const Path& place,
                                        const OpenRequest& request);

}  // namespace caisson
