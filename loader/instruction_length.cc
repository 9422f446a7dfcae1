#include "loader/instruction_length.h"

#include <cstring>

namespace caisson {
namespace {

constexpr size_t kMaxLength = 15;

// What follows an opcode.
enum Operands : uint8_t {
  kNone = 0,
  kModRm = 1,
  kImm8 = 2,
  kImmZ = 4,  // 4 bytes, or 2 with an operand-size prefix
  kImm16 = 8,
  kBranch8 = 16,
  kBranch32 = 32,
  kSpecial = 64,  // decided where it is decoded
  kInvalid = 128,
};

uint8_t one_byte_operands(uint8_t op) {
  if (op < 0x40) {
    switch (op & 7) {
      case 4:
        return kImm8;
      case 5:
        return kImmZ;
      case 6:
      case 7:
        return kInvalid;
      default:
        return kModRm;
    }
  }
  if (op >= 0x50 && op <= 0x5f) return kNone;
  if (op >= 0x70 && op <= 0x7f) return kBranch8;
  if (op >= 0x84 && op <= 0x8e) return kModRm;
  if (op >= 0xb0 && op <= 0xb7) return kImm8;
  if (op >= 0xb8 && op <= 0xbf) return kSpecial;
  if (op >= 0xd8 && op <= 0xdf) return kModRm;
  switch (op) {
    case 0x63:
    case 0xd0:
    case 0xd1:
    case 0xd2:
    case 0xd3:
    case 0xfe:
    case 0xff:
      return kModRm;
    case 0x68:
    case 0xa9:
      return kImmZ;
    case 0x69:
    case 0x81:
      return kModRm | kImmZ;
    case 0x6a:
    case 0xa8:
    case 0xcd:
    case 0xe4:
    case 0xe5:
    case 0xe6:
    case 0xe7:
      return kImm8;
    case 0x6b:
    case 0x80:
    case 0x83:
    case 0xc0:
    case 0xc1:
    case 0xc6:
      return kModRm | kImm8;
    case 0xa0:
    case 0xa1:
    case 0xa2:
    case 0xa3:
    case 0x8f:
    case 0xc7:
    case 0xf6:
    case 0xf7:
      return kSpecial;
    case 0xc2:
    case 0xca:
      return kImm16;
    case 0xc8:
      return kImm16 | kImm8;
    case 0xe0:
    case 0xe1:
    case 0xe2:
    case 0xe3:
    case 0xeb:
      return kBranch8;
    case 0xe8:
    case 0xe9:
      return kBranch32;
    case 0x60:
    case 0x61:
    case 0x62:
    case 0x82:
    case 0x9a:
    case 0xc4:
    case 0xc5:
    case 0xce:
    case 0xd4:
    case 0xd5:
    case 0xd6:
    case 0xea:
      return kInvalid;
    default:
      return kNone;
  }
}

// The map behind 0f; map 1 of VEX and EVEX prefixes.
uint8_t two_byte_operands(uint8_t op) {
  if (op >= 0x80 && op <= 0x8f) return kBranch32;
  if (op >= 0xc8 && op <= 0xcf) return kNone;
  if (op >= 0x30 && op <= 0x35) return kNone;
  switch (op) {
    case 0x05:
    case 0x06:
    case 0x07:
    case 0x08:
    case 0x09:
    case 0x0b:
    case 0x0e:
    case 0x37:
    case 0x77:
    case 0xa0:
    case 0xa1:
    case 0xa2:
    case 0xa8:
    case 0xa9:
    case 0xaa:
      return kNone;
    case 0x0f:
    case 0x70:
    case 0x71:
    case 0x72:
    case 0x73:
    case 0xa4:
    case 0xac:
    case 0xba:
    case 0xc2:
    case 0xc4:
    case 0xc5:
    case 0xc6:
      return kModRm | kImm8;
    case 0x04:
    case 0x0a:
    case 0x0c:
    case 0x20:  // control and debug registers
    case 0x21:
    case 0x22:
    case 0x23:
    case 0x24:
    case 0x25:
    case 0x26:
    case 0x27:
    case 0x36:
    case 0x39:
    case 0x3b:
    case 0x3c:
    case 0x3d:
    case 0x3e:
    case 0x3f:
    case 0x78:  // of AMD's SSE4a and VMX: two shapes
    case 0x79:
      return kInvalid;
    default:
      return kModRm;
  }
}

class Decoder {
 public:
  explicit Decoder(std::span<const std::byte> text) : text_(text) {}

