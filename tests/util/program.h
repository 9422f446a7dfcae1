// What the test program knows about itself, and the probes it can be started as.
// A probe is a function that runs instead of the tests when the program is executed as `PROGRAM
// --probe=NAME ...`.
#pragma once

#include <string>
#include <vector>

namespace caisson::test {

// Absolute path of the running test program.
const std::string& program_path();

using Probe = int (*)(int argc, char** argv);
struct RegisterProbe {
  RegisterProbe(const char* name, Probe probe);
};

// {program_path(), "--probe=NAME", rest...}
std::vector<std::string> probe_command(const std::string& name,
                                       const std::vector<std::string>& rest = {});
// A null-terminated vector for execve; borrows the strings.
std::vector<char*> exec_vector(const std::vector<std::string>& strings);

}  // namespace caisson::test
