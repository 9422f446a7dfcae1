#include <gtest/gtest.h>

#include "base/intrusive_list.h"
#include "base/mutex.h"
#include "base/ref.h"
#include "base/result.h"

namespace caisson {
namespace {

Result<int> half(int x) {
  if (x % 2 != 0) return Errno(EINVAL);
  return x / 2;
}
Result<int> quarter(int x) { return half(TRY(half(x))); }

TEST(Result, TryReturnsTheFirstError) {
  EXPECT_EQ(quarter(8).value(), 2);
  EXPECT_EQ(quarter(6).error(), Errno(EINVAL));
  EXPECT_EQ(quarter(3).error(), Errno(EINVAL));
}

TEST(Errno, Names) {
  EXPECT_EQ(Errno(ENOENT).name(), "ENOENT");
  EXPECT_EQ(Errno(kERESTARTSYS).name(), "ERESTARTSYS");
  EXPECT_EQ(Errno(4000).name(), "E?");
}

TEST(Errno, RestartCodesAreThoseOfLinuxAndTellThemselvesApart) {
  EXPECT_EQ(kERESTARTSYS, 512);
  EXPECT_EQ(kERESTARTNOINTR, 513);
  EXPECT_EQ(kERESTARTNOHAND, 514);
  for (int code : {kERESTARTSYS, kERESTARTNOINTR, kERESTARTNOHAND, kERESTART_RESTARTBLOCK}) {
    EXPECT_TRUE(Errno(code).is_restart()) << code;
  }
  EXPECT_FALSE(Errno(EINTR).is_restart());
}

struct Counted : RefCounted<Counted> {
  explicit Counted(int& deaths) : deaths(deaths) {}
  ~Counted() { ++deaths; }
  int& deaths;
};

TEST(Ref, LastReferenceDeletes) {
  int deaths = 0;
  {
    Ref<Counted> a = make_ref<Counted>(deaths);
    Ref<Counted> b = a;
    EXPECT_EQ(a->ref_count(), 2u);
  }
  EXPECT_EQ(deaths, 1);
}

struct Item : ListNode<> {};

TEST(IntrusiveList, KeepsOrderAndUnlinks) {
  Item a;
  Item b;
  IntrusiveList<Item> list;
  list.push_back(a);
  list.push_back(b);
  list.remove(a);
  EXPECT_FALSE(a.linked());
  EXPECT_EQ(list.pop_front(), &b);
  EXPECT_TRUE(list.empty());
}

TEST(LockRankDeathTest, OrderIsChecked) {
  if (!kCheckLockRanks) GTEST_SKIP() << "ranks are checked in debug builds";
  Mutex<LockRank::kTask> outer;
  Mutex<LockRank::kLeaf> inner;
  EXPECT_DEATH(
      {
        MutexLock a(inner);
        MutexLock b(outer);
      },
      "kTask is taken while kLeaf is held");
}

}  // namespace
}  // namespace caisson
