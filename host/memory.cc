#include "host/memory.h"

#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>

namespace caisson::host {

namespace {

// From Linux 5.14 on; older libc headers lack it.
constexpr int kPopulateWrite = 23;
// From Linux 6.1 on.
constexpr int kCollapse = 25;
constexpr size_t kMaxTransfer = 0x40000000;

// Repeats a libc call that a signal interrupted.
template <typename F>
auto retry(F&& call) {
  for (;;) {
    auto result = call();
    if (result >= 0 || errno != EINTR) return result;
  }
}

template <typename F>
Result<void> checked(F&& call) {
  if (retry(call) < 0) return Errno(errno);
  return {};
}

}  // namespace

Result<UniqueFd> make_memory_fd(const char* name) {
  UniqueFd fd(::memfd_create(name, MFD_CLOEXEC));
  if (!fd) return Errno(errno);
  return fd;
}

Result<void> set_file_size(int fd, uint64_t size) {
  return checked([=] { return ::ftruncate(fd, static_cast<off_t>(size)); });
}

Result<uint64_t> file_size(int fd) {
  struct stat status;
  if (::fstat(fd, &status) != 0) return Errno(errno);
  return static_cast<uint64_t>(std::max<off_t>(status.st_size, 0));
}

Result<uint64_t> file_storage(int fd) {
  struct stat status;
  if (::fstat(fd, &status) != 0) return Errno(errno);
  return static_cast<uint64_t>(status.st_blocks) * 512;
}

Result<std::byte*> map_file(int fd, uint64_t offset, uint64_t length, Sharing sharing) {
  int prot = sharing == Sharing::kReadWrite ? PROT_READ | PROT_WRITE : PROT_READ;
  void* base =
      ::mmap(nullptr, length, prot, MAP_SHARED | MAP_NORESERVE, fd, static_cast<off_t>(offset));
  if (base == MAP_FAILED) return Errno(errno);
  return static_cast<std::byte*>(base);
}

void unmap(std::byte* base, uint64_t length) { ::munmap(base, length); }

void exclude_from_dumps(std::byte* base, uint64_t length) {
  ::madvise(base, length, MADV_DONTDUMP);
}

Result<void> populate(std::byte* base, uint64_t length) {
  return checked([=] { return ::madvise(base, length, kPopulateWrite); });
}

bool has_huge_pages() {
  constexpr uint64_t kSize = 4096;
  void* at = ::mmap(nullptr, kSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) return false;
  bool has = ::madvise(at, kSize, MADV_HUGEPAGE) == 0;
  ::munmap(at, kSize);
  return has;
}

void want_huge_pages(std::byte* base, uint64_t length) { ::madvise(base, length, MADV_HUGEPAGE); }

void collapse(std::byte* base, uint64_t length) { ::madvise(base, length, kCollapse); }

std::optional<uint64_t> free_storage(int fd) {
  struct statfs status;
  if (::fstatfs(fd, &status) != 0 || status.f_blocks == 0) return std::nullopt;
  return static_cast<uint64_t>(status.f_bavail) * static_cast<uint64_t>(status.f_bsize);
}

Result<void> residency(const std::byte* base, uint64_t length, uint8_t* pages) {
  return checked([=] { return ::mincore(const_cast<std::byte*>(base), length, pages); });
}

Result<void> punch_hole(int fd, uint64_t offset, uint64_t length) {
  return checked([=] {
    return ::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                       static_cast<off_t>(length));
  });
}

Result<uint64_t> seek_data(int fd, uint64_t offset) {
  off_t found = ::lseek(fd, static_cast<off_t>(offset), SEEK_DATA);
  if (found < 0) return Errno(errno);
  return static_cast<uint64_t>(found);
}

Result<uint64_t> seek_hole(int fd, uint64_t offset) {
  off_t found = ::lseek(fd, static_cast<off_t>(offset), SEEK_HOLE);
  if (found < 0) return Errno(errno);
  return static_cast<uint64_t>(found);
}

Result<void> write_file(int fd, uint64_t offset, std::span<const std::byte> data) {
  while (!data.empty()) {
    ssize_t n = retry([&] {
      return ::pwrite(fd, data.data(), std::min(data.size(), kMaxTransfer),
                      static_cast<off_t>(offset));
    });
    if (n < 0) return Errno(errno);
    if (n == 0) return Errno(EIO);
    offset += static_cast<uint64_t>(n);
    data = data.subspan(static_cast<size_t>(n));
  }
  return {};
}

Result<size_t> read_file(int fd, uint64_t offset, std::span<std::byte> out) {
  size_t done = 0;
  while (done < out.size()) {
    ssize_t n = retry([&] {
      return ::pread(fd, out.data() + done, std::min(out.size() - done, kMaxTransfer),
                     static_cast<off_t>(offset + done));
    });
    if (n < 0) return Errno(errno);
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  return done;
}

void fill_random(std::span<std::byte> out) {
  while (!out.empty()) {
    ssize_t n = ::getrandom(out.data(), out.size(), 0);
    if (n > 0) out = out.subspan(static_cast<size_t>(n));
  }
}

uint64_t auxiliary_value(uint64_t type) { return ::getauxval(type); }

uint64_t physical_memory() {
  return static_cast<uint64_t>(::sysconf(_SC_PHYS_PAGES)) *
         static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

}  // namespace caisson::host
