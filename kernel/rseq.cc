#include "kernel/rseq.h"

#include <linux/rseq.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "kernel/current_task.h"
#include "kernel/kernel.h"
#include "kernel/run_operation.h"
#include "kernel/signals.h"
#include "kernel/task.h"

namespace caisson {
namespace {

constexpr uint32_t kOriginalSize = 32;

bool is_well_formed(const platform::RseqArea& area, const platform::RseqSupport& support) {
  if (area.length == kOriginalSize) return area.addr % kOriginalSize == 0;
  return support.feature_size != 0 && area.length > kOriginalSize &&
         area.length >= support.feature_size && area.addr % support.alignment == 0;
}

// What the host may write of it: all that Linux has put there so far, with room.
uint64_t written(const platform::RseqArea& area) { return std::min<uint64_t>(area.length, 256); }

class Wake final : public platform::Deferred {
 public:
  explicit Wake(Ref<Task> task) : task_(std::move(task)) {}
  void run() override { task_->notify(); }

 private:
  Ref<Task> task_;
};

// Waits only for a fork of another thread that leaves memory to both.
class RegisterRseq final : public Operation {
 public:
  explicit RegisterRseq(const platform::RseqArea& area) : area_(area) {}

  StepResult step(CurrentTask& current) override {
    Task& task = current.task();
    Result<void> kept = current.mm().keep_writable(area_.addr, written(area_));
    if (!kept.ok()) {
      if (kept.error() == Errno(EAGAIN)) return MustWait{};
      if (kept.error() == Errno(kEMEMORYLIMIT)) return kept.error();
      // The call succeeds on Linux; what the host would write on the way back can't be written.
      force_fatal_signal(current, SIGSEGV);
      return uint64_t{0};
    }
    task.rseq = area_;
    task.context->set_rseq(area_);
    return uint64_t{0};
  }
  void arm(CurrentTask& current, Waiter&) override {
    current.mm().run_when_settled(std::make_unique<Wake>(Ref<Task>(current.task())));
  }
  void disarm() override {}
  StepResult interrupted(CurrentTask&) override { return Errno(kERESTARTNOINTR); }
  const char* name() const override { return "rseq"; }

 private:
  const platform::RseqArea area_;
};

Result<uint64_t> unregister(CurrentTask& current, const platform::RseqArea& area) {
  Task& task = current.task();
  const platform::RseqArea& now = task.rseq;
  if (now.length == 0 || area.addr != now.addr || area.length != now.length) return Errno(EINVAL);
  if (area.signature != now.signature) return Errno(EPERM);
  // As what the host does then.
  TRY(current.mm().zero_out(area.addr, sizeof(uint32_t)).result());
  forget_rseq(task);
  task.context->set_rseq({});
  return 0;
}

}  // namespace

SyscallResult change_rseq(CurrentTask& current, const platform::RseqArea& area, int flags) {
  std::optional<platform::RseqSupport> support = current.kernel().platform().rseq_support();
  if (!support) return Errno(ENOSYS);
  if ((flags & ~RSEQ_FLAG_UNREGISTER) != 0) return Errno(EINVAL);
  if (flags != 0) return unregister(current, area);
  const platform::RseqArea& now = current.task().rseq;
  if (now.length != 0) {
    if (area.addr != now.addr || area.length != now.length) return Errno(EINVAL);
    return Errno(area.signature != now.signature ? EPERM : EBUSY);
  }
  if (!is_well_formed(area, *support)) return Errno(EINVAL);
  if (!current.mm().is_guest_range(area.addr, area.length)) return Errno(EFAULT);
  if (area.addr == 0) return 0;  // to Linux that is none
  return run(current, RegisterRseq(area));
}

void forget_rseq(Task& task) {
  if (task.rseq.length == 0) return;
  if (RefOrNull<MemoryManager> mm = task.mm_ref()) mm->stop_keeping_writable(task.rseq.addr);
  task.rseq = {};
}

bool host_refuses_rseq(CurrentTask& current) {
  MemoryManager& mm = current.mm();
  if (!mm.kept_is_writable()) return true;
  const platform::RseqArea& area = current.task().rseq;
  if (area.length == 0) return false;
  auto pointer = mm.copy_in(UserIn<uint64_t>(area.addr + offsetof(struct rseq, rseq_cs)));
  if (!pointer.ok()) return true;
  if (*pointer == 0) return false;
  auto sequence = mm.copy_in(UserIn<struct rseq_cs>(*pointer));
  if (!sequence.ok() || sequence->version != 0) return true;
  if (sequence->abort_ip - sequence->start_ip < sequence->post_commit_offset) return true;
  auto signature = mm.copy_in(UserIn<uint32_t>(sequence->abort_ip - sizeof(uint32_t)));
  return !signature.ok() || *signature != area.signature;
}

void inherit_rseq(CurrentTask& current, Task& child) {
  const platform::RseqArea& area = current.task().rseq;
  if (area.length == 0) return;
  child.rseq = area;
  // What can't be written there (MADV_DONTFORK) ends the child, as on Linux.
  (void)child.mm_ref()->keep_writable(area.addr, written(area));
  child.context->set_rseq(area);
}

}  // namespace caisson
