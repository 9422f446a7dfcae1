// full<>, partial<> and refused(): the lines of the system call table.
//
// full<sys_read>(0, "read") deduces from the handler's type how the argument registers are decoded
// (the thunk only narrows and sign-extends; it never fails), what strace prints, and that there are
// at most six arguments. A handler is `SyscallResult sys_name(CurrentTask&, typed args...)`, its
// parameters the man page's in the man page's order: integers, enums, UserIn/UserOut/UserInOut<T>,
// UserCString.
#pragma once

#include <span>
#include <type_traits>
#include <utility>

#include "abi/user_ptr.h"
#include "kernel/syscall_table.h"

namespace caisson {

namespace table_detail {

template <typename T>
struct IsUserPointer : std::false_type {};
template <typename T>
struct IsUserPointer<UserIn<T>> : std::true_type {};
template <typename T>
struct IsUserPointer<UserOut<T>> : std::true_type {};
template <typename T>
struct IsUserPointer<UserInOut<T>> : std::true_type {};
template <>
struct IsUserPointer<UserCString> : std::true_type {};

template <typename T>
constexpr T decode(uint64_t value) {
  if constexpr (IsUserPointer<T>::value) {
    return T(value);
  } else {
    static_assert(std::is_integral_v<T> || std::is_enum_v<T>, "not a system call argument type");
    static_assert(!std::is_same_v<T, bool>, "a register is not a bool");
    return static_cast<T>(value);
  }
}

template <typename T>
struct KindOf {
  static constexpr ArgKind value = [] {
    if constexpr (std::is_enum_v<T>) {
      return KindOf<std::underlying_type_t<T>>::value;
    } else {
      constexpr bool is_signed = std::is_signed_v<T>;
      if (sizeof(T) <= 4) return is_signed ? ArgKind::kSigned32 : ArgKind::kUnsigned32;
      return is_signed ? ArgKind::kSigned64 : ArgKind::kUnsigned64;
    }
  }();
};
template <typename T>
struct KindOf<UserIn<T>> {
  static constexpr ArgKind value = ArgKind::kIn;
};
template <typename T>
struct KindOf<UserOut<T>> {
  static constexpr ArgKind value = ArgKind::kOut;
};
template <typename T>
struct KindOf<UserInOut<T>> {
  static constexpr ArgKind value = ArgKind::kInOut;
};
template <>
struct KindOf<UserCString> {
  static constexpr ArgKind value = ArgKind::kString;
};

template <auto Handler, typename... Args>
struct Thunk {
  static_assert(sizeof...(Args) <= 6, "a system call has at most six arguments");
  static SyscallResult call(CurrentTask& task, const Registers& regs) {
    return apply(task, regs, std::index_sequence_for<Args...>{});
  }
  template <size_t... Index>
  static SyscallResult apply(CurrentTask& task, [[maybe_unused]] const Registers& regs,
                             std::index_sequence<Index...>) {
    return Handler(task, decode<Args>(regs.syscall_arg(Index))...);
  }
};

template <auto Handler, typename... Args>
constexpr SyscallEntry make_entry(SyscallResult (*)(CurrentTask&, Args...), uint16_t number,
                                  const char* name, Support support, const char* note) {
  SyscallEntry entry;
  entry.number = number;
  entry.name = name;
  entry.support = support;
  entry.note = note;
  entry.call = &Thunk<Handler, Args...>::call;
  entry.arg_count = sizeof...(Args);
  size_t index = 0;
  ((entry.args[index++] = KindOf<Args>::value), ...);
  return entry;
}

template <int kErrno>
SyscallResult refuse(CurrentTask&, const Registers&) {
  return Errno(kErrno);
}

}  // namespace table_detail

template <auto Handler>
constexpr SyscallEntry full(uint16_t number, const char* name) {
  return table_detail::make_entry<Handler>(Handler, number, name, Support::kFull, "");
}
template <auto Handler>
constexpr SyscallEntry partial(uint16_t number, const char* name, const char* note) {
  return table_detail::make_entry<Handler>(Handler, number, name, Support::kPartial, note);
}
// Answered with kErrno by decision.
template <int kErrno>
constexpr SyscallEntry refused(uint16_t number, const char* name, const char* note) {
  SyscallEntry entry;
  entry.number = number;
  entry.name = name;
  entry.support = Support::kRefused;
  entry.note = note;
  entry.call = &table_detail::refuse<kErrno>;
  return entry;
}

// Every call that exists, sorted by number.
std::span<const SyscallEntry> amd64_syscalls();

}  // namespace caisson
