// SandboxRoot: a mounted tree for unit tests: an in-memory layer over a temporary host directory,
// and a root caller.
#pragma once

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "fs/hostfs/host_filesystem.h"
#include "fs/tmpfs/tmpfs.h"
#include "kernel/auth/credentials.h"
#include "mm/safe_copy.h"
#include "mm/testing/fake_platform.h"
#include "mm/user_buffer.h"
#include "vfs/caller.h"
#include "vfs/open_file.h"
#include "vfs/path_calls.h"
#include "vfs/path_walk.h"

namespace caisson::testing {

class SandboxRoot : public ::testing::Test {
 protected:
  SandboxRoot() {
    install_fault_guards();
    char name[] = "/tmp/caisson-fs-XXXXXX";
    host_ = ::mkdtemp(name);
    ::chmod(host_.c_str(), 0755);
    host_dir("dir");
    host_file("dir/a", "lower a");
    host_file("dir/b", "lower b");
    host_file("file", "from the host");
    std::filesystem::create_symlink("dir/a", host_ + "/link");
    std::filesystem::create_symlink("/dir", host_ + "/absolute");
    std::filesystem::create_symlink("loop", host_ + "/loop");
  }
  ~SandboxRoot() override { std::filesystem::remove_all(host_); }

  void host_dir(const std::string& path) {
    std::filesystem::create_directories(host_ + "/" + path);
  }
  void host_file(const std::string& path, const std::string& content) {
    std::ofstream(host_ + "/" + path) << content;
  }

  void mount() {
    lower_ =
        MUST(HostFilesystem::create(
                 UniqueFd(::open(host_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)), &platform_))
            .or_null();
    TmpfsOptions options;
    options.name = "overlay";
    root_mount_ =
        MUST(Tmpfs::mount(*memory_, options, 0, "root", MUST(lower_->make_root()).or_null()))
            .or_null();
    namespace_ = MountNamespace::create(Ref<Mount>::from(root_mount_)).or_null();
    place_.emplace(namespace_->root());
  }
  void SetUp() override { mount(); }

  Caller caller() { return caller(*credentials_); }
  Caller caller(const Credentials& credentials) {
    return Caller{credentials, *namespace_, *place_, *place_, 022, 1, 1};
  }
  const Path& root() { return *place_; }

  Result<Ref<FileDescription>> open(const std::string& path, uint32_t flags, uint32_t mode = 0644) {
    return open_file(caller(), root(), path, {flags, mode, 0});
  }
  Result<Path> resolve(const std::string& path, bool follow = true) {
    return resolve_path(caller(), root(), path, {follow, false, 0});
  }
  static Result<std::string> read_some(FileDescription& file, size_t length) {
    std::string text(length, '\0');
    UserBuffer buffer =
        UserBuffer::of_kernel(std::as_writable_bytes(std::span<char>(text.data(), length)));
    text.resize(TRY(file.read(buffer, IoFlags{})));
    return text;
  }
  static Result<size_t> write_text(FileDescription& file, const std::string& text) {
    UserBuffer buffer =
        UserBuffer::of_kernel(std::as_bytes(std::span<const char>(text.data(), text.size())));
    return file.write(buffer, IoFlags{});
  }
  std::string content(const std::string& path) {
    auto file = open(path, O_RDONLY);
    if (!file.ok()) return std::string(file.error().name());
    return MUST(read_some(*file.value(), 1 << 20));
  }
  Errno write_file(const std::string& path, const std::string& text, uint32_t flags) {
    auto file = open(path, O_WRONLY | flags);
    if (!file.ok()) return file.error();
    auto done = write_text(*file.value(), text);
    return done.ok() ? Errno(0) : done.error();
  }
  std::vector<std::string> names(const std::string& path) {
    std::vector<std::string> result;
    DirectoryListing listing = MUST(MUST(resolve(path)).inode().list());
    for (const DirectoryEntry& entry : *listing) result.push_back(entry.name);
    std::sort(result.begin(), result.end());
    return result;
  }

  std::string host_;
  FakePlatform platform_;
  std::unique_ptr<MemoryFile> memory_ = make_memory_file();
  Ref<Credentials> credentials_ = Credentials::root();
  RefOrNull<HostFilesystem> lower_;
  RefOrNull<Mount> root_mount_;
  RefOrNull<MountNamespace> namespace_;
  std::optional<Path> place_;
};

// The errno of a Result, 0 for success.
template <typename T>
int error_of(const Result<T>& result) {
  return result.ok() ? 0 : result.error().value();
}

}  // namespace caisson::testing
