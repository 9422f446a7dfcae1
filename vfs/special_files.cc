#include "vfs/special_files.h"

#include <linux/mount.h>

#include <vector>

namespace caisson {
namespace {

struct Driver {
  uint32_t major, minor;
  OpenSpecialFile open;
};
struct Drivers {
  std::vector<Driver> character;
  OpenSpecialFile fifo = nullptr;
};
Drivers& drivers() {
  static auto* const table = new Drivers();  // set once before start
  return *table;
}

}  // namespace

void register_character_device(uint32_t major, uint32_t minor, OpenSpecialFile open) {
  for (Driver& driver : drivers().character) {
    if (driver.major == major && driver.minor == minor) {
      driver.open = open;
      return;
    }
  }
  drivers().character.push_back(Driver{major, minor, open});
}

void register_fifos(OpenSpecialFile open) { drivers().fifo = open; }

Result<Ref<FileDescription>> open_special_file(const Path& path, uint32_t flags,
                                               const Caller& caller) {
  Inode& inode = path.inode();
  if (inode.type() == S_IFIFO) {
    if (drivers().fifo == nullptr) return Errno(ENXIO);
    return drivers().fifo(path, flags, caller);
  }
  if ((path.mount->flags() & MS_NODEV) != 0) return Errno(EACCES);
  if (inode.type() != S_IFCHR) return Errno(ENXIO);
  uint64_t device = TRY(inode.stat()).special_device;
  for (const Driver& driver : drivers().character) {
    if (driver.major == device_major(device) &&
        (driver.minor == ~0u || driver.minor == device_minor(device)))
      return driver.open(path, flags, caller);
  }
  return Errno(ENXIO);
}

}  // namespace caisson
