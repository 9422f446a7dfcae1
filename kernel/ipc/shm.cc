#include "kernel/ipc/shm.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>

#include "host/memory.h"
#include "kernel/time/clock.h"

namespace caisson {
namespace {

constexpr int kIndexBits = 15;  // of an id; the rest is its sequence number
constexpr int kIndexMask = (1 << kIndexBits) - 1;
constexpr int kLeastCycle = 64;
constexpr uint32_t kModeBits = 0777;

int64_t now_seconds() { return static_cast<int64_t>(real_clock_ns() / kNsPerSecond); }

// Linux: ipcperms(). `wanted` has the bits of a mode, for whomever.
bool may_access(const IpcCaller& caller, const IpcPermissions& has, uint32_t wanted) {
  const Credentials& own = caller.credentials;
  uint32_t needed = (wanted >> 6) | (wanted >> 3) | wanted;
  uint32_t granted = has.mode;
  if (own.euid == has.creator_uid || own.euid == has.uid)
    granted >>= 6;
  else if (own.in_effective_group(has.creator_gid) || own.in_effective_group(has.gid))
    granted >>= 3;
  return (needed & ~granted & 7) == 0 || own.has(Capability::kIpcOwner);
}

bool is_owner(const IpcCaller& caller, const IpcPermissions& has) {
  uint32_t own = caller.credentials.euid;
  return own == has.uid || own == has.creator_uid;
}

Result<void> check_owner(const IpcCaller& caller, const IpcPermissions& has) {
  if (is_owner(caller, has)) return {};
  return caller.credentials.require(Capability::kSysAdmin);
}

}  // namespace

MappedFileInfo ShmSegment::info() const {
  char path[32];
  std::snprintf(path, sizeof path, "/SYSV%08x (deleted)", static_cast<unsigned>(key_));
  return {0, 1, static_cast<uint64_t>(id_), path};
}

void ShmSegment::mapping_opened() {
  MutexLock lock(table_.mu_);
  ++status_.attach_count;
  status_.attach_time = now_seconds();
}

void ShmSegment::mapping_closed() {
  // The caller has a reference: memory is never given back under the lock.
  RefOrNull<ShmSegment> gone;
  MutexLock lock(table_.mu_);
  --status_.attach_count;
  status_.detach_time = now_seconds();
  gone = table_.destroy_if_unused_locked(*this);
}

Result<int> ShmTable::get(const IpcCaller& caller, int key, uint64_t size, int flags) {
  MutexLock lock(mu_);
  auto known = key == kIpcPrivate ? keys_.end() : keys_.find(key);
  if (known == keys_.end()) {
    if (key != kIpcPrivate && (flags & kIpcCreate) == 0) return Errno(ENOENT);
    return make_locked(caller, key, size, flags);
  }
  if ((flags & kIpcCreate) != 0 && (flags & kIpcExclusive) != 0) return Errno(EEXIST);
  const ShmSegment& segment = *segments_.at(known->second);
  if (segment.size_ < size) return Errno(EINVAL);
  if (!may_access(caller, segment.status_.permissions, static_cast<uint32_t>(flags) & kModeBits))
    return Errno(EACCES);
  return segment.id_;
}

Result<int> ShmTable::free_index_locked() {
  if (segments_.size() >= static_cast<size_t>(kShmMaxSegments)) return Errno(ENOSPC);
  int cycle = std::max(static_cast<int>(segments_.size()) * 3 / 2, kLeastCycle);
  for (int step = 1; step <= cycle; ++step) {
    int index = (last_index_ + step) % cycle;
    if (segments_.contains(index)) continue;
    return index;
  }
  return Errno(ENOSPC);
}

Result<int> ShmTable::make_locked(const IpcCaller& caller, int key, uint64_t size, int flags) {
  if (size < 1 || size > kShmMaxBytes) return Errno(EINVAL);
  uint64_t bytes = page_up(size);
  if (bytes < size || pages_ + bytes / kPageSize > kShmMaxPages) return Errno(ENOSPC);
  // There are no huge pages to be had.
  if ((flags & kShmHugeTlb) != 0)
    return Errno(caller.credentials.has(Capability::kIpcLock) ? ENOMEM : EPERM);
  if ((flags & kShmNoReserve) == 0 && bytes > host::physical_memory()) return Errno(ENOMEM);
  int index = TRY(free_index_locked());
  Ref<SharedMemory> memory = TRY(SharedMemory::create(memory_, bytes));
  if (index <= last_index_) sequence_ = (sequence_ + 1) & 0xffff;
  last_index_ = index;
  int id = (sequence_ << kIndexBits) | index;
  Ref<ShmSegment> segment = adopt_ref(new ShmSegment(*this, std::move(memory), size, key, id));
  ShmStatus& status = segment->status_;
  const Credentials& own = caller.credentials;
  status.permissions = {.key = key,
                        .uid = own.euid,
                        .gid = own.egid,
                        .creator_uid = own.euid,
                        .creator_gid = own.egid,
                        .mode = static_cast<uint32_t>(flags) & kModeBits,
                        .sequence = static_cast<uint16_t>(sequence_)};
  status.size = size;
  status.change_time = now_seconds();
  status.creator_pid = caller.process_id;
  pages_ += bytes / kPageSize;
  segments_.emplace(index, std::move(segment));
  if (key != kIpcPrivate) keys_.emplace(key, index);
  return id;
}

Result<Ref<ShmSegment>> ShmTable::find_locked(int id) {
  auto it = id < 0 ? segments_.end() : segments_.find(id & kIndexMask);
  if (it == segments_.end() || it->second->id_ != id) return Errno(EINVAL);
  return it->second;
}

// What the table held, to be let go without the lock.
RefOrNull<ShmSegment> ShmTable::destroy_if_unused_locked(ShmSegment& segment) {
  const ShmStatus& status = segment.status_;
  if ((status.permissions.mode & kShmDestroyed) == 0 || status.attach_count != 0) return nullptr;
  auto it = segments_.find(segment.id_ & kIndexMask);
  if (it == segments_.end() || &*it->second != &segment) return nullptr;
  RefOrNull<ShmSegment> held = it->second.or_null();
  segments_.erase(it);
  pages_ -= page_up(segment.size_) / kPageSize;
  return held;
}

Result<Ref<ShmSegment>> ShmTable::begin_attach(const IpcCaller& caller, int id, uint32_t wanted) {
  MutexLock lock(mu_);
  Ref<ShmSegment> segment = TRY(find_locked(id));
  ShmStatus& status = segment->status_;
  if (!may_access(caller, status.permissions, wanted)) return Errno(EACCES);
  ++status.attach_count;
  status.last_pid = caller.process_id;
  return segment;
}

void ShmTable::note_detach(ShmSegment& segment, int32_t process_id) {
  MutexLock lock(mu_);
  segment.status_.last_pid = process_id;
}

Result<ShmStatus> ShmTable::stat(const IpcCaller& caller, int id) {
  MutexLock lock(mu_);
  Ref<ShmSegment> segment = TRY(find_locked(id));
  if (!may_access(caller, segment->status_.permissions, 0444)) return Errno(EACCES);
  return segment->status_;
}

Result<std::pair<ShmStatus, int>> ShmTable::stat_at(const IpcCaller& caller, int index,
                                                    bool check_permission) {
  MutexLock lock(mu_);
  auto it = segments_.find(index & kIndexMask);
  if (index < 0 || it == segments_.end()) return Errno(EINVAL);
  const ShmSegment& segment = *it->second;
  if (check_permission && !may_access(caller, segment.status_.permissions, 0444))
    return Errno(EACCES);
  return std::pair(segment.status_, segment.id_);
}

Result<void> ShmTable::set(const IpcCaller& caller, int id, const IpcPermissions& wanted) {
  MutexLock lock(mu_);
  Ref<ShmSegment> segment = TRY(find_locked(id));
  IpcPermissions& has = segment->status_.permissions;
  TRY(check_owner(caller, has));
  if (wanted.uid == ~0u || wanted.gid == ~0u) return Errno(EINVAL);
  has.uid = wanted.uid;
  has.gid = wanted.gid;
  has.mode = (has.mode & ~kModeBits) | (wanted.mode & kModeBits);
  segment->status_.change_time = now_seconds();
  return {};
}

Result<void> ShmTable::remove(const IpcCaller& caller, int id) {
  RefOrNull<ShmSegment> gone;
  MutexLock lock(mu_);
  Ref<ShmSegment> segment = TRY(find_locked(id));
  gone = segment.or_null();
  IpcPermissions& has = segment->status_.permissions;
  TRY(check_owner(caller, has));
  // Nobody finds it by its key any more; the id goes with the last attach.
  if (has.key != kIpcPrivate) keys_.erase(has.key);
  has.key = kIpcPrivate;
  has.mode |= kShmDestroyed;
  (void)destroy_if_unused_locked(*segment);
  return {};
}

Result<void> ShmTable::lock(const IpcCaller& caller, int id, bool on, uint64_t limit) {
  MutexLock lock(mu_);
  Ref<ShmSegment> segment = TRY(find_locked(id));
  IpcPermissions& has = segment->status_.permissions;
  if (!caller.credentials.has(Capability::kIpcLock)) {
    if (!is_owner(caller, has)) return Errno(EPERM);
    if (on && limit == 0) return Errno(EPERM);
    if (on && page_up(segment->size_) > limit) return Errno(ENOMEM);
  }
  has.mode = on ? has.mode | kShmLocked : has.mode & ~kShmLocked;
  return {};
}

ShmUse ShmTable::use() {
  std::vector<Ref<ShmSegment>> all;
  ShmUse use;
  {
    MutexLock lock(mu_);
    use.used_ids = static_cast<int>(segments_.size());
    use.pages = pages_;
    for (const auto& [index, segment] : segments_) all.push_back(segment);
  }
  for (const Ref<ShmSegment>& segment : all)
    use.resident_pages += segment->resident_bytes() / kPageSize;
  return use;
}

int ShmTable::highest_index() {
  MutexLock lock(mu_);
  return segments_.empty() ? 0 : segments_.rbegin()->first;
}

std::string ShmTable::text() {
  std::vector<std::pair<ShmStatus, Ref<ShmSegment>>> all;
  {
    MutexLock lock(mu_);
    for (const auto& [index, segment] : segments_) all.emplace_back(segment->status_, segment);
  }
  std::string text =
      "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  "
      "cgid "
      "     atime      dtime      ctime                   rss                  swap\n";
  for (const auto& [status, segment] : all) {
    const IpcPermissions& has = status.permissions;
    char line[320];
    std::snprintf(line, sizeof line,
                  "%10d %10d  %4o %21" PRIu64 " %5u %5u  %5" PRIu64 " %5u %5u %5u %5u %10" PRId64
                  " %10" PRId64 " %10" PRId64 " %21" PRIu64 " %21u\n",
                  has.key, segment->id(), has.mode, status.size, status.creator_pid,
                  status.last_pid, status.attach_count, has.uid, has.gid, has.creator_uid,
                  has.creator_gid, status.attach_time, status.detach_time, status.change_time,
                  segment->resident_bytes(), 0u);
    text += line;
  }
  return text;
}

}  // namespace caisson
