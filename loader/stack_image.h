// The memory that a new program finds at the top of its stack: strings, argument and environment
// vectors, auxiliary vector. Linux: create_elf_tables().
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "mm/memory_manager.h"

namespace caisson {

struct StackContents {
  std::string filename;  // AT_EXECFN
  std::vector<std::string> arguments;
  std::vector<std::string> environment;
  // Without AT_EXECFN, AT_RANDOM, AT_PLATFORM and AT_NULL, which point into the stack.
  std::vector<std::pair<uint64_t, uint64_t>> auxv;
};

struct StackImage {
  GuestAddr stack_pointer = 0;
  std::vector<std::byte> bytes;  // from the stack pointer to the stack's end
  GuestAddr arguments_start = 0, arguments_end = 0;
  GuestAddr environment_start = 0, environment_end = 0;
  std::vector<uint64_t> auxv;
};

// `top` is the end of the stack; `randomize` moves the stack pointer by up to 8 KiB.
StackImage build_stack(const StackContents& contents, GuestAddr top, bool randomize);

}  // namespace caisson
