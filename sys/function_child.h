// FunctionCall: what start_function()'s child does once run_child() (sys/child.h) is through.
//
// One per start, on the caller's stack; the child uses its own copy.
#pragma once

#include <cstddef>

#include "caisson/sys/start.h"

namespace caisson::sys::internal {

struct FunctionCall {
  ChildFunction function = nullptr;
  void* argument = nullptr;
  // The calling thread's, as the host knows them: what fork(3) would put right in the child.
  int* thread_id = nullptr;  // where the C library keeps it; null: the host does not say
  void* robust_list = nullptr;
  size_t robust_list_size = 0;
};

FunctionCall make_function_call(ChildFunction function, void* argument);
// In the child; `call` is a FunctionCall. Never returns. An exception that leaves the function
// ends the child (std::terminate()): it must not unwind into the copy of the caller.
[[noreturn]] void run_function_call(void* call) noexcept;

}  // namespace caisson::sys::internal
