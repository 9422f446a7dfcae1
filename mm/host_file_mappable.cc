#include "mm/host_file_mappable.h"

#include <algorithm>

#include "host/memory.h"

namespace caisson {

namespace {
// The kernel process sees a file through windows of this size; a smaller file has one that fits.
constexpr uint64_t kWindow = 64 * 1024 * 1024;
}  // namespace

HostFileMappable::HostFileMappable(platform::Platform& platform, UniqueFd fd, MappedFileInfo info)
    : platform_(platform), fd_(std::move(fd)), info_(std::move(info)) {}

HostFileMappable::~HostFileMappable() {
  MutexLock lock(mutex_);
  for (auto& [offset, window] : windows_) host::unmap(window.base, window.length);
}

uint64_t HostFileMappable::size() const { return host::file_size(fd_.get()).value_or(uint64_t{0}); }

Result<size_t> HostFileMappable::read_at(uint64_t offset, std::span<std::byte> out) {
  return host::read_file(fd_.get(), offset, out);
}

Result<Ref<platform::MappableFile>> HostFileMappable::host_file() {
  MutexLock lock(mutex_);
  if (!host_file_) host_file_ = TRY(platform_.new_mappable_file(fd_.get())).or_null();
  return Ref<platform::MappableFile>::from(host_file_);
}

void HostFileMappable::set_patched_text(std::unique_ptr<PatchedText> text) {
  MutexLock lock(mutex_);
  if (text_) return;
  text_ = std::move(text);
  patched_text_.store(text_.get(), std::memory_order_release);
}

const std::byte* HostFileMappable::kernel_view(uint64_t offset, uint64_t* length) {
  uint64_t window_offset = offset - offset % kWindow;
  MutexLock lock(mutex_);
  auto it = windows_.find(window_offset);
  if (it == windows_.end()) {
    uint64_t file_size = size();
    if (file_size <= window_offset) return nullptr;
    uint64_t window_length = std::min(page_up(file_size - window_offset), kWindow);
    Result<std::byte*> base =
        host::map_file(fd_.get(), window_offset, window_length, host::Sharing::kReadOnly);
    if (!base.ok()) return nullptr;
    it = windows_.emplace(window_offset, Window{base.value(), window_length}).first;
  }
  uint64_t within = offset - window_offset;
  if (within >= it->second.length) return nullptr;
  *length = std::min(*length, it->second.length - within);
  return it->second.base + within;
}

}  // namespace caisson
