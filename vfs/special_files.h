// Opening device nodes and FIFOs, wherever in the tree their node is: a table from device number to
// driver, filled by fs/ before start. Linux: fs/char_dev.c.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "vfs/caller.h"
#include "vfs/file_description.h"

namespace caisson {

using OpenSpecialFile = Result<Ref<FileDescription>> (*)(const Path& path, uint32_t flags,
                                                         const Caller& caller);

// Before start only. `minor` ~0u stands for all minor numbers.
void register_character_device(uint32_t major, uint32_t minor, OpenSpecialFile open);
void register_fifos(OpenSpecialFile open);

// ENXIO without a driver; EACCES on a nodev mount.
Result<Ref<FileDescription>> open_special_file(const Path& path, uint32_t flags,
                                               const Caller& caller);

}  // namespace caisson
