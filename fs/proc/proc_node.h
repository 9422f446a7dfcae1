// The inodes of proc: texts that are made when read, links that are resolved when followed, and
// directories of them. Nothing is kept: dentries of proc are not cached.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vfs/caller.h"
#include "vfs/file_description.h"
#include "vfs/filesystem.h"
#include "vfs/inode.h"

namespace caisson {

class Kernel;

class ProcFilesystem final : public Filesystem {
 public:
  explicit ProcFilesystem(Kernel& kernel) : kernel_(kernel) {}
  const char* name() const override { return "proc"; }
  bool caches_dentries() const override { return false; }
  Result<FilesystemStat> stat() override;
  Kernel& kernel() const { return kernel_; }

 private:
  Kernel& kernel_;  // outlives every task, and so every user of the filesystem
};

// What all nodes need to be made: where they belong, their place in the tree as a text (the inode
// number is its hash), and whose they are.
struct ProcPlace {
  Ref<ProcFilesystem> filesystem;
  std::string path;
  uint32_t uid = 0, gid = 0;

  ProcPlace child(std::string_view name) const {
    return {filesystem, path + "/" + std::string(name), uid, gid};
  }
  uint64_t ino() const;
  Kernel& kernel() const { return filesystem->kernel(); }
};

class ProcNode : public Inode {
 public:
  Result<FileStat> stat() override;

 protected:
  ProcNode(const ProcPlace& place, uint32_t mode)
      : Inode(place.filesystem, place.ino(), mode, place.uid, place.gid) {}
};

class ProcText final : public ProcNode {
 public:
  using Read = std::function<Result<std::string>()>;
  // `opener` opened the file for writing.
  using Write = std::function<Result<void>(std::string_view, const Credentials& opener)>;
  // EACCES when `may_open` says no; none: mode bits are all.
  using MayOpen = std::function<bool(const Caller&)>;
  ProcText(const ProcPlace& place, uint32_t permissions, Read read, Write write = nullptr,
           MayOpen may_open = nullptr)
      : ProcNode(place, S_IFREG | permissions),
        read_(std::move(read)),
        write_(std::move(write)),
        may_open_(std::move(may_open)) {}
  Result<Ref<FileDescription>> open(const Path& path, uint32_t flags,
                                    const Caller& caller) override;
  Result<void> truncate(uint64_t) override { return {}; }  // O_TRUNC before a write
  Result<std::string> read() const { return read_(); }
  Result<void> write(std::string_view text, const Credentials& opener) const;

 private:
  const Read read_;
  const Write write_;
  const MayOpen may_open_;
};

class ProcLink final : public ProcNode {
 public:
  using Target = std::function<Result<LinkTarget>(const Caller&)>;
  ProcLink(const ProcPlace& place, Target target, uint32_t permissions = 0777)
      : ProcNode(place, S_IFLNK | permissions), target_(std::move(target)) {}
  Result<LinkTarget> link_target(const Caller& caller) override { return target_(caller); }

 private:
  const Target target_;
};

// A directory whose names are made by two functions.
class ProcDirectory final : public ProcNode {
 public:
  using Lookup = std::function<Result<RefOrNull<Inode>>(std::string_view name)>;
  using List = std::function<Result<std::vector<DirectoryEntry>>()>;
  ProcDirectory(const ProcPlace& place, Lookup lookup, List list, uint32_t permissions = 0555)
      : ProcNode(place, S_IFDIR | permissions),
        lookup_(std::move(lookup)),
        list_(std::move(list)) {}
  Result<RefOrNull<Inode>> lookup(std::string_view name) override { return lookup_(name); }
  Result<DirectoryListing> list() override;

 private:
  const Lookup lookup_;
  const List list_;
};

// A directory with a fixed set of names.
struct ProcChild {
  std::string_view name;
  uint32_t type;  // S_IF*
  Ref<Inode> (*make)(const ProcPlace& place);
};
Ref<Inode> make_static_directory(const ProcPlace& place, std::span<const ProcChild> children);
RefOrNull<Inode> lookup_static(const ProcPlace& directory, std::span<const ProcChild> children,
                               std::string_view name);
void list_static(const ProcPlace& directory, std::span<const ProcChild> children,
                 std::vector<DirectoryEntry>& entries);

// "123" but not "0123" or "-1".
std::optional<int32_t> parse_number(std::string_view text);

}  // namespace caisson
