// The child's descriptors: any list gives exactly these files, and nothing else gets through.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sys/test_support.h"

namespace caisson::sys {
namespace {

using test::file_line;
using test::in_user_namespace;
using test::no_children;
using test::open_descriptors;
using test::read_all;
using test::with_denied;

// Starts the helper's "files" with this list, its output going to the pipe that `out` names in it.
std::string files_of_child(const ProcAttr& attr, Pipe& out) {
  auto process = start_process(test::helper_path(), {"helper", "files"}, attr);
  if (!process.ok()) return process.error().text();
  out.write_end.reset();
  std::string text = read_all(out.read_end.get());
  EXPECT_EQ(process->wait()->status.exit_status(), 0);
  return text;
}

std::string expected(const std::vector<int>& files) {
  std::string text;
  for (size_t i = 0; i < files.size(); ++i)
    if (files[i] >= 0) text += file_line(static_cast<int>(i), files[i]);
  return text;
}

class Descriptors : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    if (GetParam() == 1) SKIP_WITHOUT_USER_NAMESPACES();
  }
  // Shared memory; a map's socket; copied memory with a socket.
  ProcAttr attr() const {
    if (GetParam() == 1) return in_user_namespace();
    ProcAttr attr;
    if (GetParam() == 2)
      attr.sys.credential = Credential{.uid = geteuid(), .gid = getegid(), .no_set_groups = true};
    return attr;
  }
};
INSTANTIATE_TEST_SUITE_P(Modes, Descriptors, testing::Values(0, 1, 2));

TEST_P(Descriptors, AnyOrderDuplicatesSwapsAndHoles) {
  const int before = open_descriptors();
  for (int shape = 0; shape < 6; ++shape) {
    Pipe out = MUST(pipe2(O_CLOEXEC));
    std::vector<UniqueFd> own;
    for (const char* path : {"/", "/usr", "/bin/sh", "/etc", "/tmp", "/proc"})
      own.push_back(MUST(open(path, O_RDONLY | O_CLOEXEC)));
    const auto fd = [&](int i) { return own[i].get(); };
    const int base = fd(0);
    ProcAttr start = attr();
    start.files = {0, out.write_end.get(), 2};
    std::vector<int>& files = start.files;
    switch (shape) {
      case 0:  // each at its own number, in reverse
        files.resize(fd(5) + 1, -1);
        for (int i = 0; i < 6; ++i) files[fd(i)] = fd(5 - i);
        break;
      case 1:  // neighbours swapped; one twice; a hole
        files.resize(base + 6, -1);
        files[fd(0)] = fd(1);
        files[fd(1)] = fd(0);
        files[fd(2)] = fd(2);
        files[fd(4)] = fd(2);
        break;
      case 2:  // a cycle of three
        files.resize(base + 6, -1);
        files[fd(0)] = fd(1);
        files[fd(1)] = fd(2);
        files[fd(2)] = fd(0);
        break;
      case 3:  // the same everywhere
        for (int i = 0; i < 30; ++i) files.push_back(fd(3));
        break;
      case 4:  // standard descriptors moved up, others in their place
        files = {fd(0), out.write_end.get(), fd(1), 0, 2, 1, fd(5)};
        break;
      default:  // over the numbers that our own socket and the pidfd will have
        for (int i = 3; i < fd(5) + 8; ++i) files.push_back(fd(i % 6));
        break;
    }
    SCOPED_TRACE("shape " + std::to_string(shape));
    const std::string want = expected(files);
    EXPECT_EQ(files_of_child(start, out), want);
  }
  EXPECT_EQ(open_descriptors(), before);
}

TEST_P(Descriptors, StandardOnesAreClosedUnlessListed) {
  Pipe out = MUST(pipe2(O_CLOEXEC));
  ProcAttr start = attr();
  start.files = {-1, out.write_end.get()};
  const std::string want = expected(start.files);
  EXPECT_EQ(files_of_child(start, out), want);
}

