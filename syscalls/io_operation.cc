#include "syscalls/io_operation.h"

#include "abi/signal.h"

namespace caisson {

Result<size_t> TransferOperation::transfer() {
  if (direction_ == Direction::kRead) {
    return offset_ ? file_->pread(buffer_, *offset_ + done_, flags_) : file_->read(buffer_, flags_);
  }
  return offset_ ? file_->pwrite(buffer_, *offset_ + done_, flags_) : file_->write(buffer_, flags_);
}

StepResult TransferOperation::step(CurrentTask& task) {
  for (;;) {
    Result<size_t> moved = transfer();
    if (!moved.ok()) {
      if (moved.error() == Errno(EAGAIN)) {
        if (!flags_.nonblocking) return MustWait{};
        return done_ != 0 ? StepResult(done_) : StepResult(Errno(EAGAIN));
      }
      if (moved.error() == Errno(EPIPE) && file_->raises_sigpipe()) task.raise(SIGPIPE);
      return done_ != 0 ? StepResult(done_) : StepResult(moved.error());
    }
    done_ += moved.value();
    bool goes_on = direction_ == Direction::kWrite && !flags_.nonblocking &&
                   file_->writes_everything() && buffer_.remaining() != 0 && moved.value() != 0;
    if (!goes_on) return done_;
  }
}

void TransferOperation::arm(CurrentTask&, Waiter& waiter) {
  entry_.waiter = &waiter;
  entry_.mask = (direction_ == Direction::kRead ? kEventIn : kEventOut) | kEventAlways;
  file_->add_waiter(entry_);
}

StepResult TransferOperation::interrupted(CurrentTask&) {
  if (done_ != 0) return done_;
  return Errno(kERESTARTSYS);
}

}  // namespace caisson
