// ExecutableFile and ProgramOpener: how the loader sees files. vfs implements both.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/ref.h"
#include "base/result.h"
#include "mm/mappable.h"

namespace caisson {

// A regular file that the caller may execute, opened for reading.
class ExecutableFile : public RefCounted<ExecutableFile> {
 public:
  virtual ~ExecutableFile() = default;
  virtual uint64_t size() const = 0;
  // Short only at the end of the file.
  virtual Result<size_t> pread(uint64_t offset, std::span<std::byte> out) = 0;
  virtual Result<Ref<Mappable>> mappable() = 0;
};

// Opens the interpreters that programs name, by the caller's root and working directory.
class ProgramOpener {
 public:
  virtual ~ProgramOpener() = default;
  // ENOENT, EACCES (no execute permission, not a regular file), ELOOP and what open gives.
  virtual Result<Ref<ExecutableFile>> open_program(std::string_view path) = 0;
};

}  // namespace caisson
