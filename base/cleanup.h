// Cleanup: runs a function at the end of the scope unless cancelled.
#pragma once

#include <utility>

namespace caisson {

template <typename F>
class [[nodiscard]] Cleanup {
 public:
  explicit Cleanup(F function) : function_(std::move(function)) {}
  Cleanup(const Cleanup&) = delete;
  Cleanup& operator=(const Cleanup&) = delete;
  ~Cleanup() {
    if (armed_) function_();
  }
  void cancel() { armed_ = false; }

 private:
  F function_;
  bool armed_ = true;
};

}  // namespace caisson
