// Sizes on the command line: bytes, or with a suffix K, M, G or T (powers of 1024).
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace caisson::cli {

// nullopt: not a size, or above 2^63 bytes.
std::optional<uint64_t> parse_size(std::string_view text);

}  // namespace caisson::cli
