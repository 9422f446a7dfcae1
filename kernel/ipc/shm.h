// System V shared memory. Linux: ipc/shm.c, ipc/util.c.
//
// ShmTable: one per Kernel (there is one IPC namespace); finds segments by id and key. ShmSegment:
// one per shmget; the table holds it until IPC_RMID and the last detach, its vmas hold it too. A
// vma is an attach, as on Linux, so a mapping that is split counts twice. What changes of a segment
// is guarded by the table's mu_, rank kPageIndex: vmas come and go under the mm lock.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "abi/ipc.h"
#include "base/mutex.h"
#include "kernel/auth/credentials.h"
#include "mm/shared_memory.h"

namespace caisson {

class ShmTable;

class ShmSegment final : public Mappable {
 public:
  Kind kind() const override { return Kind::kMemory; }
  uint64_t size() const override { return size_; }
  Result<size_t> read_at(uint64_t offset, std::span<std::byte> out) override {
    return memory_->read_at(offset, out);
  }
  MappedFileInfo info() const override;
  Result<MemoryRange> memory_range(uint64_t offset, uint64_t length) override {
    return memory_->memory_range(offset, length);
  }
  Result<void> punch_hole(uint64_t offset, uint64_t length) override {
    return memory_->punch_hole(offset, length);
  }
  bool is_attachment() const override { return true; }
  void mapping_opened() override;
  void mapping_closed() override;

  int id() const { return id_; }
  uint64_t resident_bytes() const { return memory_->resident_bytes(); }

 private:
  friend class ShmTable;
  ShmSegment(ShmTable& table, Ref<SharedMemory> memory, uint64_t size, int key, int id)
      : table_(table), memory_(std::move(memory)), size_(size), key_(key), id_(id) {}

  ShmTable& table_;  // outlives every address space
  const Ref<SharedMemory> memory_;
  const uint64_t size_;  // bytes, as asked for
  const int key_;        // as made: IPC_RMID does not change the name
  const int id_;
  ShmStatus status_;  // guarded by the table's mu_
};

// Who asks, for permissions and for what a segment remembers.
struct IpcCaller {
  const Credentials& credentials;
  int32_t process_id;
};

class ShmTable {
 public:
  explicit ShmTable(MemoryFile& memory) : memory_(memory) {}

  // The id. Errors are shmget(2)'s.
  Result<int> get(const IpcCaller& caller, int key, uint64_t size, int flags) EXCLUDES(mu_);
  // shmat(2), before the mapping: counts as an attach until end_attach(). `wanted`: bits of a mode.
  Result<Ref<ShmSegment>> begin_attach(const IpcCaller& caller, int id, uint32_t wanted)
      EXCLUDES(mu_);
  void end_attach(ShmSegment& segment) { segment.mapping_closed(); }
  void note_detach(ShmSegment& segment, int32_t process_id) EXCLUDES(mu_);

  // shmctl(2).
  Result<ShmStatus> stat(const IpcCaller& caller, int id) EXCLUDES(mu_);
  // SHM_STAT: by place in the table; the second is the id.
  Result<std::pair<ShmStatus, int>> stat_at(const IpcCaller& caller, int index,
                                            bool check_permission) EXCLUDES(mu_);
  Result<void> set(const IpcCaller& caller, int id, const IpcPermissions& wanted) EXCLUDES(mu_);
  Result<void> remove(const IpcCaller& caller, int id) EXCLUDES(mu_);
  // `limit`: RLIMIT_MEMLOCK, bytes.
  Result<void> lock(const IpcCaller& caller, int id, bool on, uint64_t limit) EXCLUDES(mu_);
  ShmUse use() EXCLUDES(mu_);
  int highest_index() EXCLUDES(mu_);
  // /proc/sysvipc/shm.
  std::string text() EXCLUDES(mu_);

 private:
  friend class ShmSegment;
  Result<Ref<ShmSegment>> find_locked(int id) REQUIRES(mu_);
  Result<int> make_locked(const IpcCaller& caller, int key, uint64_t size, int flags) REQUIRES(mu_);
  Result<int> free_index_locked() REQUIRES(mu_);
  RefOrNull<ShmSegment> destroy_if_unused_locked(ShmSegment& segment) REQUIRES(mu_);

  MemoryFile& memory_;
  Mutex<LockRank::kPageIndex> mu_;
  std::map<int, Ref<ShmSegment>> segments_ GUARDED_BY(mu_);  // by index
  std::map<int, int> keys_ GUARDED_BY(mu_);                  // key to index
  uint64_t pages_ GUARDED_BY(mu_) = 0;
  int last_index_ GUARDED_BY(mu_) = -1;
  int sequence_ GUARDED_BY(mu_) = 0;
};

}  // namespace caisson
