// The two seccomp filters of stubs, as data.
//
// Every process below the zygote has the stub-process filter; a guest thread has the guest-thread
// filter on top before it runs any guest code. Both answer everything else with a trap, which the
// kernel process then treats as the guest's system call, so guest code anywhere else in the address
// space always traps.
#pragma once

#include <linux/filter.h>

#include <cstdint>
#include <vector>

namespace caisson::systrap {

// `base` is the address of the stub region.
std::vector<sock_filter> stub_process_filter(uint64_t base);
std::vector<sock_filter> guest_thread_filter(uint64_t base, bool stub_calls = true);

}  // namespace caisson::systrap
