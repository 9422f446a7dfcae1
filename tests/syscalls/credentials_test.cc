// User and group ids, supplementary groups, capabilities: reading, changing, giving up.
#include <grp.h>
#include <linux/capability.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>
#include <thread>

#include "tests/util/child.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"

namespace caisson::test {
namespace {

constexpr uid_t kUser = 12'345, kOther = 23'456;

class Root : public ::testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "needs root";
  }
};

TEST(Ids, CallsAgree) {
  uid_t real, effective, saved;
  ASSERT_THAT(getresuid(&real, &effective, &saved), SucceedsWith(0));
  EXPECT_EQ(real, getuid());
  EXPECT_EQ(effective, geteuid());
  gid_t group_real, group_effective, group_saved;
  ASSERT_THAT(getresgid(&group_real, &group_effective, &group_saved), SucceedsWith(0));
  EXPECT_EQ(group_real, getgid());
  EXPECT_EQ(group_effective, getegid());
  EXPECT_THAT(syscall(SYS_getresuid, bad_pointer(), &effective, &saved), FailsWith(EFAULT));
  EXPECT_THAT(syscall(SYS_setuid, -1), FailsWith(EINVAL));
  EXPECT_THAT(syscall(SYS_setresuid, -1, -1, -1), SucceedsWith(0));
}

TEST_F(Root, SetuidGivesUpAll) {
  Child child = Child::run([] {
    REQUIRE(setuid(kUser) == 0);
    uid_t real, effective, saved;
    getresuid(&real, &effective, &saved);
    REQUIRE(real == kUser && effective == kUser && saved == kUser);
    REQUIRE(setuid(0) == -1 && errno == EPERM);
    REQUIRE(setresuid(0, -1, -1) == -1 && errno == EPERM);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

TEST_F(Root, SavedIdLetsComeBack) {
  Child child = Child::run([] {
    REQUIRE(setresuid(kUser, kOther, 0) == 0);
    REQUIRE(setresuid(-1, kUser, -1) == 0);
    REQUIRE(seteuid(0) == 0);
    REQUIRE(geteuid() == 0 && getuid() == kUser);
    REQUIRE(setreuid(-1, kUser) == 0);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

TEST_F(Root, SetreuidSetsTheSavedId) {
  Child child = Child::run([] {
    REQUIRE(setreuid(kUser, kOther) == 0);
    uid_t real, effective, saved;
    getresuid(&real, &effective, &saved);
    REQUIRE(real == kUser && effective == kOther && saved == kOther);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

TEST_F(Root, FilesystemId) {
  Child child = Child::run([] {
    REQUIRE(setfsuid(kUser) == 0);
    REQUIRE(setfsuid(-1) == static_cast<int>(kUser));
    REQUIRE(setresuid(-1, kOther, -1) == 0);
    REQUIRE(setfsuid(-1) == static_cast<int>(kOther));
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

TEST_F(Root, SupplementaryGroups) {
  Child child = Child::run([] {
    const gid_t groups[] = {30, 10, 20};
    REQUIRE(setgroups(3, groups) == 0);
    gid_t now[10];
    REQUIRE(getgroups(0, nullptr) == 3);
    REQUIRE(getgroups(10, now) == 3);
    REQUIRE(getgroups(2, now) == -1 && errno == EINVAL);
    REQUIRE(syscall(SYS_getgroups, -1, now) == -1 && errno == EINVAL);
    REQUIRE(syscall(SYS_setgroups, 70'000, now) == -1 && errno == EINVAL);
    REQUIRE(syscall(SYS_setgroups, 3, bad_pointer()) == -1 && errno == EFAULT);
    REQUIRE(setresuid(kUser, kUser, kUser) == 0);
    REQUIRE(getgroups(10, now) == 3);
    REQUIRE(setgroups(0, nullptr) == -1 && errno == EPERM);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

struct Capabilities {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  long get() { return syscall(SYS_capget, &header, data); }
  long set() { return syscall(SYS_capset, &header, data); }
};

TEST_F(Root, CapabilitiesGoWithTheUser) {
  Child child = Child::run([] {
    Capabilities mine;
    REQUIRE(mine.get() == 0 && (mine.data[0].effective & (1u << CAP_KILL)) != 0);
    REQUIRE(setresuid(kUser, kUser, kUser) == 0);
    REQUIRE(mine.get() == 0 && mine.data[0].effective == 0 && mine.data[0].permitted == 0);
    mine.data[0].permitted = 1u << CAP_KILL;
    REQUIRE(mine.set() == -1 && errno == EPERM);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

TEST_F(Root, KeepcapsKeepsPermitted) {
  Child child = Child::run([] {
    REQUIRE(prctl(PR_SET_KEEPCAPS, 1) == 0);
    REQUIRE(setresuid(kUser, kUser, kUser) == 0);
    Capabilities mine;
    REQUIRE(mine.get() == 0 && mine.data[0].effective == 0);
    REQUIRE((mine.data[0].permitted & (1u << CAP_KILL)) != 0);
    mine.data[0].effective = mine.data[0].permitted = 1u << CAP_KILL;
    mine.data[1].effective = mine.data[1].permitted = 0;
    REQUIRE(mine.set() == 0);
    REQUIRE(kill(getppid(), 0) == 0);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

TEST(Capabilities, Errors) {
  Capabilities mine;
  mine.header.version = 0x1234;
  EXPECT_THAT(mine.get(), FailsWith(EINVAL));
  EXPECT_EQ(mine.header.version, static_cast<unsigned>(_LINUX_CAPABILITY_VERSION_3));
  mine.header.pid = 0x3fff'ffff;
  EXPECT_THAT(mine.get(), FailsWith(ESRCH));
  EXPECT_THAT(syscall(SYS_capget, bad_pointer(), mine.data), FailsWith(EFAULT));
  EXPECT_THAT(prctl(PR_CAPBSET_READ, CAP_KILL), Succeeds());
  EXPECT_THAT(prctl(PR_CAPBSET_READ, 9999), FailsWith(EINVAL));
}

// The kernel keeps ids per thread; libraries change all of them together.
TEST_F(Root, RawChangeIsThreadsOwn) {
  Child child = Child::run([] {
    std::thread([] { REQUIRE(syscall(SYS_setresuid, kUser, kUser, kUser) == 0); }).join();
    REQUIRE(getuid() == 0);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

TEST_F(Root, LibraryChangeReachesAllThreads) {
  Child child = Child::run([] {
    std::atomic<bool> changed = false;
    std::thread other([&] {
      while (!changed) sched_yield();
      REQUIRE(syscall(SYS_getuid) == kUser);
    });
    REQUIRE(setresuid(kUser, kUser, kUser) == 0);
    changed = true;
    other.join();
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

}  // namespace
}  // namespace caisson::test
