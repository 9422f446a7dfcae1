#include "vfs/filesystem.h"

#include <atomic>

namespace caisson {
namespace {
// Linux gives filesystems without a block device numbers of major 0 (get_anon_bdev()).
std::atomic<uint32_t> next_minor{21};
}  // namespace

Filesystem::Filesystem() : device_(make_device(0, next_minor.fetch_add(1))) {}

}  // namespace caisson
