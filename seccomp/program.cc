#include "seccomp/program.h"

#include <linux/audit.h>

#include <cstddef>
#include <cstring>

#include "base/check.h"

namespace caisson::seccomp {
namespace {

constexpr uint32_t arg_offset(int index) {
  return static_cast<uint32_t>(offsetof(seccomp_data, args) + static_cast<size_t>(index) * 8);
}

sock_filter load(uint32_t offset) { return BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset); }

// Emits code for one condition. Jumps that leave the rule are recorded in `exits` and patched to
// its end.
class RuleWriter {
 public:
  explicit RuleWriter(std::vector<sock_filter>& out) : out_(out) {}

  void condition(const Condition& c) {
    auto low = [](uint64_t v) { return static_cast<uint32_t>(v); };
    auto high = [](uint64_t v) { return static_cast<uint32_t>(v >> 32); };
    switch (c.kind) {
      case Condition::Kind::kEqual:
        out_.push_back(load(c.offset + 4));
        require(BPF_JEQ, high(c.a));
        out_.push_back(load(c.offset));
        require(BPF_JEQ, low(c.a));
        break;
      case Condition::Kind::kMaskedEqual:
        if (high(c.b) != 0) {
          out_.push_back(load(c.offset + 4));
          out_.push_back(BPF_STMT(BPF_ALU | BPF_AND | BPF_K, high(c.b)));
          require(BPF_JEQ, high(c.a));
        }
        out_.push_back(load(c.offset));
        if (low(c.b) != 0xffffffffu) out_.push_back(BPF_STMT(BPF_ALU | BPF_AND | BPF_K, low(c.b)));
        require(BPF_JEQ, low(c.a));
        break;
      case Condition::Kind::kInRange:
        CHECK(c.a < c.b && high(c.a) == high(c.b - 1));
        out_.push_back(load(c.offset + 4));
        require(BPF_JEQ, high(c.a));
        out_.push_back(load(c.offset));
        require(BPF_JGE, low(c.a));
        refuse(BPF_JGT, low(c.b - 1));
        break;
      case Condition::Kind::kAtLeast:
        out_.push_back(load(c.offset + 4));
        // high > a.high: holds, skip the rest; high < a.high: refused.
        out_.push_back(BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, high(c.a), 3, 0));
        require(BPF_JEQ, high(c.a));
        out_.push_back(load(c.offset));
        require(BPF_JGE, low(c.a));
        break;
      case Condition::Kind::kBelow:
        out_.push_back(load(c.offset + 4));
        out_.push_back(BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, high(c.a), 0, 3));
        require(BPF_JEQ, high(c.a));
        out_.push_back(load(c.offset));
        refuse(BPF_JGE, low(c.a));
        break;
    }
  }

  void require(uint16_t comparison, uint32_t value) {
    exits_.push_back({out_.size(), false});
    out_.push_back(BPF_JUMP(static_cast<uint16_t>(BPF_JMP | comparison | BPF_K), value, 0, 0));
  }
  void refuse(uint16_t comparison, uint32_t value) {
    exits_.push_back({out_.size(), true});
    out_.push_back(BPF_JUMP(static_cast<uint16_t>(BPF_JMP | comparison | BPF_K), value, 0, 0));
  }
  void finish() {
    for (const Exit& exit : exits_) {
      size_t distance = out_.size() - exit.at - 1;
      CHECK(distance < 256);
      (exit.when_true ? out_[exit.at].jt : out_[exit.at].jf) = static_cast<uint8_t>(distance);
    }
  }

 private:
  struct Exit {
    size_t at;
    bool when_true;
  };
  std::vector<sock_filter>& out_;
  std::vector<Exit> exits_;
};

}  // namespace

Condition arg_is(int index, uint64_t value) {
  return {Condition::Kind::kEqual, arg_offset(index), value, 0};
}
Condition arg_masked(int index, uint64_t mask, uint64_t value) {
  return {Condition::Kind::kMaskedEqual, arg_offset(index), value, mask};
}
Condition arg32_is(int index, uint32_t value) { return arg_masked(index, 0xffffffffu, value); }
Condition arg_at_least(int index, uint64_t value) {
  return {Condition::Kind::kAtLeast, arg_offset(index), value, 0};
}
Condition arg_below(int index, uint64_t value) {
  return {Condition::Kind::kBelow, arg_offset(index), value, 0};
}
Condition instruction_pointer_is(uint64_t address) {
  return {Condition::Kind::kEqual, offsetof(seccomp_data, instruction_pointer), address, 0};
}
Condition instruction_pointer_in(uint64_t begin, uint64_t end) {
  return {Condition::Kind::kInRange, offsetof(seccomp_data, instruction_pointer), begin, end};
}

std::vector<sock_filter> compile(const std::vector<Rule>& rules, uint32_t otherwise,
                                 uint32_t bad_architecture) {
  std::vector<sock_filter> out;
  out.push_back(load(offsetof(seccomp_data, arch)));
  out.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0));
  out.push_back(BPF_STMT(BPF_RET | BPF_K, bad_architecture));
  for (const Rule& rule : rules) {
    RuleWriter writer(out);
    out.push_back(load(offsetof(seccomp_data, nr)));
    writer.require(BPF_JEQ, rule.nr);
    for (const Condition& condition : rule.conditions) writer.condition(condition);
    out.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    writer.finish();
  }
  out.push_back(BPF_STMT(BPF_RET | BPF_K, otherwise));
  CHECK(out.size() <= BPF_MAXINSNS);
  return out;
}

uint32_t evaluate(const std::vector<sock_filter>& program, const seccomp_data& data) {
  uint32_t accumulator = 0;
  size_t pc = 0;
  while (pc < program.size()) {
    const sock_filter& insn = program[pc++];
    switch (insn.code) {
      case BPF_LD | BPF_W | BPF_ABS:
        CHECK(insn.k % 4 == 0 && insn.k + 4 <= sizeof data);
        memcpy(&accumulator, reinterpret_cast<const char*>(&data) + insn.k, 4);
        break;
      case BPF_ALU | BPF_AND | BPF_K:
        accumulator &= insn.k;
        break;
      case BPF_JMP | BPF_JEQ | BPF_K:
        pc += accumulator == insn.k ? insn.jt : insn.jf;
        break;
      case BPF_JMP | BPF_JGE | BPF_K:
        pc += accumulator >= insn.k ? insn.jt : insn.jf;
        break;
      case BPF_JMP | BPF_JGT | BPF_K:
        pc += accumulator > insn.k ? insn.jt : insn.jf;
        break;
      case BPF_RET | BPF_K:
        return insn.k;
      default:
        CHECK(false);
    }
  }
  return SECCOMP_RET_KILL_PROCESS;
}

}  // namespace caisson::seccomp
