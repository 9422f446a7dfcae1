// Broadcast: one call on its way to all threads; the side of the thread that asked for it.
//
// Made on the caller's stack with the queue lock held. begin() publishes the call, cover() brings
// it to every thread, and finish() looks at the answers and lets everybody go. See
// broadcast_state.h for what is shared with the handlers.
#pragma once

#include <cstdint>

#include "psx/broadcast_state.h"
#include "psx/psx.h"
#include "psx/roster.h"
#include "psx/thread_source.h"

namespace caisson::psx::internal {

struct Call {
  int64_t nr;
  int64_t args[6];

  host::RawResult make() const {
    return host::raw_syscall(nr, args[0], args[1], args[2], args[3], args[4], args[5]);
  }
};

// What lasts from one broadcast to the next; one per process, guarded by BroadcastState::lock.
struct Directory {
  ThreadSource source;
  Roster roster;
  bool leader_is_dead = false;  // seen as a zombie: it stays one
};

struct Settings {
  std::atomic<Mismatch> mismatch{Mismatch::kEndProcess};
  std::atomic<uint32_t> deadline_ms{10'000};
};

class Broadcast {
 public:
  Broadcast(BroadcastState& shared, Directory& directory, const Settings& settings,
            const Call& call, int32_t pid, int32_t tid)
      : shared_(shared),
        directory_(directory),
        settings_(settings),
        call_(call),
        pid_(pid),
        tid_(tid) {}

  // `first_result`: what the call gave the caller.
  void begin(int64_t first_result);
  // Until everybody has answered, or something went wrong.
  void cover();
  // 0, or why some thread has not made the call. May end the process.
  int finish();
  // Threads of the process that were found, the caller included.
  uint32_t held() const { return held_; }

 private:
  uint32_t pending() const {
    return shared_.pending.load(std::memory_order_acquire) & kPendingCount;
  }
  void tell(uint32_t slot);
  bool queue_signal(uint32_t slot);
  void tell_known();
  bool tell_new();  // whether there were any
  void cannot_list();
  void wait_for_answers();
  Answer settle(uint32_t slot, Answer how);
  void look_after_late(uint32_t round);
  void give_up();
  void tally();
  void report_differences(Mismatch what);
  bool is_late();

  BroadcastState& shared_;
  Directory& directory_;
  const Settings& settings_;
  const Call& call_;
  const int32_t pid_;
  const int32_t tid_;
  uint32_t epoch_ = 0;
  uint32_t held_ = 1;
  uint32_t dead_ = 0;     // counted by the kernel, but nothing to wait for
  uint32_t missing_ = 0;  // in the roster, but gone or given up
  uint32_t differing_ = 0;
  int trouble_ = 0;
  int64_t progress_ns_ = 0;  // when somebody last answered; 0: clock not read yet
  uint32_t pending_then_ = 0;
};

}  // namespace caisson::psx::internal
