// The places in a file's text where a system call is made in one of the ways that
// platform::CallShape has, as far as that is certain.
//
// Certain means: in a function that .eh_frame describes, found by decoding from its start, and
// nothing in that function jumps into the middle. The file is untrusted: a wrong answer harms only
// those who execute it. Linux Standard Base, "Exception Frames"; System V ABI, DWARF pointer
// encodings.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "mm/mappable.h"

namespace caisson {

struct CallSite {
  uint64_t offset = 0;  // in the file, of the first instruction
  platform::CallShape shape = platform::CallShape::kMov;
  // The number; kCompare: what the result is compared with.
  uint32_t value = 0;
};

// Whole pages of one executable segment, and the calls in it, by offset.
struct TextCalls {
  uint64_t offset = 0;  // in the file, multiple of kPageSize
  std::vector<std::byte> text;
  std::vector<CallSite> sites;
};

// The segment of `file` that `offset` lies in. ENOEXEC: the file has no such segment, or is not as
// link editors make them; EFBIG: the segment is too large to be worth it; and what reading gives.
Result<TextCalls> find_call_sites(Mappable& file, uint64_t offset);

}  // namespace caisson
