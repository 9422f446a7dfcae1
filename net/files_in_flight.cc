#include "net/files_in_flight.h"

#include "vfs/flat_release.h"

namespace caisson {
namespace {

struct Registry {
  Mutex<LockRank::kLeaf> mu;
  FilesInFlight::Sockets sockets GUARDED_BY(mu);
  uint64_t count GUARDED_BY(mu) = 0;
};
Registry& registry() {
  static auto* const registry = new Registry();
  return *registry;
}

bool is_socket(const FileDescription& file) { return file.inode().type() == S_IFSOCK; }

}  // namespace

FilesInFlight::FilesInFlight(std::vector<Ref<FileDescription>> files) : files_(std::move(files)) {
  if (files_.empty()) return;
  Registry& all = registry();
  MutexLock lock(all.mu);
  all.count += files_.size();
  for (const Ref<FileDescription>& file : files_)
    if (is_socket(*file)) ++all.sockets[file.get()];
}

FilesInFlight& FilesInFlight::operator=(FilesInFlight&& other) noexcept {
  std::swap(files_, other.files_);
  return *this;
}

void FilesInFlight::forget() {
  if (files_.empty()) return;
  Registry& all = registry();
  MutexLock lock(all.mu);
  all.count -= files_.size();
  for (const Ref<FileDescription>& file : files_) {
    if (!is_socket(*file)) continue;
    auto it = all.sockets.find(file.get());
    if (--it->second == 0) all.sockets.erase(it);
  }
}

FilesInFlight::~FilesInFlight() {
  forget();
  for (Ref<FileDescription>& file : files_)
    release_flat<FileDescription>(std::move(file).or_null());
}

std::vector<Ref<FileDescription>> FilesInFlight::take() {
  forget();
  return std::exchange(files_, {});
}

uint64_t FilesInFlight::count() {
  Registry& all = registry();
  MutexLock lock(all.mu);
  return all.count;
}
FilesInFlight::Sockets FilesInFlight::sockets() {
  Registry& all = registry();
  MutexLock lock(all.mu);
  return all.sockets;
}
RefOrNull<FileDescription> FilesInFlight::hold_if_in_flight(const FileDescription* file) {
  Registry& all = registry();
  MutexLock lock(all.mu);
  // It is counted, so a message holds a reference: forget() comes before that goes.
  if (all.sockets.find(file) == all.sockets.end()) return nullptr;
  return RefOrNull<FileDescription>(const_cast<FileDescription*>(file));
}
size_t FilesInFlight::socket_count() {
  Registry& all = registry();
  MutexLock lock(all.mu);
  return all.sockets.size();
}

}  // namespace caisson
