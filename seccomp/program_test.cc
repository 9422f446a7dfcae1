#include "seccomp/program.h"

#include <gtest/gtest.h>
#include <linux/audit.h>

namespace caisson::seccomp {
namespace {

constexpr uint32_t kNo = SECCOMP_RET_TRAP;
constexpr uint32_t kBadArch = SECCOMP_RET_KILL_PROCESS;
constexpr uint32_t kYes = SECCOMP_RET_ALLOW;

seccomp_data call(int nr, uint64_t a0 = 0, uint64_t a1 = 0, uint64_t ip = 0) {
  seccomp_data data{};
  data.nr = nr;
  data.arch = AUDIT_ARCH_X86_64;
  data.instruction_pointer = ip;
  data.args[0] = a0;
  data.args[1] = a1;
  return data;
}

TEST(SeccompProgram, ChecksTheArchitectureFirst) {
  auto program = compile({{1, "test", {}}}, kNo, kBadArch);
  seccomp_data data = call(1);
  EXPECT_EQ(evaluate(program, data), kYes);
  data.arch = AUDIT_ARCH_I386;
  EXPECT_EQ(evaluate(program, data), kBadArch);
  EXPECT_EQ(evaluate(program, call(1 | 0x40000000)), kNo);
  EXPECT_EQ(evaluate(program, call(2)), kNo);
}

TEST(SeccompProgram, EqualComparesAll64Bits) {
  auto program = compile({{1, "test", {arg_is(0, 0x100000002)}}}, kNo, kBadArch);
  EXPECT_EQ(evaluate(program, call(1, 0x100000002)), kYes);
  EXPECT_EQ(evaluate(program, call(1, 0x000000002)), kNo);
  EXPECT_EQ(evaluate(program, call(1, 0x100000003)), kNo);
}

TEST(SeccompProgram, MaskIgnoresTheRest) {
  auto program = compile({{1, "test", {arg32_is(0, 7)}}}, kNo, kBadArch);
  EXPECT_EQ(evaluate(program, call(1, 0xffffffff00000007)), kYes);
  EXPECT_EQ(evaluate(program, call(1, 6)), kNo);
}

TEST(SeccompProgram, Bounds) {
  constexpr uint64_t kBound = 0x7f0000001000;
  auto at_least = compile({{1, "test", {arg_at_least(0, kBound)}}}, kNo, kBadArch);
  auto below = compile({{1, "test", {arg_below(0, kBound)}}}, kNo, kBadArch);
  for (uint64_t value :
       {uint64_t{0}, uint64_t{0xfff}, uint64_t{0x7effffffffff}, kBound - 1, kBound, kBound + 1,
        uint64_t{0x7f01ffffffff}, uint64_t{0x800000000000}, ~uint64_t{0}}) {
    EXPECT_EQ(evaluate(at_least, call(1, value)), value >= kBound ? kYes : kNo)
        << std::hex << value;
    EXPECT_EQ(evaluate(below, call(1, value)), value < kBound ? kYes : kNo) << std::hex << value;
  }
}

TEST(SeccompProgram, InstructionPointerRange) {
  auto program = compile({{1, "test", {instruction_pointer_in(0x7f1200010000, 0x7f1200020000)}}},
                         kNo, kBadArch);
  EXPECT_EQ(evaluate(program, call(1, 0, 0, 0x7f1200010000)), kYes);
  EXPECT_EQ(evaluate(program, call(1, 0, 0, 0x7f120001ffff)), kYes);
  EXPECT_EQ(evaluate(program, call(1, 0, 0, 0x7f1200020000)), kNo);
  EXPECT_EQ(evaluate(program, call(1, 0, 0, 0x7f120000ffff)), kNo);
  EXPECT_EQ(evaluate(program, call(1, 0, 0, 0x7f1100010000)), kNo);
}

TEST(SeccompProgram, LaterRulesOfOneNumberAreTried) {
  auto program =
      compile({{1, "a", {arg_is(0, 1)}}, {1, "b", {arg_is(0, 2), arg_is(1, 3)}}}, kNo, kBadArch);
  EXPECT_EQ(evaluate(program, call(1, 1)), kYes);
  EXPECT_EQ(evaluate(program, call(1, 2, 3)), kYes);
  EXPECT_EQ(evaluate(program, call(1, 2, 4)), kNo);
}

}  // namespace
}  // namespace caisson::seccomp