  std::optional<InstructionShape> run() {
    uint8_t op = next();
    for (; is_prefix(op); op = next()) {
      if (op == 0x66) operand16_ = true;
      if (op == 0x67) address32_ = true;
      if (at_ >= kMaxLength) return std::nullopt;
    }
    if (op == 0xc5) {
      (void)next();
      return vector_map(1);
    }
    if (op == 0xc4) {
      uint8_t map = next() & 0x1f;
      (void)next();
      return vector_map(map);
    }
    if (op == 0x62) {
      uint8_t map = next() & 7;
      at_ += 2;
      return vector_map(map);
    }
    bool wide = false;
    if ((op & 0xf0) == 0x40) {
      wide = (op & 8) != 0;
      op = next();
      if (is_prefix(op) || (op & 0xf0) == 0x40) return std::nullopt;  // it would not count
      if (wide) operand16_ = false;
    }
    if (op == 0x0f) {
      op = next();
      if (op == 0x38) {
        (void)next();
        return finish(kModRm);
      }
      if (op == 0x3a) {
        (void)next();
        return finish(kModRm | kImm8);
      }
      return finish(two_byte_operands(op));
    }
    uint8_t operands = one_byte_operands(op);
    if (operands != kSpecial) return finish(operands);
    if (op >= 0xb8 && op <= 0xbf) {
      if (!wide) return finish(kImmZ);
      at_ += 8;
      return finish(kNone);
    }
    if (op >= 0xa0 && op <= 0xa3) {
      at_ += address32_ ? 4 : 8;
      return finish(kNone);
    }
    if (op == 0xc7) {
      if (peek() != 0xf8) return finish(kModRm | kImmZ);
      (void)next();  // xbegin
      return operand16_ ? std::nullopt : finish(kBranch32);
    }
    // 8f, f6, f7: by the middle field of the ModRM byte.
    uint8_t field = peek() >> 3 & 7;
    if (op == 0x8f) return finish(field == 0 ? kModRm : kInvalid);
    if (field > 1) return finish(kModRm);
    return finish(kModRm | (op == 0xf6 ? kImm8 : kImmZ));
  }

 private:
  static bool is_prefix(uint8_t byte) {
    switch (byte) {
      case 0x26:
      case 0x2e:
      case 0x36:
      case 0x3e:
      case 0x64:
      case 0x65:
      case 0x66:
      case 0x67:
      case 0xf0:
      case 0xf2:
      case 0xf3:
        return true;
      default:
        return false;
    }
  }

  uint8_t peek() const { return at_ < text_.size() ? static_cast<uint8_t>(text_[at_]) : 0; }
  uint8_t next() {
    uint8_t byte = peek();
    ++at_;
    return byte;
  }

  std::optional<InstructionShape> vector_map(uint8_t map) {
    uint8_t op = next();
    switch (map) {
      case 1: {
        uint8_t operands = two_byte_operands(op);
        return finish(operands == kBranch32 ? uint8_t{kInvalid} : operands);
      }
      case 2:
      case 5:
      case 6:
        return finish(kModRm);
      case 3:
        return finish(kModRm | kImm8);
      default:
        return std::nullopt;
    }
  }

  void skip_memory_operand() {
    uint8_t modrm = next();
    uint8_t mod = modrm >> 6;
    if (mod == 3) return;
    bool has_disp32 = mod == 2 || (mod == 0 && (modrm & 7) == 5);
    if ((modrm & 7) == 4) {
      uint8_t base = next() & 7;
      has_disp32 |= mod == 0 && base == 5;
    }
    if (has_disp32) {
      at_ += 4;
    } else if (mod == 1) {
      at_ += 1;
    }
  }

  std::optional<InstructionShape> finish(uint8_t operands) {
    if ((operands & kInvalid) != 0) return std::nullopt;
    if ((operands & kModRm) != 0) skip_memory_operand();
    if ((operands & kImm8) != 0) at_ += 1;
    if ((operands & kImm16) != 0) at_ += 2;
    if ((operands & kImmZ) != 0) at_ += operand16_ ? 2 : 4;
    if ((operands & kBranch8) != 0) at_ += 1;
    if ((operands & kBranch32) != 0) at_ += 4;
    if (at_ > text_.size() || at_ > kMaxLength) return std::nullopt;
    InstructionShape shape{at_, std::nullopt};
    if ((operands & kBranch8) != 0) shape.branch = static_cast<int8_t>(text_[at_ - 1]);
    if ((operands & kBranch32) != 0) {
      int32_t distance;
      memcpy(&distance, text_.data() + at_ - sizeof distance, sizeof distance);
      shape.branch = distance;
    }
    return shape;
  }

  std::span<const std::byte> text_;
  size_t at_ = 0;
  bool operand16_ = false;
  bool address32_ = false;
};

}  // namespace

std::optional<InstructionShape> decode_instruction(std::span<const std::byte> text) {
  return Decoder(text).run();
}

}  // namespace caisson
