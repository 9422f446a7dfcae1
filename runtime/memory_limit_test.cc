#include "runtime/memory_limit.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace caisson::runtime {
namespace {

constexpr uint64_t kNone = ~uint64_t{0};

class CgroupLimit : public ::testing::Test {
 protected:
  CgroupLimit() {
    char name[] = "/tmp/cgroup_limit.XXXXXX";
    root_ = mkdtemp(name);
  }
  ~CgroupLimit() override { std::filesystem::remove_all(root_); }
  void put(const std::string& directory, const std::string& file, const std::string& text) {
    std::filesystem::create_directories(root_ + directory);
    std::ofstream(root_ + directory + "/" + file) << text << "\n";
  }
  std::string root_;
};

TEST_F(CgroupLimit, IsTheSmallestOnTheWayUp) {
  put("/a", "memory.max", "1000000");
  put("/a/b", "memory.max", "max");
  put("/a/b/c", "memory.max", "3000000");
  EXPECT_EQ(cgroup_memory_limit("0::/a/b/c\n", root_), 1000000u);
  put("/a/b/c", "memory.max", "5000");
  EXPECT_EQ(cgroup_memory_limit("0::/a/b/c\n", root_), 5000u);
}

TEST_F(CgroupLimit, TheRootCountsWhenThePathIsNotThere) {
  put("", "memory.max", "4096000");
  EXPECT_EQ(cgroup_memory_limit("0::/docker/0123\n", root_), 4096000u);
  EXPECT_EQ(cgroup_memory_limit("0::/\n", root_), 4096000u);
}

TEST_F(CgroupLimit, KnowsVersionOne) {
  put("/memory/x", "memory.limit_in_bytes", "777");
  EXPECT_EQ(cgroup_memory_limit("7:cpu,memory:/x\n0::/\n", root_), 777u);
  EXPECT_EQ(cgroup_memory_limit("7:cpu:/x\n", root_), kNone);
}

TEST_F(CgroupLimit, NoneWithoutOne) {
  EXPECT_EQ(cgroup_memory_limit("", root_), kNone);
  EXPECT_EQ(cgroup_memory_limit("0::/a\nrubbish\n::\n0::a\n", root_), kNone);
  put("/a", "memory.max", "max");
  EXPECT_EQ(cgroup_memory_limit("0::/a\n", root_), kNone);
}

TEST(DefaultMemoryLimit, IsSomethingToWorkWith) {
  EXPECT_GE(default_memory_limit(), uint64_t{64} << 20);
  EXPECT_EQ(default_memory_limit() % 4096, 0u);
}

}  // namespace
}  // namespace caisson::runtime
