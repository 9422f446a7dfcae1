#include "mm/host_file_mappable.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

namespace caisson {

namespace {
// The kernel process sees a file through windows of this size; a smaller file has one that fits.
constexpr uint64_t kWindow = 64 * 1024 * 1024;
}  // namespace

HostFileMappable::HostFileMappable(platform::Platform& platform, UniqueFd fd, MappedFileInfo info)
    : platform_(platform), fd_(std::move(fd)), info_(std::move(info)) {}

HostFileMappable::~HostFileMappable() {
  MutexLock lock(mutex_);
  for (auto& [offset, window] : windows_) ::munmap(window.base, window.length);
}

uint64_t HostFileMappable::size() const {
  struct stat status;
  if (::fstat(fd_.get(), &status) != 0 || status.st_size < 0) return 0;
  return static_cast<uint64_t>(status.st_size);
}

Result<size_t> HostFileMappable::read_at(uint64_t offset, std::span<std::byte> out) {
  size_t done = 0;
  while (done < out.size()) {
    ssize_t n =
        ::pread(fd_.get(), out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Errno(errno);
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  return done;
}

Result<Ref<platform::MappableFile>> HostFileMappable::host_file() {
  MutexLock lock(mutex_);
  if (!host_file_) host_file_ = TRY(platform_.new_mappable_file(fd_.get())).or_null();
  return Ref<platform::MappableFile>::from(host_file_);
}

const std::byte* HostFileMappable::kernel_view(uint64_t offset, uint64_t* length) {
  uint64_t window_offset = offset - offset % kWindow;
  MutexLock lock(mutex_);
  auto it = windows_.find(window_offset);
  if (it == windows_.end()) {
    uint64_t file_size = size();
    if (file_size <= window_offset) return nullptr;
    uint64_t window_length = std::min(page_up(file_size - window_offset), kWindow);
    void* base = ::mmap(nullptr, window_length, PROT_READ, MAP_SHARED, fd_.get(),
                        static_cast<off_t>(window_offset));
    if (base == MAP_FAILED) return nullptr;
    it =
        windows_.emplace(window_offset, Window{static_cast<std::byte*>(base), window_length}).first;
  }
  uint64_t within = offset - window_offset;
  if (within >= it->second.length) return nullptr;
  *length = std::min(*length, it->second.length - within);
  return it->second.base + within;
}

}  // namespace caisson
