// Maps the segments of an ElfFile into a new address space. Linux: elf_load(), load_elf_interp().
#pragma once

#include "loader/elf_file.h"
#include "mm/memory_manager.h"

namespace caisson {

struct MappedElf {
  uint64_t bias = 0;  // added to every address in the file
  GuestAddr entry = 0;
  GuestAddr segment_table = 0;  // AT_PHDR
  GuestAddr code_start = 0, code_end = 0;
  GuestAddr data_start = 0, data_end = 0;
  GuestAddr end = 0;  // of the highest segment: where the heap begins
};

// Where a position-independent file goes.
enum class Placement : uint8_t {
  kProgram,      // the region of programs that have an interpreter
  kMappingArea,  // where mmap puts things: interpreters, static position-independent programs
};

Result<MappedElf> map_elf(MemoryManager& mm, const ElfFile& elf, Placement placement,
                          MmapOrigin origin);

}  // namespace caisson
