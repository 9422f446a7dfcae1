#include "vfs/file_types.h"

#include <time.h>

namespace caisson {

FileTime file_time_now() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);  // the vDSO: no host call
  return FileTime{now.tv_sec, static_cast<uint32_t>(now.tv_nsec)};
}

}  // namespace caisson
