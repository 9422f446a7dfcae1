#include "platform/systrap/stub_image.h"

#include <cstring>

#include "base/check.h"

extern "C" {
extern const std::byte caisson_stub_image[];
extern const std::byte caisson_stub_image_end[];
}

namespace caisson::systrap {

std::span<const std::byte> stub_image() {
  return {caisson_stub_image, static_cast<size_t>(caisson_stub_image_end - caisson_stub_image)};
}

const StubHeader& stub_header() {
  static const StubHeader header = [] {
    StubHeader copy;
    memcpy(&copy, caisson_stub_image, sizeof copy);
    CHECK(memcmp(copy.magic, "CAISTUB1", sizeof copy.magic) == 0);
    return copy;
  }();
  return header;
}

}  // namespace caisson::systrap
