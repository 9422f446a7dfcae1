// Every instruction of this host's libraries, as Zydis sees it.
#include "loader/instruction_length.h"

#include <Zydis/Zydis.h>
#include <elf.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace caisson {
namespace {

std::vector<std::byte> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  auto* first = reinterpret_cast<const std::byte*>(bytes.data());
  return {first, first + bytes.size()};
}

// How many instructions were compared. What this decoder does not know it may refuse, but never
// misjudge.
size_t compare(std::span<const std::byte> text, size_t& refused) {
  ZydisDecoder decoder;
  ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
  size_t count = 0;
  for (size_t at = 0; at < text.size();) {
    std::span<const std::byte> rest = text.subspan(at);
    ZydisDecodedInstruction instruction;
    bool valid = ZYAN_SUCCESS(
        ZydisDecoderDecodeInstruction(&decoder, nullptr, rest.data(), rest.size(), &instruction));
    auto shape = decode_instruction(rest);
    if (!valid) {
      ++at;
      continue;
    }
    ++count;
    if (!shape) {
      ++refused;
    } else {
      EXPECT_EQ(shape->length, instruction.length)
          << "at " << at << " " << ZydisMnemonicGetString(instruction.mnemonic) << std::hex << " "
          << int(rest[0]) << " " << int(rest[1]) << " " << int(rest[2]) << " " << int(rest[3])
          << " " << int(rest[4]);
      bool branches = instruction.raw.imm[0].size != 0 && instruction.raw.imm[0].is_relative;
      EXPECT_EQ(shape->branch.has_value(), branches) << "at " << at;
      if (branches && shape->branch) {
        EXPECT_EQ(*shape->branch, instruction.raw.imm[0].value.s) << "at " << at;
      }
    }
    at += instruction.length;
    if (testing::Test::HasFailure()) return count;
  }
  return count;
}

TEST(InstructionLength, AgreesWithZydisOverWholeLibraries) {
  size_t count = 0;
  size_t refused = 0;
  for (const char* path : {"/lib/x86_64-linux-gnu/libc.so.6", "/lib/x86_64-linux-gnu/libm.so.6",
                           "/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libstdc++.so.6",
                           "/lib/x86_64-linux-gnu/libcrypto.so.3", "/bin/busybox",
                           "/usr/lib/x86_64-linux-gnu/libstdc++.so.6"}) {
    std::vector<std::byte> file = read_file(path);
    if (file.size() < sizeof(Elf64_Ehdr)) continue;
    const auto* header = reinterpret_cast<const Elf64_Ehdr*>(file.data());
    const auto* segments = reinterpret_cast<const Elf64_Phdr*>(file.data() + header->e_phoff);
    for (int i = 0; i < header->e_phnum; ++i) {
      if (segments[i].p_type != PT_LOAD || (segments[i].p_flags & PF_X) == 0) continue;
      count +=
          compare(std::span(file).subspan(segments[i].p_offset, segments[i].p_filesz), refused);
      ASSERT_FALSE(HasFailure()) << path;
    }
  }
  EXPECT_GT(count, 100'000u);
  EXPECT_LT(refused, count / 100);
}

TEST(InstructionLength, RandomBytes) {
  std::vector<std::byte> bytes(1 << 20);
  uint64_t state = 88172645463325252u;
  for (std::byte& byte : bytes) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    byte = static_cast<std::byte>(state);
  }
  size_t refused = 0;
  size_t count = compare(bytes, refused);
  EXPECT_GT(count, 10'000u);
}

TEST(InstructionLength, CutOff) {
  const std::byte call[] = {std::byte{0xb8}, std::byte{1}, std::byte{0}, std::byte{0},
                            std::byte{0}};
  EXPECT_EQ(decode_instruction(call)->length, 5u);
  for (size_t length = 0; length < sizeof call; ++length)
    EXPECT_FALSE(decode_instruction(std::span(call, length)));
}

}  // namespace
}  // namespace caisson
