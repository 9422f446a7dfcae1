// The memory devices and the tree of /dev: null, zero, full, random, urandom, tty, and the links
// fd, stdin, stdout, stderr. Linux: drivers/char/mem.c, random.c.
#pragma once

#include "base/result.h"
#include "mm/memory_file.h"
#include "vfs/file_description.h"
#include "vfs/mount.h"

namespace caisson {

// Fills the driver tables of vfs/special_files.h: the devices below, and FIFOs. Idempotent; before
// start.
void register_standard_devices();

// What /dev/tty opens; null: ENXIO, no controlling terminal. Set before start.
void set_terminal(RefOrNull<FileDescription> terminal);

// A tmpfs with the nodes of /dev, ready to be mounted; shm, pts and mqueue are empty directories.
Result<Ref<Mount>> make_dev_mount(MemoryFile& memory);

}  // namespace caisson
