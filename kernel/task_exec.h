// Running a new program: execve(2). Linux: fs/exec.c.
//
// load_image() builds everything while the old program still stands, so that every error can be
// reported. ExecOperation then ends the other threads, waits until they are gone, and commits,
// which cannot fail.
#pragma once

#include <string>
#include <vector>

#include "kernel/executable.h"
#include "kernel/operation.h"
#include "kernel/task.h"
#include "loader/loader.h"

namespace caisson {

struct ExecRequest {
  std::string filename;  // as the program sees it: AT_EXECFN
  std::vector<std::string> arguments;
  std::vector<std::string> environment;
};

struct ExecImage {
  LoadedProgram program;
  ExecCredentials credentials;
  std::string path;  // for /proc/PID/exe
  bool is_dumpable = true;
};

// `place` is the file itself. Errors as execve(2)'s; fatal ones as the loader's.
Result<ExecImage, LoadError> load_image(Kernel& kernel, const Caller& caller, const Path& place,
                                        ExecRequest request, const ResourceLimits::Array& limits,
                                        bool no_new_privileges, uint32_t personality);

// Makes the task start the program: address space, registers, name, credentials. The task's own
// worker, or before it has run.
void install_image(Task& task, ExecImage image);

MemoryLimits memory_limits_of(const ResourceLimits::Array& limits);

class ExecOperation final : public Operation {
 public:
  explicit ExecOperation(ExecImage image) : image_(std::move(image)) {}
  ExecOperation(ExecOperation&& other)
      : image_(std::move(other.image_)), has_begun_(other.has_begun_) {}

  StepResult step(CurrentTask& current) override;
  void arm(CurrentTask& current, Waiter& waiter) override;
  void disarm() override;
  bool killable_only() const override { return true; }
  const char* name() const override { return "exec"; }

 private:
  // EAGAIN: another thread is doing the same, or the process ends.
  Result<void> begin(Task& task);
  bool is_alone(Task& task);
  void commit(CurrentTask& current);

  ExecImage image_;
  bool has_begun_ = false;
  ThreadGroup* group_ = nullptr;
  WaitEntry entry_;
};

}  // namespace caisson
