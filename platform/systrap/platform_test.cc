// What the platform says of itself, and what it makes before any guest code runs.
#include <gtest/gtest.h>
#include <signal.h>

#include <cstdio>
#include <fstream>
#include <set>

#include "platform/systrap/systrap.h"

namespace caisson::systrap {
namespace {

class PlatformTest : public testing::Test {
 protected:
  void SetUp() override {
    memory_ = MUST(make_memory_file_pair("test-memory", uint64_t{1} << 32));
    loop_ = MUST(host::EventLoop::create());
    Options options;
    options.event_loop = loop_.get();
    options.memory_fd = memory_.read_write.get();
    options.memory_ro_fd = memory_.read_only.get();
    options.on_fatal = [](const char* why) { std::fprintf(stderr, "fatal: %s\n", why); };
    platform_ = MUST(Systrap::create(options));
    MUST(loop_->start());
  }
  void TearDown() override {
    const int zygote = platform_->zygote().pid();
    loop_->stop();
    kill(zygote, SIGKILL);
  }

  FilePair memory_;
  std::unique_ptr<host::EventLoop> loop_;
  std::unique_ptr<Systrap> platform_;
};

TEST_F(PlatformTest, UserAddressesAreBelowTheStubAndAboveTheHostsLowest) {
  uint64_t lowest = 0;
  std::ifstream("/proc/sys/vm/mmap_min_addr") >> lowest;
  EXPECT_GE(platform_->min_user_address(), lowest);
  EXPECT_EQ(platform_->min_user_address() % 4096, 0u);
  EXPECT_EQ(platform_->max_user_address() % 4096, 0u);
  EXPECT_LT(platform_->max_user_address(), uint64_t{1} << 47);
  EXPECT_GT(platform_->max_user_address(), uint64_t{1} << 46);
  EXPECT_GE(platform_->vdso_address(), platform_->max_user_address());
}

TEST_F(PlatformTest, AnswersItsQueries) {
  const platform::Platform& platform = *platform_;
  EXPECT_EQ(platform.map_unit(), 0u);
  EXPECT_FALSE(platform.cooperatively_schedules_address_space());
  EXPECT_FALSE(platform.supports_address_space_io());
  EXPECT_TRUE(platform.detects_cpu_preemption());
  EXPECT_TRUE(platform.has_host_global_memory_barrier());
  EXPECT_FALSE(platform.owns_page_tables());
}

TEST_F(PlatformTest, MakesAddressSpacesAndContexts) {
  auto first = MUST(platform_->new_address_space(0));
  auto second = MUST(platform_->new_address_space(0));
  EXPECT_NE(first.get(), second.get());
  auto context = MUST(platform_->new_context());
  context->attach(first.or_null());
  context->attach(nullptr);
}

TEST_F(PlatformTest, EachHostCallOfItsOwnHasAReason) {
  std::set<uint32_t> numbers;
  for (const seccomp::Rule& rule : Systrap::syscall_filters()) {
    EXPECT_FALSE(rule.reason.empty()) << rule.nr;
    EXPECT_TRUE(numbers.insert(rule.nr).second || !rule.conditions.empty()) << rule.nr;
  }
  EXPECT_FALSE(numbers.empty());
}

}  // namespace
}  // namespace caisson::systrap
