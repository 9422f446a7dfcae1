#include "syscalls/table.h"

#include <gtest/gtest.h>
#include <sys/syscall.h>

#include <cstring>
#include <map>
#include <set>
#include <string>

namespace caisson {
namespace {

// The host's own list, from its header: "#define __NR_read 0" lines.
std::map<std::string, int> host_numbers() {
  std::map<std::string, int> numbers;
  FILE* file = fopen("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "r");
  if (file == nullptr) return numbers;
  char line[256], name[128];
  int number;
  while (fgets(line, sizeof line, file) != nullptr)
    if (sscanf(line, "#define __NR_%127s %d", name, &number) == 2) numbers[name] = number;
  fclose(file);
  return numbers;
}

TEST(SyscallTable, IsSortedAndUnique) {
  int last = -1;
  std::set<std::string> names;
  for (const SyscallEntry& entry : amd64_syscalls()) {
    EXPECT_GT(entry.number, last) << entry.name;
    last = entry.number;
    EXPECT_TRUE(names.insert(entry.name).second) << entry.name;
    EXPECT_LT(entry.number, SyscallTable::kSize);
  }
}

TEST(SyscallTable, NumbersAreTheHostHeaders) {
  std::map<std::string, int> host = host_numbers();
  ASSERT_GT(host.size(), 300u);
  for (const SyscallEntry& entry : amd64_syscalls()) {
    auto it = host.find(entry.name);
    if (it == host.end()) {
      EXPECT_GT(entry.number, 450) << entry.name << " is not newer than the header";
      continue;
    }
    EXPECT_EQ(entry.number, it->second) << entry.name;
  }
}

TEST(SyscallTable, PartialAndRefusedEntriesSayWhy) {
  for (const SyscallEntry& entry : amd64_syscalls()) {
    ASSERT_NE(entry.call, nullptr) << entry.name;
    if (entry.support != Support::kFull) {
      EXPECT_GT(std::strlen(entry.note), 3u) << entry.name;
    }
  }
}

TEST(SyscallTable, FindsAndCountsMissing) {
  SyscallTable table(amd64_syscalls());
  ASSERT_NE(table.find(SYS_exit_group), nullptr);
  EXPECT_STREQ(table.find(SYS_exit_group)->name, "exit_group");
  EXPECT_EQ(table.find(SyscallTable::kSize), nullptr);
  EXPECT_EQ(table.find(0x40000000u + SYS_read), nullptr);  // x32
  EXPECT_EQ(table.find(~0ull), nullptr);
  table.count_missing(335);
  table.count_missing(335);
  table.count_missing(~0ull);
  EXPECT_EQ(table.missing_count(335), 2u);
  EXPECT_EQ(table.missing_count(1'000'000), 1u);
}

SyscallResult probe(CurrentTask&, int a, uint32_t b, int64_t c, uint64_t d, UserIn<int> e,
                    UserCString f) {
  EXPECT_EQ(a, -1);
  EXPECT_EQ(b, 0xffffffffu);
  EXPECT_EQ(c, -2);
  EXPECT_EQ(d, 1ull << 40);
  EXPECT_EQ(e.addr(), 0x7fff'0000'0000u);
  EXPECT_EQ(f.addr(), 42u);
  return 7;
}

TEST(SyscallTable, ThunkNarrowsAndSignExtends) {
  constexpr SyscallEntry kEntry = full<probe>(1, "probe");
  Registers regs{};
  regs.rdi = 0x1234'5678'ffff'ffff;
  regs.rsi = 0xabcd'0000'ffff'ffff;
  regs.rdx = static_cast<uint64_t>(-2);
  regs.r10 = 1ull << 40;
  regs.r8 = 0x7fff'0000'0000;
  regs.r9 = 42;
  alignas(16) char nothing[64] = {};
  auto& task = reinterpret_cast<CurrentTask&>(nothing);  // never looked at
  SyscallResult result = kEntry.call(task, regs);
  EXPECT_EQ(std::get<uint64_t>(result.state()), 7u);
  EXPECT_EQ(kEntry.arg_count, 6);
  EXPECT_EQ(kEntry.args[0], ArgKind::kSigned32);
  EXPECT_EQ(kEntry.args[1], ArgKind::kUnsigned32);
  EXPECT_EQ(kEntry.args[3], ArgKind::kUnsigned64);
  EXPECT_EQ(kEntry.args[4], ArgKind::kIn);
  EXPECT_EQ(kEntry.args[5], ArgKind::kString);
}

}  // namespace
}  // namespace caisson
