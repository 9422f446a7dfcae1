// Operation: a system call that waits. It owns everything that the call resolved and copied in so
// far, so that a parked task is plain data and nothing of the call is looked up or read twice (see
// docs/design.md, "Kernel code never sleeps").
//
// Life: the handler calls run(task, SomeOperation{...}). run() calls step(); if that says kWait,
// the operation is armed (it links WaitEntries that wake the task), stepped once more, and parked.
// Each wake-up steps it again. A signal asks interrupted(), the deadline asks timed_out(). disarm()
// is called exactly once after arm(), before destruction. Only the worker that runs the task calls
// these; wake-ups come from anywhere through the Waiter.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <variant>

#include "base/errno.h"
#include "kernel/waiter/wait_queue.h"

namespace caisson {

class CurrentTask;

struct MustWait {};
// A finished call's value, its errno, or MustWait.
using StepResult = std::variant<uint64_t, Errno, MustWait>;

class Operation {
 public:
  virtual ~Operation() = default;

  virtual StepResult step(CurrentTask& task) = 0;
  // Links wait entries that call `waiter`; step() is called once more afterwards, so nothing is
  // missed.
  virtual void arm(CurrentTask& task, Waiter& waiter) = 0;
  virtual void disarm() = 0;

  // Absolute CLOCK_MONOTONIC nanoseconds of the host at which timed_out() is asked; none: wait for
  // ever. Asked again when timed_out() says MustWait.
  virtual std::optional<uint64_t> deadline_ns() const { return std::nullopt; }
  virtual StepResult timed_out(CurrentTask& task) { return Errno(ETIMEDOUT); }
  // The result when a signal is to be handled: usually a restart code, or what has been done so
  // far.
  virtual StepResult interrupted(CurrentTask& task) { return Errno(kERESTARTSYS); }
  // Waits through every signal but one that ends the process (vfork, exec). Linux: TASK_KILLABLE.
  virtual bool killable_only() const { return false; }
  // False: not a call waits but a fault, so the result is dropped and no register changes.
  virtual bool is_call() const { return true; }
  // For strace and /proc/PID/wchan: "pipe_read", "futex_wait".
  virtual const char* name() const = 0;
};

}  // namespace caisson
