#include "sys/function_child.h"

#include <linux/prctl.h>

#include <memory>

#include "caisson/sys/fork_lock.h"
#include "caisson/sys/process.h"
#include "host/raw_syscall.h"

namespace caisson::sys::internal {

using host::raw_arg;
using host::raw_syscall;

FunctionCall make_function_call(ChildFunction function, void* argument) {
  FunctionCall call;
  call.function = function;
  call.argument = argument;
  if (!raw_syscall(SYS_prctl, PR_GET_TID_ADDRESS, raw_arg(&call.thread_id)).ok())
    call.thread_id = nullptr;
  raw_syscall(SYS_get_robust_list, 0, raw_arg(&call.robust_list), raw_arg(&call.robust_list_size))
      .ignore();
  return call;
}

void run_function_call(void* data) noexcept {
  const auto& call = *static_cast<const FunctionCall*>(data);
  // The C library's locks and pthread_kill() go by the number that it keeps.
  if (call.thread_id != nullptr)
    *call.thread_id =
        static_cast<int>(raw_syscall(SYS_set_tid_address, raw_arg(call.thread_id)).value());
  if (call.robust_list != nullptr)
    raw_syscall(SYS_set_robust_list, raw_arg(call.robust_list),
                static_cast<long>(call.robust_list_size))
        .ignore();
  // It was held when the memory was copied, and its holders are not here.
  std::construct_at(&fork_lock());
  exit(call.function(call.argument));
}

}  // namespace caisson::sys::internal
