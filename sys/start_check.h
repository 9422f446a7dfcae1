// What start_process() refuses before it makes a process.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "caisson/sys/start.h"

namespace caisson::sys::internal {

// The first thing wrong with the arguments, naming the field; nullopt: nothing. What only the
// kernel can judge is left to it.
std::optional<StartError> check_attributes(const std::string& path,
                                           const std::vector<std::string>& argv,
                                           const ProcAttr& attr);
// The same for fork_exec() and start_function().
std::optional<StartError> check_fork_exec_attributes(const std::string& path,
                                                     const std::vector<std::string>& argv,
                                                     const ProcAttr& attr);
std::optional<StartError> check_function_attributes(ChildFunction function, const ProcAttr& attr);

}  // namespace caisson::sys::internal
