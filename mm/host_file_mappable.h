// HostFileMappable: a Mappable over one host file, opened for reading. Made by hostfs, one per
// inode.
//
// Owns its descriptor. The kernel process' view is mapped on demand in windows that stay until the
// object goes; the stubs' file is registered with the platform at the first mapping.
#pragma once

#include <map>
#include <string>

#include "base/mutex.h"
#include "mm/mappable.h"
#include "platform/platform.h"

namespace caisson {

class HostFileMappable final : public Mappable {
 public:
  // `fd` was opened for reading; `info` is what the guest sees.
  HostFileMappable(platform::Platform& platform, UniqueFd fd, MappedFileInfo info);
  ~HostFileMappable() override;

  Kind kind() const override { return Kind::kHostFile; }
  uint64_t size() const override;
  Result<size_t> read_at(uint64_t offset, std::span<std::byte> out) override;
  MappedFileInfo info() const override { return info_; }
  Result<Ref<platform::MappableFile>> host_file() override;
  const std::byte* kernel_view(uint64_t offset, uint64_t* length) override;
  const PatchedText* patched_text() const override {
    return patched_text_.load(std::memory_order_acquire);
  }
  void set_patched_text(std::unique_ptr<PatchedText> text) override;

  void mapping_opened() override { mappings_.fetch_add(1, std::memory_order_relaxed); }
  void mapping_closed() override { mappings_.fetch_sub(1, std::memory_order_relaxed); }
  uint32_t mapping_count() const override { return mappings_.load(std::memory_order_relaxed); }

  int fd() const { return fd_.get(); }

 private:
  struct Window {
    std::byte* base;
    uint64_t length;
  };
  platform::Platform& platform_;
  const UniqueFd fd_;
  const MappedFileInfo info_;
  Mutex<LockRank::kPageIndex> mutex_;
  RefOrNull<platform::MappableFile> host_file_ GUARDED_BY(mutex_);
  std::unique_ptr<PatchedText> text_ GUARDED_BY(mutex_);
  std::atomic<const PatchedText*> patched_text_{nullptr};  // text_, once it is there
  std::atomic<uint32_t> mappings_{0};
  std::map<uint64_t, Window> windows_ GUARDED_BY(mutex_);  // by file offset
};

}  // namespace caisson
