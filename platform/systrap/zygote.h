// Zygote: the kernel process' end of the zygote (stub/zygote.cc), from which stub processes come.
//
// Forked once, while the kernel process has one thread and no guest data. Commands and answers are
// datagrams on a socket; answers are taken on the event loop's thread. If the zygote dies the
// sandbox cannot go on: on_death runs.
#pragma once

#include <functional>
#include <memory>
#include <queue>
#include <unordered_map>

#include "base/mutex.h"
#include "base/ref.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "host/event_loop.h"
#include "platform/systrap/shared_memory.h"

namespace caisson::systrap {

class CallPatches;

class Zygote : public host::FdWatcher {
 public:
  struct Start {
    int memory_fd;     // guest memory file, read-write
    int memory_ro_fd;  // the same, read-only
    const CallPatches& calls;
  };
  // Forks the zygote. Precondition: the caller is single-threaded.
  static Result<Ref<Zygote>> start(SharedMemory& memory, const Start& start);

  // From now on answers are delivered by `loop`.
  Result<void> attach(host::EventLoop& loop, std::function<void()> on_death);

  // Sends a command; `descriptor` (or -1) goes along and stays the caller's. `done` gets the
  // answer's result: 0 or a pid, or -errno.
  using Done = std::function<void(int32_t result)>;
  void send(CommandKind kind, uint32_t fd, uint32_t index, int descriptor, Done done) EXCLUDES(mu_);

  int pid() const { return pid_; }
  // Whether the host's vDSO could be moved into the stub region, and where its ELF header is then.
  uint64_t vdso_address() const { return vdso_address_; }

  void ready(uint32_t epoll_events) override;

 private:
  class DeathWatch;
  struct Queued {
    Command command;
    UniqueFd descriptor;
  };
  bool send_now(const Command& command, int descriptor);
  void flush_locked() REQUIRES(mu_);

  int pid_ = -1;
  uint64_t vdso_address_ = 0;
  UniqueFd socket_;
  UniqueFd pidfd_;
  std::function<void()> on_death_;  // set once before start

  Mutex<LockRank::kPlatform> mu_;
  uint32_t next_serial_ GUARDED_BY(mu_) = 1;
  std::unordered_map<uint32_t, Done> waiting_ GUARDED_BY(mu_);
  std::queue<Queued> backlog_ GUARDED_BY(mu_);
};

}  // namespace caisson::systrap
