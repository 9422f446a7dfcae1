// How long an x86-64 instruction is, and where it branches to. Enough to walk through the text of a
// function; its test compares it with Zydis over whole libraries. (Zydis itself is not linked:
// Debian has no static library of it.) Intel SDM volume 2, chapter 2 and appendix A.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace caisson {

struct InstructionShape {
  size_t length = 0;  // bytes, 1 to 15
  // Of a direct jump or call: the target's distance from the end of the instruction.
  std::optional<int32_t> branch;
};

// The instruction that `text` begins with; nothing if it is cut off, invalid in 64-bit mode or of
// an extension not known here.
std::optional<InstructionShape> decode_instruction(std::span<const std::byte> text);

}  // namespace caisson
