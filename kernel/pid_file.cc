#include "kernel/pid_file.h"

#include <fcntl.h>

namespace caisson {

PidFile::PidFile(Ref<ThreadGroup> group, uint32_t flags)
    : FileDescription(make_anonymous_path("anon_inode:[pidfd]", 0600), O_RDWR | flags),
      group_(std::move(group)) {}

Ref<PidFile> PidFile::create(ThreadGroup& group, uint32_t flags) {
  return adopt_ref(new PidFile(Ref<ThreadGroup>(group), flags));
}

EventMask PidFile::readiness(EventMask mask) {
  EventMask ready = 0;
  if (group_->has_ended.load(std::memory_order_acquire)) ready |= kEventIn;
  if (group_->is_reaped.load(std::memory_order_acquire)) ready |= kEventHup;
  return ready & (mask | kEventAlways);
}

}  // namespace caisson
