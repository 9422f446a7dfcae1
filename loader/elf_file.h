// ElfFile: the headers of an ELF64 x86-64 program or interpreter, read and checked as Linux does
// before it gives up the old program. Linux: fs/binfmt_elf.c.
#pragma once

#include <elf.h>

#include <optional>
#include <string>
#include <vector>

#include "base/ref.h"
#include "base/result.h"
#include "loader/executable_file.h"

namespace caisson {

struct ElfFile {
  Ref<ExecutableFile> file;
  Elf64_Ehdr header;
  std::vector<Elf64_Phdr> segments;
  std::optional<std::string> interpreter;  // of PT_INTERP
  bool executable_stack = false;

  bool is_position_independent() const { return header.e_type == ET_DYN; }
  // From the page of the lowest PT_LOAD to the end of the highest; 0 if there is none or it wraps.
  uint64_t mapping_size() const;
  // The largest p_align of a PT_LOAD that is a power of two; a page at least.
  uint64_t alignment() const;
};

// ENOEXEC if it is not a program for this machine.
Result<ElfFile> read_elf_program(Ref<ExecutableFile> file);
// ELIBBAD if it is not a fitting interpreter; EIO if it is shorter than a header.
Result<ElfFile> read_elf_interpreter(Ref<ExecutableFile> file);

}  // namespace caisson
