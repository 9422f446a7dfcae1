// /proc/PID/oom_score and oom_score_adj, proc(5).
#include <fcntl.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <string>
#include <thread>

#include "tests/util/child.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"

namespace caisson::test {
namespace {

constexpr const char* kAdjust = "/proc/self/oom_score_adj";

// The result of one write(2).
long put(const std::string& text, const char* path = kAdjust) {
  UniqueFd file = must_open(path, O_WRONLY);
  return write(file.get(), text.data(), text.size());
}
std::string get() { return read_file(kAdjust); }
int score() { return std::stoi(read_file("/proc/self/oom_score")); }

// Each test in a process of its own: what is set is not undone.
void in_child(const std::function<void()>& body) {
  Child child = Child::run([&] {
    body();
    return ::testing::Test::HasFailure() ? 1 : 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

bool is_root() { return geteuid() == 0; }
// CAP_SYS_RESOURCE; root has it not everywhere.
bool is_privileged() {
  const std::string status = read_file("/proc/self/status");
  const size_t at = status.find("CapEff:");
  return at != std::string::npos &&
         (std::stoull(status.substr(at + 7), nullptr, 16) >> 24 & 1) != 0;
}

TEST(OomScoreAdj, ReadsBackWhatWasWritten) {
  in_child([] {
    for (const char* text : {"0", "300", "1000"}) {
      EXPECT_THAT(put(text), SucceedsWith(std::string(text).size()));
      EXPECT_EQ(get(), std::string(text) + "\n");
    }
  });
}

TEST(OomScoreAdj, TakesWhatKstrtointTakes) {
  in_child([] {
    EXPECT_THAT(put(" 512\n"), SucceedsWith(5));
    EXPECT_EQ(get(), "512\n");
    EXPECT_THAT(put("0x210"), SucceedsWith(5));
    EXPECT_EQ(get(), "528\n");
    EXPECT_THAT(put("+01100"), SucceedsWith(6));
    EXPECT_EQ(get(), "576\n");
  });
}

TEST(OomScoreAdj, RefusesOthers) {
  in_child([] {
    EXPECT_THAT(put("7"), SucceedsWith(1));
    EXPECT_THAT(put("1001"), FailsWith(EINVAL));
    EXPECT_THAT(put("-1001"), FailsWith(EINVAL));
    EXPECT_THAT(put("x"), FailsWith(EINVAL));
    EXPECT_THAT(put("12x"), FailsWith(EINVAL));
    EXPECT_THAT(put("--1"), FailsWith(EINVAL));
    EXPECT_THAT(put("1 2"), FailsWith(EINVAL));
    EXPECT_THAT(put("\n"), FailsWith(EINVAL));
    EXPECT_THAT(put("99999999999"), FailsWith(ERANGE));
    EXPECT_EQ(get(), "7\n");
  });
}

TEST(OomScoreAdj, RootMayLowerIt) {
  if (!is_privileged()) GTEST_SKIP() << "needs CAP_SYS_RESOURCE";
  in_child([] {
    EXPECT_THAT(put("-1000"), SucceedsWith(5));
    EXPECT_EQ(get(), "-1000\n");
    EXPECT_EQ(score(), 0);
  });
}

TEST(OomScoreAdj, OthersMayLowerItToWhereRootPutItLast) {
  if (!is_privileged()) GTEST_SKIP() << "needs CAP_SYS_RESOURCE";
  in_child([] {
    EXPECT_THAT(put("100"), SucceedsWith(3));
    must(setuid(65534), "setuid");
    // Setting a user id makes /proc/self root's, until the process says otherwise.
    must(prctl(PR_SET_DUMPABLE, 1), "prctl");
    EXPECT_THAT(put("400"), SucceedsWith(3));
    EXPECT_THAT(put("100"), SucceedsWith(3));
    EXPECT_THAT(put("99"), FailsWith(EACCES));
    EXPECT_EQ(get(), "100\n");
  });
}

TEST(OomScoreAdj, IsInheritedByChildrenAndSharedByThreads) {
  in_child([] {
    EXPECT_THAT(put("321"), SucceedsWith(3));
    Child child = Child::run([] { return get() == "321\n" && put("654") == 3 ? 0 : 1; });
    EXPECT_THAT(child.wait(), ExitedWith(0));
    EXPECT_EQ(get(), "321\n");
    std::thread([] { EXPECT_THAT(put("400"), SucceedsWith(3)); }).join();
    EXPECT_EQ(get(), "400\n");
  });
}

TEST(OomScore, FollowsTheAdjustmentAndStaysInRange) {
  in_child([] {
    EXPECT_THAT(put("0"), SucceedsWith(1));
    const int usual = score();
    EXPECT_GE(usual, 666);
    EXPECT_LE(usual, 1333);
    EXPECT_THAT(put("300"), SucceedsWith(3));
    EXPECT_NEAR(score(), usual + 200, 3);
  });
}

TEST(OomScore, IsReadOnly) {
  if (is_root()) GTEST_SKIP() << "root may open it";
  EXPECT_THAT(open("/proc/self/oom_score", O_WRONLY), FailsWith(EACCES));
}

}  // namespace
}  // namespace caisson::test
