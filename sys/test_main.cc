// main() of the room's tests. `--as-user` runs them all as an ordinary user, through the library's
// own credentials, where the caller is root.
#include <gtest/gtest.h>
#include <linux/close_range.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "base/cleanup.h"
#include "sys/test_support.h"

namespace {

using namespace caisson;  // NOLINT(google-build-using-namespace)

int run_as_user(int argc, char** argv) {
  constexpr uint32_t kNobody = 65534;
  // The helper's path may lead through directories that only root may enter.
  char dir[] = "/tmp/caisson-sys-test-XXXXXX";
  if (mkdtemp(dir) == nullptr || ::chmod(dir, 0755) != 0) return 1;
  const std::string copy = std::filesystem::path(dir) / "helper";
  std::filesystem::copy_file(sys::test::helper_path(), copy);
  const Cleanup remove([&] { std::filesystem::remove_all(dir); });
  sys::ProcAttr attr;
  attr.sys.credential = sys::Credential{.uid = kNobody, .gid = kNobody};
  attr.env = sys::environ();
  attr.env->push_back("SYS_TEST_HELPER=");
  attr.env->back() += copy;
  attr.dir = "/tmp";
  std::vector<std::string> args(argv, argv + argc);
  args.erase(args.begin() + 1);
  auto process = sys::start_process("/proc/self/exe", args, attr);
  if (!process.ok()) {
    std::fprintf(stderr, "%s\n", process.error().text().c_str());
    return 1;
  }
  return process->wait()->status.exit_status();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], "--print-environment") == 0) {
    for (const std::string& entry : sys::environ()) std::puts(entry.c_str());
    std::printf("getenv K: %s\n", sys::getenv("K").value_or("not set").c_str());
    return 0;
  }
  if (argc > 1 && std::strcmp(argv[1], "--as-user") == 0) {
    if (::geteuid() == 0) return run_as_user(argc, argv);
    --argc;
    for (int i = 1; i <= argc; ++i) argv[i] = argv[i + 1];
  }
  if (argc > 1 && std::strcmp(argv[1], "--signal-own-group") == 0)
    return sys::test::signal_own_group();
  if (argc > 1 && std::strcmp(argv[1], "--first-environment") == 0)
    return sys::test::first_environment();
  // What our own starter let through is no stray descriptor of ours.
  close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
