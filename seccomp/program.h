// Seccomp filters as data: a list of rules with a reason each, compiled to classic BPF. seccomp(2).
//
// A program allows what a rule names and answers everything else with `otherwise`. Every program
// checks the architecture first, so int 0x80 has no way in; x32 numbers match no rule. Unit tests
// run programs through evaluate().
#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>

#include <cstdint>
#include <string_view>
#include <vector>

namespace caisson::seccomp {

// A condition on one 64-bit field of struct seccomp_data.
struct Condition {
  enum class Kind : uint8_t {
    kEqual,        // value == a
    kMaskedEqual,  // (value & b) == a
    kInRange,      // a <= value < b, where a and b - 1 share their upper 32 bits
    kAtLeast,      // value >= a, unsigned
    kBelow,        // value < a, unsigned
  };
  Kind kind;
  uint32_t offset;  // in struct seccomp_data
  uint64_t a;
  uint64_t b;
};

Condition arg_is(int index, uint64_t value);
Condition arg_masked(int index, uint64_t mask, uint64_t value);
Condition arg_at_least(int index, uint64_t value);
Condition arg_below(int index, uint64_t value);
// A 32-bit argument: the upper half is ignored, as the kernel ignores it for `int` parameters.
Condition arg32_is(int index, uint32_t value);
Condition instruction_pointer_is(uint64_t address);
Condition instruction_pointer_in(uint64_t begin, uint64_t end);

struct Rule {
  uint32_t nr;
  std::string_view reason;
  std::vector<Condition> conditions;  // all must hold
};

// `otherwise` and `bad_architecture` are SECCOMP_RET_* actions.
std::vector<sock_filter> compile(const std::vector<Rule>& rules, uint32_t otherwise,
                                 uint32_t bad_architecture);

// What the kernel's BPF machine would answer.
uint32_t evaluate(const std::vector<sock_filter>& program, const seccomp_data& data);

}  // namespace caisson::seccomp
