// Resource limits and priorities: RLIMIT_*, RUSAGE_*, PRIO_*, and ITIMER_*, which libc's headers
// have as the kernel's.
#pragma once

#include <sys/resource.h>
#include <sys/time.h>
