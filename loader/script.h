// The first line of a #! script. Linux: fs/binfmt_script.c.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>

#include "base/result.h"

namespace caisson {

// Linux's BINPRM_BUF_SIZE: what exec looks at to know a file.
inline constexpr size_t kFileHeadSize = 256;

struct ScriptLine {
  std::string interpreter;
  std::optional<std::string> argument;  // everything after the interpreter, in one
};

// `head` is the file's beginning, filled up with zeros. ENOEXEC if it is not a script.
Result<ScriptLine> parse_script(std::span<const char, kFileHeadSize> head);

}  // namespace caisson
