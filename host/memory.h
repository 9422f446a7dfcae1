// Host calls on memory and on the files behind it, as mm makes them. Errors are the host's errno.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/result.h"
#include "base/unique_fd.h"

namespace caisson::host {

// A memfd, closed on exec.
Result<UniqueFd> make_memory_fd(const char* name);
Result<void> set_file_size(int fd, uint64_t size);
Result<uint64_t> file_size(int fd);
// Bytes of storage that the file takes.
Result<uint64_t> file_storage(int fd);

// Bytes that the file's file system has left; no value: it has no limit.
std::optional<uint64_t> free_storage(int fd);

// Maps [offset, offset + length) of a file, MAP_SHARED | MAP_NORESERVE, anywhere.
enum class Sharing : uint8_t { kReadOnly, kReadWrite };
Result<std::byte*> map_file(int fd, uint64_t offset, uint64_t length, Sharing sharing);
void unmap(std::byte* base, uint64_t length);
// Keeps the range out of core dumps.
void exclude_from_dumps(std::byte* base, uint64_t length);
// Gives every page of a writable mapping memory now; an error instead of SIGBUS if there is none.
Result<void> populate(std::byte* base, uint64_t length);
// Whether madvise(2) knows MADV_HUGEPAGE.
bool has_huge_pages();
// Touches of the range shall bring huge pages where they can; only a hint.
void want_huge_pages(std::byte* base, uint64_t length);
// Makes a range of a shared mapping one huge page; only a hint.
void collapse(std::byte* base, uint64_t length);
// One byte a page, bit 0: in memory.
Result<void> residency(const std::byte* base, uint64_t length, uint8_t* pages);

// Removes the pages of a range, which reads as zeros then.
Result<void> punch_hole(int fd, uint64_t offset, uint64_t length);
// The next offset at or after `offset` that has data, or that has none; ENXIO if there is none.
Result<uint64_t> seek_data(int fd, uint64_t offset);
Result<uint64_t> seek_hole(int fd, uint64_t offset);
// Whole transfers; read_file() is short at the end of the file only.
Result<void> write_file(int fd, uint64_t offset, std::span<const std::byte> data);
Result<size_t> read_file(int fd, uint64_t offset, std::span<std::byte> out);

void fill_random(std::span<std::byte> out);
// getauxval(3) of this process, 0 if the host does not tell.
uint64_t auxiliary_value(uint64_t type);
uint64_t physical_memory();

}  // namespace caisson::host
