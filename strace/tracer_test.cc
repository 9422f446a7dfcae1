#include "strace/tracer.h"

#include <gtest/gtest.h>

namespace caisson {
namespace {

TEST(Strace, ResultsReadAsStracePrintsThem) {
  EXPECT_EQ(result_text(0), "0");
  EXPECT_EQ(result_text(static_cast<uint64_t>(-2)), "-1 ENOENT (No such file or directory)");
  EXPECT_EQ(result_text(static_cast<uint64_t>(-512)), "? ERESTARTSYS");
  EXPECT_EQ(result_text(0x7f0000001000), "0x7f0000001000");
}

TEST(Strace, StringsAreEscapedAndShortened) {
  EXPECT_EQ(quoted("a\"b\\\n\x01"), "\"a\\\"b\\\\\\n\\1\"");
  EXPECT_EQ(quoted(std::string(33, 'x')), "\"" + std::string(32, 'x') + "\"...");
}

}  // namespace
}  // namespace caisson
