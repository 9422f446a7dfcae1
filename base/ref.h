// Ref<T> and RefOrNull<T>: intrusive reference counts, thread-safe.
//
// T derives from RefCounted<T>. An object starts with one reference, which adopt_ref() takes over;
// make_ref<T>(...) does both. The last reference to go deletes the object on the releasing thread.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "base/check.h"

namespace caisson {

template <typename T>
class RefCounted {
 public:
  RefCounted(const RefCounted&) = delete;
  RefCounted& operator=(const RefCounted&) = delete;

  void ref() const {
    uint32_t before = count_.fetch_add(1, std::memory_order_relaxed);
    DCHECK(before != 0);
    (void)before;
  }
  void unref() const {
    if (count_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    // A type may tell others that it goes while it is still whole.
    if constexpr (requires(const T& object) { object.last_reference_gone(); })
      static_cast<const T*>(this)->last_reference_gone();
    delete static_cast<const T*>(this);
  }
  // Takes a reference unless the count is already zero (for look-ups in tables that hold no
  // reference).
  [[nodiscard]] bool try_ref() const {
    uint32_t count = count_.load(std::memory_order_relaxed);
    while (count != 0) {
      if (count_.compare_exchange_weak(count, count + 1, std::memory_order_acquire,
                                       std::memory_order_relaxed))
        return true;
    }
    return false;
  }
  uint32_t ref_count() const { return count_.load(std::memory_order_relaxed); }

 protected:
  RefCounted() = default;
  ~RefCounted() = default;

 private:
  mutable std::atomic<uint32_t> count_{1};
};

template <typename T>
class RefOrNull {
 public:
  RefOrNull() = default;
  RefOrNull(std::nullptr_t) {}  // NOLINT(google-explicit-constructor)
  explicit RefOrNull(T* object) : object_(object) {
    if (object_ != nullptr) object_->ref();
  }
  RefOrNull(const RefOrNull& other) : RefOrNull(other.object_) {}
  RefOrNull(RefOrNull&& other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
  template <typename U>
    requires(std::is_convertible_v<U*, T*>)
  RefOrNull(const RefOrNull<U>& other)
      : RefOrNull(other.get()) {}  // NOLINT(google-explicit-constructor)
  template <typename U>
    requires(std::is_convertible_v<U*, T*>)
  RefOrNull(RefOrNull<U>&& other) : object_(other.leak()) {}  // NOLINT(google-explicit-constructor)
  ~RefOrNull() {
    if (object_ != nullptr) object_->unref();
  }
  RefOrNull& operator=(RefOrNull other) noexcept {
    std::swap(object_, other.object_);
    return *this;
  }

  T* get() const { return object_; }
  T* operator->() const {
    DCHECK(object_ != nullptr);
    return object_;
  }
  T& operator*() const {
    DCHECK(object_ != nullptr);
    return *object_;
  }
  explicit operator bool() const { return object_ != nullptr; }
  friend bool operator==(const RefOrNull& a, const RefOrNull& b) { return a.object_ == b.object_; }
  friend bool operator==(const RefOrNull& a, const T* b) { return a.object_ == b; }

  // Gives the reference away without dropping it.
  [[nodiscard]] T* leak() { return std::exchange(object_, nullptr); }
  static RefOrNull adopt(T* object) {
    RefOrNull result;
    result.object_ = object;
    return result;
  }

 private:
  T* object_ = nullptr;
};

// Never null, except after being moved from.
template <typename T>
class Ref {
 public:
  explicit Ref(T& object) : ref_(&object) {}
  template <typename U>
    requires(std::is_convertible_v<U*, T*>)
  Ref(const Ref<U>& other) : ref_(other.or_null()) {}  // NOLINT(google-explicit-constructor)
  template <typename U>
    requires(std::is_convertible_v<U*, T*>)
  Ref(Ref<U>&& other) : ref_(std::move(other).or_null()) {}  // NOLINT(google-explicit-constructor)

  T* get() const { return ref_.get(); }
  T* operator->() const { return ref_.get(); }
  T& operator*() const { return *ref_; }
  friend bool operator==(const Ref& a, const Ref& b) { return a.ref_ == b.ref_; }

  RefOrNull<T> or_null() const& { return ref_; }
  RefOrNull<T> or_null() && { return std::move(ref_); }
  // Precondition: not null.
  static Ref from(RefOrNull<T> ref) {
    CHECK(ref);
    return Ref(std::move(ref));
  }

 private:
  explicit Ref(RefOrNull<T> ref) : ref_(std::move(ref)) {}
  RefOrNull<T> ref_;
};

template <typename T>
Ref<T> adopt_ref(T* object) {
  return Ref<T>::from(RefOrNull<T>::adopt(object));
}
template <typename T, typename... Args>
Ref<T> make_ref(Args&&... args) {
  return adopt_ref(new T(std::forward<Args>(args)...));
}

}  // namespace caisson
