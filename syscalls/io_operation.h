// TransferOperation: read(2), write(2) and their kin as an operation that may wait.
//
// Owns the open file and the buffer, so that closing the descriptor meanwhile changes nothing. The
// file itself never waits: EAGAIN of a blocking file means wait for readiness.
#pragma once

#include "kernel/current_task.h"
#include "kernel/operation.h"
#include "mm/user_buffer.h"
#include "vfs/file_description.h"

namespace caisson {

class TransferOperation final : public Operation {
 public:
  enum class Direction : uint8_t { kRead, kWrite };
  TransferOperation(Ref<FileDescription> file, UserBuffer buffer, Direction direction,
                    std::optional<uint64_t> offset, IoFlags flags)
      : file_(std::move(file)),
        buffer_(std::move(buffer)),
        direction_(direction),
        offset_(offset),
        flags_(flags) {}

  StepResult step(CurrentTask& task) override;
  void arm(CurrentTask& task, Waiter& waiter) override;
  void disarm() override { file_->remove_waiter(entry_); }
  StepResult interrupted(CurrentTask& task) override;
  const char* name() const override {
    return direction_ == Direction::kRead ? "file_read" : "file_write";
  }
  TransferOperation(TransferOperation&& other) noexcept
      : file_(std::move(other.file_)),
        buffer_(std::move(other.buffer_)),
        direction_(other.direction_),
        offset_(other.offset_),
        flags_(other.flags_),
        done_(other.done_) {}

 private:
  Result<size_t> transfer();
  Ref<FileDescription> file_;
  UserBuffer buffer_;
  Direction direction_;
  std::optional<uint64_t> offset_;
  IoFlags flags_;
  uint64_t done_ = 0;
  WaitEntry entry_;
};

}  // namespace caisson
