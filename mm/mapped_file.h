// MappedFile: a vma's hold on its file, by which the file finds who maps it. MappingRegistry: the
// list, in the file.
//
// Every vma with a file has one MappedFile; copies of it (a vma that is split, a fork) count too.
// Only files whose content can be taken away under a mapping, or that can be sealed against
// writing, keep a registry (Mappable::registry()). The registry holds address spaces by pointer,
// without a reference: they take themselves off before they end. Lock: mu_, rank kPageIndex, never
// held together with the file's own index. Linux: address_space.i_mmap, i_mmap_writable.
#pragma once

#include <map>
#include <vector>

#include "base/mutex.h"
#include "base/ref.h"
#include "base/result.h"
#include "mm/mappable.h"

namespace caisson {

class MemoryManager;

class MappingRegistry {
 public:
  // Takes the pages of [offset, end) out of every mapping of `file`: the next touch asks the file
  // again. With `copies`, the private copies of them go as well (truncation). Take no lock of mm
  // before it; the file already refuses or has replaced what goes.
  void drop_pages(const Mappable& file, uint64_t offset, uint64_t end, bool copies) EXCLUDES(mu_);
  // From now on no new mapping may write. EBUSY while one may, unless those shall stay.
  Result<void> seal(bool existing_may_stay) EXCLUDES(mu_);
  bool is_sealed() const EXCLUDES(mu_);
  // Is there a shared mapping that may write?
  bool has_writers() const { return writers_.load(std::memory_order_acquire) != 0; }

 private:
  friend class MappedFile;
  // EPERM: sealed. A copy of a mapping that exists is never refused.
  Result<void> add(MemoryManager& owner, bool may_write, bool is_copy) EXCLUDES(mu_);
  void remove(MemoryManager& owner, bool may_write) EXCLUDES(mu_);

  mutable Mutex<LockRank::kPageIndex> mu_;
  std::map<MemoryManager*, uint32_t> owners_ GUARDED_BY(mu_);  // with the number of their holds
  bool sealed_ GUARDED_BY(mu_) = false;
  std::atomic<uint32_t> writers_{0};
};

class MappedFile {
 public:
  MappedFile() = default;
  // `may_write`: a shared mapping that mprotect could make writable. EPERM: the file is sealed.
  static Result<MappedFile> create(RefOrNull<Mappable> file, MemoryManager& owner, bool may_write);
  // The same mapping in a child's address space.
  MappedFile for_child(MemoryManager& child) const;
  MappedFile(const MappedFile& other) : MappedFile(other.file_, other.owner_, other.may_write_) {}
  MappedFile(MappedFile&& other) noexcept
      : file_(std::move(other.file_)), owner_(other.owner_), may_write_(other.may_write_) {}
  MappedFile& operator=(MappedFile other) noexcept;
  ~MappedFile();

  explicit operator bool() const { return static_cast<bool>(file_); }
  Mappable* operator->() const { return file_.get(); }
  Mappable& operator*() const { return *file_; }
  const RefOrNull<Mappable>& ref() const { return file_; }
  // Ends the hold; the caller lets the file go when no lock is held.
  RefOrNull<Mappable> release();
  friend bool operator==(const MappedFile& a, const MappedFile& b) { return a.file_ == b.file_; }

 private:
  MappedFile(const RefOrNull<Mappable>& file, MemoryManager* owner, bool may_write);

  RefOrNull<Mappable> file_;
  MemoryManager* owner_ = nullptr;
  bool may_write_ = false;
};

}  // namespace caisson
