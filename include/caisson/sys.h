// caisson::sys: starting and controlling programs on a Linux host.
//
// Everything here works without the rest of Caisson. Results are values (Result<T>), nothing throws
// on a failure of the host, and every function may be called from any thread.
//
//   auto process = caisson::sys::start_process("/bin/echo", {"echo", "hello"});
//   if (!process.ok()) std::puts(process.error().text().c_str());
//   else               process->wait();
#pragma once

#include "caisson/sys/clone_flags.h"  // IWYU pragma: export
#include "caisson/sys/environment.h"  // IWYU pragma: export
#include "caisson/sys/errors.h"       // IWYU pragma: export
#include "caisson/sys/files.h"        // IWYU pragma: export
#include "caisson/sys/fork_lock.h"    // IWYU pragma: export
#include "caisson/sys/process.h"      // IWYU pragma: export
#include "caisson/sys/signal.h"       // IWYU pragma: export
#include "caisson/sys/start.h"        // IWYU pragma: export
#include "caisson/sys/times.h"        // IWYU pragma: export
#include "caisson/sys/wait.h"         // IWYU pragma: export
