#include "base/mutex.h"

#include <cstdio>

#include "base/check.h"

namespace caisson {
namespace {

constexpr int kMaxHeld = 32;
thread_local LockRank held[kMaxHeld];
thread_local int held_count = 0;

}  // namespace

void note_lock_taken(LockRank rank, bool same_rank_allowed) {
  for (int i = 0; i < held_count; ++i) {
    if (held[i] < rank || (same_rank_allowed && held[i] == rank)) continue;
    fprintf(stderr, "caisson: lock order: %s is taken while %s is held\n", lock_rank_name(rank),
            lock_rank_name(held[i]));
    CHECK(false);
  }
  CHECK(held_count < kMaxHeld);
  held[held_count++] = rank;
}

void note_lock_released(LockRank rank) {
  for (int i = held_count - 1; i >= 0; --i) {
    if (held[i] != rank) continue;
    for (int j = i; j + 1 < held_count; ++j) held[j] = held[j + 1];
    --held_count;
    return;
  }
  CHECK(false);
}

}  // namespace caisson
