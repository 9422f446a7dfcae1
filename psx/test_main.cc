// main() of psx_test. `--as-user` runs the tests as an ordinary user where the caller is root.
#include <grp.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

int main(int argc, char** argv) {
  if (argc > 1 && strcmp(argv[1], "--as-user") == 0) {
    constexpr uid_t kNobody = 65534;
    argv[1] = argv[0];
    if (geteuid() == 0) {
      if (setgroups(0, nullptr) == 0 && setresgid(kNobody, kNobody, kNobody) == 0 &&
          setresuid(kNobody, kNobody, kNobody) == 0) {
        // By this name: the path may lead through directories that only root may enter.
        execv("/proc/self/exe", argv + 1);
      }
      perror("psx_test: becoming an ordinary user");
      return 1;
    }
    argc--;
    argv++;
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
