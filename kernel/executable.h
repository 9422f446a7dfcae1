// Executable files as the loader sees them, over vfs. Linux: do_open_execat(), the part of exec
// that looks at the file.
#pragma once

#include "kernel/auth/credentials.h"
#include "loader/executable_file.h"
#include "vfs/caller.h"
#include "vfs/file_description.h"

namespace caisson {

// An open executable; nobody may write to it as long as this lives (ETXTBSY).
class OpenedExecutable final : public ExecutableFile {
 public:
  // EACCES unless a regular file that the caller may execute; ETXTBSY while it is open for writing.
  static Result<Ref<OpenedExecutable>> open(const Caller& caller, const Path& place);
  ~OpenedExecutable() override;

  uint64_t size() const override { return size_; }
  Result<size_t> pread(uint64_t offset, std::span<std::byte> out) override;
  Result<Ref<Mappable>> mappable() override;

  FileDescription& file() const { return *file_; }
  // Set-id bits and owners, unless the mount or `no_new_privileges` switch them off.
  ExecPrivileges privileges(bool no_new_privileges) const;
  bool is_readable_by(const Credentials& credentials) const;

 private:
  OpenedExecutable(Ref<FileDescription> file, uint64_t size)
      : file_(std::move(file)), size_(size) {}
  const Ref<FileDescription> file_;
  const uint64_t size_;
};

// Opens the interpreters that programs name.
class CallerProgramOpener final : public ProgramOpener {
 public:
  explicit CallerProgramOpener(const Caller& caller) : caller_(caller) {}
  Result<Ref<ExecutableFile>> open_program(std::string_view path) override;

 private:
  const Caller& caller_;
};

}  // namespace caisson