TEST_P(Descriptors, NothingUnlistedGetsThroughUnlessKept) {
  const UniqueFd stray(::open("/usr", O_RDONLY));  // not close-on-exec
  for (const bool keep : {false, true}) {
    Pipe out = MUST(pipe2(O_CLOEXEC));
    ProcAttr start = attr();
    start.files = {0, out.write_end.get(), 2};
    start.keep_other_files = keep;
    std::string want = expected(start.files);
    const std::string got = files_of_child(start, out);
    if (keep) {
      EXPECT_NE(got.find(file_line(stray.get(), stray.get())), std::string::npos);
    } else {
      EXPECT_EQ(got, want);
    }
  }
}

// Hosts without close_range(2), without its flag, and containers whose filter does not know it.
TEST_P(Descriptors, UnlistedOnesAreFoundByListingToo) {
  std::vector<UniqueFd> strays;
  for (int i = 0; i < 200; ++i) strays.emplace_back(::open("/usr", O_RDONLY));
  for (const int error : {ENOSYS, EINVAL, EPERM}) {
    ASSERT_TRUE(with_denied({{SYS_close_range, error}}, [&] {
      Pipe out = MUST(pipe2(O_CLOEXEC));
      ProcAttr start = attr();
      start.files = {0, out.write_end.get(), 2};
      const std::string want = expected(start.files);
      EXPECT_EQ(files_of_child(start, out), want);
    }));
  }
}

TEST_P(Descriptors, FourThousand) {
  constexpr int kCount = 4096;
  const Rlimit before = MUST(getrlimit(RLIMIT_NOFILE));
  if (before.max < kCount + 100) GTEST_SKIP() << "the host's limit of descriptors is low";
  ASSERT_TRUE(setrlimit(RLIMIT_NOFILE, {kCount + 100, before.max}).ok());
  Pipe out = MUST(pipe2(O_CLOEXEC));
  const UniqueFd file = MUST(open("/usr", O_RDONLY | O_CLOEXEC));
  ProcAttr start = attr();
  start.files.resize(kCount, file.get());
  start.files[0] = 0;
  start.files[1] = out.write_end.get();
  start.files[2] = 2;
  const std::string want = expected(start.files);
  EXPECT_TRUE(files_of_child(start, out) == want);  // too long to print

  // All shifted by one, and the first at the end: one cycle through all of them.
  out = MUST(pipe2(O_CLOEXEC));
  std::vector<UniqueFd> own;
  while (own.empty() || own.back().get() < kCount - 1)
    own.push_back(MUST(open("/usr", O_RDONLY | O_CLOEXEC)));
  for (int i = 3; i < kCount; ++i) start.files[i] = i + 1 < kCount ? i + 1 : 3;
  start.files[1] = out.write_end.get();
  const std::string shifted = expected(start.files);
  EXPECT_TRUE(files_of_child(start, out) == shifted);
  own.clear();

  // One more than the limit: Linux's errno, and where.
  start.files.resize(kCount + 101, file.get());
  std::fill(start.files.begin(), start.files.end(), 0);
  auto process = start_process(test::helper_path(), {"helper", "files"}, start);
  ASSERT_FALSE(process.ok());
  EXPECT_EQ(process.error().step, GetParam() == 0 ? Step::kFiles : Step::kReport);
  EXPECT_TRUE(no_children());
  ASSERT_TRUE(setrlimit(RLIMIT_NOFILE, before).ok());
}

// A number that is closed now, and that our own socket gets a moment later, is no descriptor.
TEST_P(Descriptors, StaleNumbersNeverMeanOurs) {
  const int stale = MUST(open("/usr", O_RDONLY | O_CLOEXEC)).get();
  for (const int number : {stale, stale + 1, stale + 2}) {
    if (fcntl(number, F_GETFD) >= 0) continue;
    ProcAttr start = attr();
    start.files.push_back(number);
    auto process = start_process("/bin/true", {"true"}, start);
    ASSERT_FALSE(process.ok());
    EXPECT_EQ(process.error().text(), "files[3]: Bad file descriptor");
  }
}

}  // namespace
}  // namespace caisson::sys
