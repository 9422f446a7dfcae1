// VectorState: the XSAVE layout of host signal frames on this CPU, learnt from a frame of our own
// at start.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"

namespace caisson::systrap {

class VectorState {
 public:
  // Raises a signal in this thread and reads its frame. Precondition: single-threaded.
  static Result<VectorState> learn();

  size_t size() const { return initial_.size(); }
  // The state that exec(2) starts with: everything in its initial configuration.
  std::span<const std::byte> initial() const { return initial_; }
  // Makes an untrusted image one that the host's rt_sigreturn(2) accepts: known features only,
  // reserved bits clear.
  void sanitize(std::span<std::byte> image) const;

 private:
  std::vector<std::byte> initial_;
  uint64_t features_ = 0;
  uint32_t mxcsr_mask_ = 0xffff;
};

}  // namespace caisson::systrap
