#include "kernel/run_state.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace caisson {
namespace {

using Effect = SchedWord::Effect;

TEST(SchedWord, NotifyQueuesAParkedTaskOnce) {
  SchedWord word;
  ASSERT_TRUE(word.park());
  EXPECT_EQ(word.notify(), Effect::kQueue);
  EXPECT_EQ(word.notify(), Effect::kNothing);
}

TEST(SchedWord, AMarkedTaskCanNeitherParkNorLeave) {
  SchedWord word;
  EXPECT_EQ(word.notify(), Effect::kNothing);
  EXPECT_FALSE(word.park());
  EXPECT_FALSE(word.enter_guest());
  word.begin_look();
  EXPECT_TRUE(word.enter_guest());
}

TEST(SchedWord, ATaskInTheGuestIsInterruptedOnce) {
  SchedWord word;
  ASSERT_TRUE(word.enter_guest());
  EXPECT_EQ(word.notify(), Effect::kInterrupt);
  EXPECT_EQ(word.notify(), Effect::kNothing);
  word.take();
  EXPECT_TRUE(word.park());
}

TEST(SchedWord, DeadAndInertTasksAreLeftAlone) {
  SchedWord dead, inert;
  dead.set_dead();
  inert.set_inert();
  EXPECT_EQ(dead.notify(), Effect::kNothing);
  EXPECT_EQ(inert.notify(), Effect::kNothing);
}

// Every notification that follows a change is answered by a look that sees the change.
TEST(SchedWord, NoWakeUpIsLost) {
  SchedWord word;
  std::atomic<int> changes{0}, queued{0};
  constexpr int kChanges = 20000;
  std::thread sender([&] {
    for (int i = 0; i < kChanges; ++i) {
      changes.fetch_add(1);
      if (word.notify() == Effect::kQueue) queued.fetch_add(1);
    }
  });
  int seen = 0;
  while (seen < kChanges) {
    word.begin_look();
    seen = changes.load();
    if (seen == kChanges) break;
    if (!word.park()) continue;
    while (queued.load() == 0) std::this_thread::yield();
    queued.fetch_sub(1);
    word.take();
  }
  sender.join();
  EXPECT_EQ(seen, kChanges);
}

TEST(RunState, OnlyTheDrawnTransitions) {
  const RunState guest = RunGuest{}, syscall = RunSyscall{}, stopped = RunStopped{},
                 fetch = RunFetchVector{}, exit = RunExit{}, dead = RunDead{};
  const RunState operation = RunOperation{};
  EXPECT_TRUE(may_follow(guest, syscall));
  EXPECT_TRUE(may_follow(guest, stopped));
  EXPECT_TRUE(may_follow(guest, fetch));
  EXPECT_TRUE(may_follow(syscall, operation));
  EXPECT_TRUE(may_follow(guest, operation));  // a fault that waits for memory
  EXPECT_TRUE(may_follow(syscall, fetch));
  EXPECT_TRUE(may_follow(fetch, syscall));
  EXPECT_TRUE(may_follow(operation, guest));
  EXPECT_TRUE(may_follow(stopped, guest));
  EXPECT_TRUE(may_follow(exit, dead));
  EXPECT_FALSE(may_follow(operation, syscall));
  EXPECT_FALSE(may_follow(operation, operation));
  EXPECT_FALSE(may_follow(stopped, operation));
  EXPECT_FALSE(may_follow(guest, dead));
  EXPECT_FALSE(may_follow(exit, guest));
  EXPECT_FALSE(may_follow(dead, guest));
}

}  // namespace
}  // namespace caisson
