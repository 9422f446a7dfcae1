// caisson::psx: one system call on every thread of this process.
//
// Linux keeps credentials, capabilities, no_new_privs, seccomp filters and the like per thread.
// These functions give a process what POSIX promises: the calling thread makes the call; if it
// fails nobody else makes it and its error is returned; if it succeeds every other thread makes the
// same call, held until the last one is done, and the caller's result is returned. Threads are
// found in /proc/self/task, so it does not matter who made them (libc, Go, raw clone).
//
// There is one broadcast at a time in a process; callers queue on a lock inside. The functions may
// be called from any thread, also in a signal handler and in a child after fork. This header needs
// nothing else of Caisson; the C interface with libcap's names is sys/psx_syscall.h. psx/README.md
// in the sources lists the system calls made, what threads notice (EINTR), and the limits. Pointers
// in arguments must stay valid until the function returns; every thread uses the same.
#pragma once

#include <cstdint>

#pragma GCC visibility push(default)
namespace caisson::psx {

// The caller's result. On success r1 and r2 both hold it and error is 0; on failure both are
// UINTPTR_MAX and error is an errno(3) value. Beside the call's own errors: EINVAL (a call that
// makes no sense on all threads: it ends, replaces or copies a thread or the process, waits for a
// signal, or sets what is each thread's own; a line on standard error says which), EDEADLK (asked
// for by a handler of signal 33 amid the same thread's broadcast), ETIMEDOUT (a thread did not
// answer before the deadline; a line names it), ENOENT, EMFILE or the like (no usable /proc or no
// descriptor), ENOMEM, EAGAIN (RLIMIT_SIGPENDING leaves no room for a signal), and what a seccomp
// filter answers. After all of these but EINVAL and EDEADLK some threads may have made the call and
// some not: a program that drops privileges must not go on.
struct Outcome {
  uintptr_t r1;
  uintptr_t r2;
  int error;
  bool ok() const { return error == 0; }
};

Outcome syscall3(long nr, uintptr_t a1, uintptr_t a2, uintptr_t a3);
Outcome syscall6(long nr, uintptr_t a1, uintptr_t a2, uintptr_t a3, uintptr_t a4, uintptr_t a5,
                 uintptr_t a6);

// What happens when a thread's result differs from the caller's. kWarn and kEndProcess print the
// call, both results and the thread to standard error; kEndProcess, the default, then ends the
// process with SIGSYS while all threads are still held, so that none runs on with other rights.
enum class Mismatch { kIgnore = 0, kWarn = 1, kEndProcess = 2 };
void set_mismatch(Mismatch what);

// How long to wait for a thread that does not answer (signal blocked by hand, stopped by a tracer,
// in vfork's wait), in milliseconds since the last answer of any thread. Default 10 000. For the
// whole process, as set_mismatch is.
void set_deadline_ms(uint32_t deadline_ms);

// Whether a process that libc takes for single-threaded is believed to be. Off unless set: then the
// kernel is asked at each call whether there is another thread (one cheap system call more). On, a
// lone process pays for nothing but the call itself, and a thread that libc did not make (by raw
// clone(2)) is not told while libc has made none and no call has met it yet. 0, or ENOSYS where
// libc does not say (glibc before 2.32, musl): nothing is changed then. For the whole process.
int trust_libc(bool trust);

// Opens /proc/self/task now and keeps it, so that later calls work after /proc is gone (unmounted,
// pivot_root, Landlock). Otherwise the first call with more than one thread does it. 0 or an errno
// value.
int prepare();

}  // namespace caisson::psx
#pragma GCC visibility pop
