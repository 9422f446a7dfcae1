// Result<T>: a value or an Errno. TRY(expr) unwraps it or returns the error from the enclosing
// function.
//
// [[nodiscard]], no exceptions, move-friendly. Result<void> is success or an Errno. Functions whose
// errors carry a sentence for a person (runtime/, embed/) use Error (base/error.h) through
// Result<T, Error>.
#pragma once

#include <optional>
#include <type_traits>
#include <utility>
#include <variant>

#include "base/check.h"
#include "base/errno.h"

namespace caisson {

template <typename T, typename E = Errno>
class [[nodiscard]] Result {
  static_assert(!std::is_reference_v<T>, "return a pointer or a reference_wrapper");

 public:
  using Value = T;
  using ErrorType = E;

  // NOLINTBEGIN(google-explicit-constructor): both conversions are the point of the type.
  Result(E error) : state_(std::in_place_index<1>, std::move(error)) {}
  template <typename U = T>
    requires(std::is_constructible_v<T, U &&> && !std::is_same_v<std::remove_cvref_t<U>, Result> &&
             !std::is_same_v<std::remove_cvref_t<U>, E>)
  Result(U&& value) : state_(std::in_place_index<0>, std::forward<U>(value)) {}
  // NOLINTEND(google-explicit-constructor)

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  const E& error() const {
    CHECK(!ok());
    return *std::get_if<1>(&state_);
  }
  T& value() & {
    CHECK(ok());
    return *std::get_if<0>(&state_);
  }
  const T& value() const& {
    CHECK(ok());
    return *std::get_if<0>(&state_);
  }
  T&& value() && {
    CHECK(ok());
    return std::move(*std::get_if<0>(&state_));
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  template <typename U>
  T value_or(U&& otherwise) && {
    return ok() ? std::move(*this).value() : static_cast<T>(std::forward<U>(otherwise));
  }

  // For TRY only.
  T release_value() { return std::move(*this).value(); }

 private:
  std::variant<T, E> state_;
};

template <typename E>
class [[nodiscard]] Result<void, E> {
 public:
  using Value = void;
  using ErrorType = E;

  Result() = default;
  Result(E error) : error_(std::move(error)) {}  // NOLINT(google-explicit-constructor)

  bool ok() const { return !error_.has_value(); }
  explicit operator bool() const { return ok(); }
  const E& error() const {
    CHECK(error_.has_value());
    return *error_;
  }
  void release_value() {}

 private:
  std::optional<E> error_;
};

}  // namespace caisson

// Evaluates a Result; returns its error from the enclosing function, or yields its value.
#define TRY(...)                        \
  __extension__({                       \
    auto&& try_result_ = (__VA_ARGS__); \
    if (!try_result_.ok()) [[unlikely]] \
      return try_result_.error();       \
    try_result_.release_value();        \
  })

// Unwraps a Result whose failure would be our own bug.
#define MUST(...)                        \
  __extension__({                        \
    auto&& must_result_ = (__VA_ARGS__); \
    CHECK(must_result_.ok());            \
    must_result_.release_value();        \
  })
