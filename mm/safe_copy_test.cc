#include "mm/safe_copy.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "base/unique_fd.h"

namespace caisson {
namespace {

// Two pages of which the second faults: by protection, or as a file that was truncated.
class SafeCopy : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    install_fault_guards();
    fd_ = UniqueFd(::memfd_create("pages", MFD_CLOEXEC));
    ASSERT_EQ(::ftruncate(fd_.get(), 8192), 0);
    pages_ =
        static_cast<char*>(::mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0));
    for (int i = 0; i < 4096; ++i) pages_[i] = static_cast<char>('a' + i % 23);
    if (GetParam()) {
      ASSERT_EQ(::ftruncate(fd_.get(), 4096), 0);
    } else {
      ASSERT_EQ(::mprotect(pages_ + 4096, 4096, PROT_NONE), 0);
    }
  }
  void TearDown() override { ::munmap(pages_, 8192); }
  UniqueFd fd_;
  char* pages_ = nullptr;
};

TEST_P(SafeCopy, CopiesExactlyUpToTheFault) {
  std::vector<char> buffer(8192);
  for (size_t length : {0u, 1u, 7u, 8u, 9u, 63u, 64u, 65u, 200u, 1023u, 1024u, 3000u, 4096u}) {
    for (size_t beyond : {0u, 1u, 5u, 8u, 64u, 100u, 2000u, 4096u}) {
      char* from = pages_ + 4096 - length;
      std::fill(buffer.begin(), buffer.end(), '#');
      EXPECT_EQ(safe_copy(buffer.data(), from, length + beyond), beyond) << length;
      EXPECT_EQ(std::memcmp(buffer.data(), from, length), 0);
      EXPECT_EQ(buffer[length], '#');
      EXPECT_EQ(safe_copy(from, buffer.data(), length + beyond), beyond) << length;
      EXPECT_EQ(safe_zero(pages_ + 4096, beyond), beyond);
    }
  }
}

TEST_P(SafeCopy, Strings) {
  char buffer[64];
  bool found, faulted;
  std::memcpy(pages_ + 4090, "hello", 6);
  EXPECT_EQ(safe_copy_string(buffer, pages_ + 4090, 64, &found, &faulted), 6u);
  EXPECT_TRUE(found && !faulted);
  EXPECT_STREQ(buffer, "hello");
  EXPECT_EQ(safe_copy_string(buffer, pages_ + 4090, 3, &found, &faulted), 3u);
  EXPECT_TRUE(!found && !faulted);
  pages_[4095] = 'x';
  EXPECT_EQ(safe_copy_string(buffer, pages_ + 4090, 64, &found, &faulted), 6u);
  EXPECT_TRUE(!found && faulted);
  EXPECT_EQ(safe_copy_string(buffer, pages_ + 4096, 1, &found, &faulted), 0u);
  EXPECT_TRUE(faulted);
}

TEST_P(SafeCopy, Words) {
  uint32_t value = 9;
  std::memcpy(pages_ + 4092, &value, 4);
  EXPECT_TRUE(safe_load_u32(pages_ + 4092, &value));
  EXPECT_EQ(value, 9u);
  EXPECT_TRUE(safe_compare_exchange_u32(pages_ + 4092, 9, 10, &value));
  EXPECT_EQ(value, 9u);
  EXPECT_TRUE(safe_compare_exchange_u32(pages_ + 4092, 9, 11, &value));
  EXPECT_EQ(value, 10u);
  EXPECT_FALSE(safe_load_u32(pages_ + 4096, &value));
  EXPECT_FALSE(safe_compare_exchange_u32(pages_ + 4096, 9, 11, &value));
}

INSTANTIATE_TEST_SUITE_P(Faults, SafeCopy, ::testing::Bool());

TEST(SafeCopyDeathTest, OtherFaultsStillKill) {
  install_fault_guards();
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        volatile char* bad = static_cast<char*>(
            ::mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        *bad = 1;
      },
      "");
}

}  // namespace
}  // namespace caisson
