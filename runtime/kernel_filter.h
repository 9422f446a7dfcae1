// The kernel process' own seccomp filter: an allow-list as data, a reason for each rule.
#pragma once

#include "base/error.h"
#include "base/result.h"
#include "seccomp/program.h"

namespace caisson::runtime {

std::vector<seccomp::Rule> kernel_process_rules();
// Puts the filter on the calling thread and those it makes later. Precondition: no_new_privs, one
// thread.
Result<void, Error> install_kernel_filter();

}  // namespace caisson::runtime
