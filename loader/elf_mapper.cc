#include "loader/elf_mapper.h"

#include <linux/mman.h>

#include <algorithm>

namespace caisson {

namespace {

constexpr uint64_t page_offset(uint64_t value) { return value & (kPageSize - 1); }

int segment_prot(const Elf64_Phdr& segment) {
  return ((segment.p_flags & PF_R) != 0 ? PROT_READ : 0) |
         ((segment.p_flags & PF_W) != 0 ? PROT_WRITE : 0) |
         ((segment.p_flags & PF_X) != 0 ? PROT_EXEC : 0);
}

// Zero memory for what the file does not hold; writable, whatever the segment says, as Linux's brk.
Result<void> map_zeros(MemoryManager& mm, GuestAddr start, GuestAddr end, int prot) {
  if (end <= start) return {};
  MmapRequest request;
  request.addr = start;
  request.length = end - start;
  request.prot = PROT_READ | PROT_WRITE | (prot & PROT_EXEC);
  request.flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
  return TRY(mm.mmap(request)), Result<void>{};
}

Result<void> map_segment(MemoryManager& mm, const ElfFile& elf, RefOrNull<Mappable> file,
                         const Elf64_Phdr& segment, GuestAddr addr, bool replace,
                         MmapOrigin origin) {
  int prot = segment_prot(segment);
  if (segment.p_memsz == 0) return {};
  if (segment.p_filesz == 0)
    return map_zeros(mm, page_down(addr), page_up(addr + segment.p_memsz), prot);
  MmapRequest request;
  request.addr = page_down(addr);
  request.length = segment.p_filesz + page_offset(segment.p_vaddr);
  request.prot = prot;
  request.flags = MAP_PRIVATE | (replace ? MAP_FIXED : MAP_FIXED_NOREPLACE);
  request.origin = origin;
  request.file = std::move(file);
  request.offset = segment.p_offset - page_offset(segment.p_vaddr);
  (void)TRY(mm.mmap(request));
  if (segment.p_memsz <= segment.p_filesz) return {};
  GuestAddr zero_start = addr + segment.p_filesz;
  GuestAddr zero_end = page_up(addr + segment.p_memsz);
  if (page_offset(zero_start) != 0) {
    CopyResult zeroed = mm.zero_out(zero_start, kPageSize - page_offset(zero_start));
    if (!zeroed.ok() && (prot & PROT_WRITE) != 0) return zeroed.error;
  }
  return map_zeros(mm, page_up(zero_start), zero_end, prot);
}

}  // namespace

Result<MappedElf> map_elf(MemoryManager& mm, const ElfFile& elf, Placement placement,
                          MmapOrigin origin) {
  MappedElf mapped;
  mapped.code_start = ~uint64_t{0};
  RefOrNull<Mappable> file = TRY(elf.file->mappable()).or_null();
  bool first = true;
  for (const Elf64_Phdr& segment : elf.segments) {
    if (segment.p_type != PT_LOAD) continue;
    if (segment.p_filesz > segment.p_memsz) return Errno(EINVAL);
    bool reserved = false;
    if (first && elf.is_position_independent()) {
      uint64_t size = elf.mapping_size();
      if (size == 0) return Errno(EINVAL);
      uint64_t alignment = elf.alignment();
      // Address space for all of it, so that the segments stay together; aligned downwards.
      MmapRequest reserve;
      reserve.length = size;
      reserve.flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
      if (placement == Placement::kProgram)
        reserve.addr = mm.random_program_base() & ~(alignment - 1);
      GuestAddr place = TRY(mm.mmap(reserve));
      if (place % alignment != 0) {
        TRY(mm.munmap(place, size));
        reserve.addr = place & ~(alignment - 1);
        reserve.flags |= MAP_FIXED_NOREPLACE;
        place = TRY(mm.mmap(reserve));
      }
      TRY(mm.munmap(place, size));
      mapped.bias = place - page_down(segment.p_vaddr);
    }
    reserved = first && !elf.is_position_independent();
    GuestAddr addr = mapped.bias + segment.p_vaddr;
    if (!mm.is_guest_range(addr, segment.p_memsz)) return Errno(EINVAL);
    TRY(map_segment(mm, elf, file, segment, addr, !reserved, origin));
    first = false;

    if (elf.header.e_phoff >= segment.p_offset &&
        elf.header.e_phoff - segment.p_offset < segment.p_filesz)
      mapped.segment_table = elf.header.e_phoff - segment.p_offset + addr;
    if ((segment.p_flags & PF_X) != 0) {
      mapped.code_start = std::min(mapped.code_start, addr);
      mapped.code_end = std::max(mapped.code_end, addr + segment.p_filesz);
    }
    mapped.data_start = std::max(mapped.data_start, addr);
    mapped.data_end = std::max(mapped.data_end, addr + segment.p_filesz);
    mapped.end = std::max(mapped.end, addr + segment.p_memsz);
  }
  if (!mapped.segment_table) mapped.segment_table = mapped.bias;  // no segment has the table
  if (mapped.code_start > mapped.code_end) mapped.code_start = mapped.code_end;
  mapped.entry = elf.header.e_entry + mapped.bias;
  if (!mm.is_guest_range(mapped.entry, 1)) return Errno(EINVAL);
  return mapped;
}

}  // namespace caisson
