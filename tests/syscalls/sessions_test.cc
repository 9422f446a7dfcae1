// Process groups and sessions: setpgid, getpgid, setsid, getsid and who may do what to whom.
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>

#include "tests/util/child.h"
#include "tests/util/clock.h"
#include "tests/util/must.h"
#include "tests/util/program.h"

namespace caisson::test {
namespace {

int wait_forever() {
  while (true) pause();
}

TEST(Sessions, InheritedByFork) {
  const pid_t group = getpgrp(), session = getsid(0);
  Child child = Child::run([=] {
    REQUIRE(getpgrp() == group && getsid(0) == session);
    REQUIRE(getpgid(0) == group && getpgid(getppid()) == group);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

TEST(Sessions, Errors) {
  EXPECT_THAT(getpgid(0x3fff'ffff), FailsWith(ESRCH));
  EXPECT_THAT(getsid(0x3fff'ffff), FailsWith(ESRCH));
  EXPECT_THAT(getpgid(-1), FailsWith(ESRCH));
  EXPECT_THAT(setpgid(0, -1), FailsWith(EINVAL));
  EXPECT_THAT(setpgid(0x3fff'ffff, 0), FailsWith(ESRCH));
  EXPECT_THAT(setpgid(getppid(), 0), FailsWith(ESRCH));
}

TEST(Setsid, MakesLeaderOfAll) {
  Child child = Child::run([] {
    REQUIRE(setsid() == getpid());
    REQUIRE(getsid(0) == getpid() && getpgrp() == getpid());
    REQUIRE(setsid() == -1 && errno == EPERM);
    REQUIRE(setpgid(0, 0) == -1 && errno == EPERM);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

TEST(Setsid, GroupLeaderIsRefused) {
  Child child = Child::run([] {
    REQUIRE(setpgid(0, 0) == 0);
    REQUIRE(setsid() == -1 && errno == EPERM);
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

TEST(Setpgid, OfAChildJoiningAnother) {
  Child leader = Child::run(wait_forever), member = Child::run(wait_forever);
  EXPECT_THAT(setpgid(leader.pid(), 0), SucceedsWith(0));
  EXPECT_EQ(getpgid(leader.pid()), leader.pid());
  EXPECT_THAT(setpgid(member.pid(), leader.pid()), SucceedsWith(0));
  EXPECT_EQ(getpgid(member.pid()), leader.pid());
  // No such group in this session.
  EXPECT_THAT(setpgid(member.pid(), 0x3fff'ffff), FailsWith(EPERM));
  EXPECT_THAT(kill(-leader.pid(), SIGTERM), SucceedsWith(0));
  EXPECT_THAT(leader.wait(), KilledBy(SIGTERM));
  EXPECT_THAT(member.wait(), KilledBy(SIGTERM));
  EXPECT_THAT(kill(-leader.pid(), 0), FailsWith(ESRCH));
}

TEST(Setpgid, GroupOutlivesItsLeader) {
  Child leader = Child::run([] { return setpgid(0, 0), wait_forever(); });
  ASSERT_TRUE(eventually([&] { return getpgid(leader.pid()) == leader.pid(); }));
  Child member = Child::run(wait_forever);
  ASSERT_THAT(setpgid(member.pid(), leader.pid()), SucceedsWith(0));
  leader.kill(SIGKILL);
  const pid_t group = leader.pid();
  EXPECT_THAT(leader.wait(), KilledBy(SIGKILL));
  EXPECT_EQ(getpgid(member.pid()), group);
  EXPECT_THAT(kill(-group, SIGTERM), SucceedsWith(0));
  EXPECT_THAT(member.wait(), KilledBy(SIGTERM));
}

TEST(Setpgid, OtherSessionsAreOutOfReach) {
  Child other = Child::run([] { return setsid(), wait_forever(); });
  ASSERT_TRUE(eventually([&] { return getsid(other.pid()) == other.pid(); }));
  EXPECT_THAT(setpgid(other.pid(), getpgrp()), FailsWith(EPERM));
  Child mine = Child::run(wait_forever);
  EXPECT_THAT(setpgid(mine.pid(), other.pid()), FailsWith(EPERM));
}

int sleep_probe(int, char**) { return wait_forever(); }
RegisterProbe sleeps("sleep", sleep_probe);

TEST(Setpgid, ChildThatExecedIsRefused) {
  Pipe pipe = must_pipe(O_CLOEXEC);
  const auto command = probe_command("sleep");
  const auto arguments = exec_vector(command);
  Child child = Child::run([&] {
    execv(arguments[0], arguments.data());
    return 90;
  });
  pipe.write_end.reset();
  // End of file means that exec closed the other end.
  EXPECT_EQ(read_all(pipe.read_end.get()), "");
  EXPECT_THAT(setpgid(child.pid(), 0), FailsWith(EACCES));
}

}  // namespace
}  // namespace caisson::test
