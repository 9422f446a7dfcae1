#include "mm/mapped_file.h"

#include "mm/memory_manager.h"

namespace caisson {

Result<void> MappingRegistry::add(MemoryManager& owner, bool may_write, bool is_copy) {
  MutexLock lock(mu_);
  if (may_write && sealed_ && !is_copy) return Errno(EPERM);
  ++owners_[&owner];
  if (may_write) writers_.fetch_add(1, std::memory_order_acq_rel);
  return {};
}

void MappingRegistry::remove(MemoryManager& owner, bool may_write) {
  MutexLock lock(mu_);
  auto it = owners_.find(&owner);
  CHECK(it != owners_.end());
  if (--it->second == 0) owners_.erase(it);
  if (may_write) writers_.fetch_sub(1, std::memory_order_acq_rel);
}

Result<void> MappingRegistry::seal(bool existing_may_stay) {
  MutexLock lock(mu_);
  if (!existing_may_stay && has_writers()) return Errno(EBUSY);
  sealed_ = true;
  return {};
}

bool MappingRegistry::is_sealed() const {
  MutexLock lock(mu_);
  return sealed_;
}

void MappingRegistry::drop_pages(const Mappable& file, uint64_t offset, uint64_t end, bool copies) {
  std::vector<RefOrNull<MemoryManager>> owners;
  {
    MutexLock lock(mu_);
    for (auto& [owner, holds] : owners_)
      if (owner->try_ref()) owners.push_back(RefOrNull<MemoryManager>::adopt(owner));
  }
  // An address space that comes to map the file only now asks it after the change.
  for (const RefOrNull<MemoryManager>& owner : owners)
    owner->drop_file_pages(file, offset, end, copies);
}

MappedFile::MappedFile(const RefOrNull<Mappable>& file, MemoryManager* owner, bool may_write)
    : file_(file), owner_(owner), may_write_(may_write) {
  if (!file_) return;
  MappingRegistry* registry = file_->registry();
  if (registry != nullptr) CHECK(registry->add(*owner_, may_write_, true).ok());
  file_->mapping_opened();
}

Result<MappedFile> MappedFile::create(RefOrNull<Mappable> file, MemoryManager& owner,
                                      bool may_write) {
  MappedFile result;
  MappingRegistry* registry = file ? file->registry() : nullptr;
  if (registry != nullptr) TRY(registry->add(owner, may_write, false));
  if (file) file->mapping_opened();
  result.file_ = std::move(file);
  result.owner_ = &owner;
  result.may_write_ = may_write;
  return result;
}

MappedFile MappedFile::for_child(MemoryManager& child) const {
  return MappedFile(file_, &child, may_write_);
}

MappedFile& MappedFile::operator=(MappedFile other) noexcept {
  std::swap(file_, other.file_);
  std::swap(owner_, other.owner_);
  std::swap(may_write_, other.may_write_);
  return *this;
}

RefOrNull<Mappable> MappedFile::release() {
  MappingRegistry* registry = file_ ? file_->registry() : nullptr;
  if (registry != nullptr) registry->remove(*owner_, may_write_);
  if (file_) file_->mapping_closed();
  return std::move(file_);
}

MappedFile::~MappedFile() {
  if (file_) (void)release();
}

}  // namespace caisson
