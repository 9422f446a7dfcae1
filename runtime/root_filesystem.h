// What a sandbox's program finds: its mounts, its descriptors, its place.
#pragma once

#include <array>
#include <memory>

#include "base/error.h"
#include "base/unique_fd.h"
#include "host/event_loop.h"
#include "mm/memory_file.h"
#include "platform/platform.h"
#include "runtime/sandbox_options.h"
#include "vfs/fd_table.h"
#include "vfs/fs_context.h"

namespace caisson {
class Kernel;
}

namespace caisson::runtime {

struct GuestFiles {
  Ref<FdTable> descriptors;
  Ref<FsContext> fs;
};

// Descriptors 0 to 2 that the caller has closed.
using ClosedStdio = std::array<bool, 3>;

// Puts something harmless in their places, before anything of ours gets one of these numbers. First
// of all in the process.
ClosedStdio occupy_closed_stdio();

// Descriptors 0 to 2 as the guest gets them. Needs /proc, so before the empty root is entered.
Result<Ref<FdTable>, Error> take_stdio(host::EventLoop& events, const ClosedStdio& closed);

// The host's root, read-only, under a layer in memory; /dev of our own, /proc and /sys empty.
Result<Ref<FsContext>, Error> make_root(UniqueFd host_root, platform::Platform& platform,
                                        MemoryFile& memory, const SandboxOptions& options);

// Our own /proc; it shows the kernel's tasks, so it comes after the kernel.
Result<void, Error> mount_proc(FsContext& fs, Kernel& kernel);

}  // namespace caisson::runtime
