// Mappings for tests. GuardedPages are readable and writable pages between two inaccessible ones:
// pointers one byte before the first and one byte after the last fault.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstring>
#include <string_view>
#include <utility>

#include "tests/util/must.h"

namespace caisson::test {

inline constexpr size_t kPageSize = 4096;
// A pointer that no process can have mapped.
inline void* bad_pointer() { return reinterpret_cast<void*>(0xdead'0000'0000'0000ULL); }
template <typename T>
T* bad_pointer_to() {
  return static_cast<T*>(bad_pointer());
}

class Mapping {
 public:
  static Mapping anonymous(size_t bytes, int protection = PROT_READ | PROT_WRITE,
                           int flags = MAP_PRIVATE) {
    return map(bytes, protection, flags | MAP_ANONYMOUS, -1, 0);
  }
  static Mapping shared(size_t bytes) {
    return anonymous(bytes, PROT_READ | PROT_WRITE, MAP_SHARED);
  }
  static Mapping map(size_t bytes, int protection, int flags, int fd, off_t offset) {
    void* address = mmap(nullptr, bytes, protection, flags, fd, offset);
    if (address == MAP_FAILED) must(-1, "mmap");
    return Mapping(static_cast<char*>(address), bytes);
  }
  Mapping(Mapping&& other) noexcept
      : address_(std::exchange(other.address_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Mapping& operator=(Mapping&&) = delete;
  ~Mapping() {
    if (address_ != nullptr) munmap(address_, size_);
  }

  char* address() const { return address_; }
  char* page(size_t index) const { return address_ + index * kPageSize; }
  char* end() const { return address_ + size_; }
  size_t size() const { return size_; }
  template <typename T>
  T* as(size_t offset = 0) const {
    return reinterpret_cast<T*>(address_ + offset);
  }

 private:
  Mapping(char* address, size_t size) : address_(address), size_(size) {}

  char* address_;
  size_t size_;
};

class GuardedPages {
 public:
  explicit GuardedPages(size_t pages = 1)
      : mapping_(Mapping::anonymous((pages + 2) * kPageSize)), size_(pages * kPageSize) {
    must(mprotect(mapping_.address(), kPageSize, PROT_NONE), "mprotect");
    must(mprotect(end(), kPageSize, PROT_NONE), "mprotect");
  }
  char* begin() const { return mapping_.address() + kPageSize; }
  char* end() const { return begin() + size_; }
  size_t size() const { return size_; }
  // The last `bytes` bytes before the guard.
  char* last(size_t bytes) const { return end() - bytes; }
  template <typename T>
  T* last() const {
    return reinterpret_cast<T*>(end() - sizeof(T));
  }
  // Like last<T>() but its last byte lies in the guard.
  template <typename T>
  T* one_past() const {
    return reinterpret_cast<T*>(end() - sizeof(T) + 1);
  }
  // Its first byte lies in the guard before.
  template <typename T>
  T* one_before() const {
    return reinterpret_cast<T*>(begin() - 1);
  }
  // The string, ending right before the guard.
  char* put_string(std::string_view text) const {
    char* at = end() - text.size() - 1;
    std::memcpy(at, text.data(), text.size());
    at[text.size()] = 0;
    return at;
  }
  // The string without its terminator, ending right before the guard.
  char* put_unterminated(std::string_view text) const {
    char* at = end() - text.size();
    std::memcpy(at, text.data(), text.size());
    return at;
  }

 private:
  Mapping mapping_;
  size_t size_;
};

}  // namespace caisson::test
