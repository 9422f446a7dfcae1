// Typed addresses of guest memory. They have no dereference operator: CurrentTask and MemoryManager
// copy.
//
// UserIn<T> is read by a call, UserOut<T> written, UserInOut<T> both; T is an ABI type (trivially
// copyable, no padding that would leak). A null pointer is an ordinary address here: what it means
// is the handler's business.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace caisson {

using GuestAddr = uint64_t;

template <typename T>
class UserPointer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  using Type = T;
  constexpr UserPointer() = default;
  constexpr explicit UserPointer(GuestAddr addr) : addr_(addr) {}
  constexpr GuestAddr addr() const { return addr_; }
  constexpr bool is_null() const { return addr_ == 0; }
  // The address of element `index`; wraps, which the copy then refuses.
  constexpr GuestAddr addr_of(uint64_t index) const { return addr_ + index * sizeof(T); }

 private:
  GuestAddr addr_ = 0;
};

template <typename T>
struct UserIn : UserPointer<T> {
  using UserPointer<T>::UserPointer;
};
template <typename T>
struct UserOut : UserPointer<T> {
  using UserPointer<T>::UserPointer;
};
template <typename T>
struct UserInOut : UserPointer<T> {
  using UserPointer<T>::UserPointer;
};
// A NUL-terminated string, such as a path.
struct UserCString : UserPointer<char> {
  using UserPointer<char>::UserPointer;
};

}  // namespace caisson
