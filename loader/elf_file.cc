#include "loader/elf_file.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "mm/memory_file.h"

namespace caisson {

namespace {

constexpr size_t kMaxSegmentTable = 65536;
constexpr size_t kMaxInterpreterPath = 4096;  // PATH_MAX

// Linux's elf_read(): a short read is EIO.
Result<void> read_exactly(ExecutableFile& file, uint64_t offset, void* to, size_t length) {
  if (offset > static_cast<uint64_t>(INT64_MAX) - length) return Errno(EINVAL);
  size_t got = TRY(file.pread(offset, {static_cast<std::byte*>(to), length}));
  if (got != length) return Errno(EIO);
  return {};
}

bool has_magic(const Elf64_Ehdr& header) {
  return std::memcmp(header.e_ident, ELFMAG, SELFMAG) == 0;
}

// False whatever is wrong: the caller's errno is the same for all.
bool read_segments(ElfFile& elf) {
  if (elf.header.e_phentsize != sizeof(Elf64_Phdr)) return false;
  size_t bytes = sizeof(Elf64_Phdr) * elf.header.e_phnum;
  if (bytes == 0 || bytes > kMaxSegmentTable) return false;
  elf.segments.resize(elf.header.e_phnum);
  return read_exactly(*elf.file, elf.header.e_phoff, elf.segments.data(), bytes).ok();
}

}  // namespace

uint64_t ElfFile::mapping_size() const {
  uint64_t low = ~uint64_t{0};
  uint64_t high = 0;
  for (const Elf64_Phdr& segment : segments) {
    if (segment.p_type != PT_LOAD) continue;
    low = std::min(low, page_down(segment.p_vaddr));
    if (segment.p_vaddr + segment.p_memsz < segment.p_vaddr) return 0;
    high = std::max(high, segment.p_vaddr + segment.p_memsz);
  }
  return high > low ? high - low : 0;
}

uint64_t ElfFile::alignment() const {
  uint64_t alignment = kPageSize;
  for (const Elf64_Phdr& segment : segments)
    if (segment.p_type == PT_LOAD && std::has_single_bit(segment.p_align))
      alignment = std::max<uint64_t>(alignment, segment.p_align);
  return alignment;
}

Result<ElfFile> read_elf_program(Ref<ExecutableFile> file) {
  ElfFile elf{std::move(file), {}, {}, std::nullopt, false};
  // A file shorter than its header reads as zeros behind its end, as in Linux's buffer.
  (void)TRY(elf.file->pread(0, std::as_writable_bytes(std::span(&elf.header, 1))));
  if (!has_magic(elf.header)) return Errno(ENOEXEC);
  if (elf.header.e_type != ET_EXEC && elf.header.e_type != ET_DYN) return Errno(ENOEXEC);
  if (elf.header.e_machine != EM_X86_64) return Errno(ENOEXEC);
  if (!read_segments(elf)) return Errno(ENOEXEC);
  for (const Elf64_Phdr& segment : elf.segments) {
    if (segment.p_type != PT_INTERP) continue;
    if (segment.p_filesz > kMaxInterpreterPath || segment.p_filesz < 2) return Errno(ENOEXEC);
    std::string path(segment.p_filesz, '\0');
    TRY(read_exactly(*elf.file, segment.p_offset, path.data(), path.size()));
    if (path.back() != '\0') return Errno(ENOEXEC);
    elf.interpreter = path.c_str();
    break;
  }
  for (const Elf64_Phdr& segment : elf.segments)
    if (segment.p_type == PT_GNU_STACK) elf.executable_stack = (segment.p_flags & PF_X) != 0;
  return elf;
}

Result<ElfFile> read_elf_interpreter(Ref<ExecutableFile> file) {
  ElfFile elf{std::move(file), {}, {}, std::nullopt, false};
  TRY(read_exactly(*elf.file, 0, &elf.header, sizeof(elf.header)));
  if (!has_magic(elf.header) || elf.header.e_machine != EM_X86_64 || !read_segments(elf))
    return Errno(ELIBBAD);
  return elf;
}

}  // namespace caisson
