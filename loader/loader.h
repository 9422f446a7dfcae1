// load_program(): builds the address space of a program, execve(2). Linux: fs/exec.c,
// fs/binfmt_elf.c, fs/binfmt_script.c.
//
// Static, static-PIE and dynamic ELF64 x86-64, and #! scripts. The caller's address space is not
// touched: exec commits to the new one only when all of it stands. Where Linux would already have
// given up the old program when the error shows, LoadError says so and the process must die of
// SIGSEGV instead of seeing an errno.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/ref.h"
#include "base/result.h"
#include "loader/executable_file.h"
#include "mm/memory_manager.h"

namespace caisson {

struct ProgramRequest {
  Ref<ExecutableFile> file;
  std::string filename;  // as given to execve; becomes AT_EXECFN and a script's argument
  std::vector<std::string> arguments;
  std::vector<std::string> environment;
  ProgramOpener& opener;
  MemoryLimits limits;
  // Asked once `file` is the program itself: set-id bits of scripts do not count. Sets the ids
  // below.
  std::function<void(ProgramRequest&)> choose_ids{};
  // For the auxiliary vector; ids as the guest sees them, after set-id bits were applied.
  uint32_t uid = 0, euid = 0, gid = 0, egid = 0;
  bool secure = false;        // AT_SECURE
  uint64_t trust_domain = 0;  // see Platform::new_address_space()
  bool randomize = true;      // false: personality ADDR_NO_RANDOMIZE
};

struct LoadedProgram {
  Ref<MemoryManager> mm;
  GuestAddr entry = 0;
  GuestAddr stack_pointer = 0;
  Ref<ExecutableFile> file;  // what /proc/PID/exe shows: a script's interpreter
  std::string command_name;  // the task's name: last part of the script's or program's file name
};

struct LoadError {
  Errno error{0};
  bool fatal = false;  // past the point of no return: the process dies of SIGSEGV
  LoadError(Errno error, bool fatal = false) : error(error), fatal(fatal) {}  // NOLINT
};

// Total size of arguments and environment, and of one string, that execve(2) accepts: E2BIG beyond.
inline constexpr size_t kMaxArgumentString = 32 * 4096;
uint64_t argument_space_limit(const MemoryLimits& limits);

Result<LoadedProgram, LoadError> load_program(platform::Platform& platform, MemoryFile& memory,
                                              ProgramRequest request);

}  // namespace caisson
