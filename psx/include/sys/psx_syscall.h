/*
 * psx_syscall.h: one system call on every thread of this process; drop-in for libcap's libpsx.
 *
 * Link with `pkg-config --libs libpsx libcap` (libpsx first) and libcap's cap_set_proc(),
 * cap_setuid(), cap_set_mode() act on all threads. No -wrap flag is needed; a program that is
 * still linked with -Wl,-wrap,pthread_create works as well.
 *
 * What the two versions of the interface share: psx_syscall3, psx_syscall6, psx_syscall,
 * __psx_syscall, psx_load_syscalls, __wrap_pthread_create. What differs:
 *   v0.2.46  has no psx_set_sensitivity; results that differ between threads pass unseen.
 *   v1.2.69  has psx_set_sensitivity (in C ignored by default; its Go package panics).
 *   here     both sets exist; the default is PSX_ERROR: differing results end the process. Ask for
 *            PSX_IGNORE to have what v0.2.46 does.
 * Also here: threads are found in /proc/self/task, whoever made them; a thread that does not answer
 * gives -1 and ETIMEDOUT instead of a hang; calls that make no sense on all threads (fork, execve,
 * exit, ...) give -1 and EINVAL.
 */
#pragma once

#ifndef _SYS_PSX_SYSCALL_H
#define _SYS_PSX_SYSCALL_H

#include <pthread.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/*
 * The result of the calling thread, or -1 with errno set. If the call fails on the calling thread
 * no other thread makes it. Pointers stay the caller's and must be valid until the return. After
 * ETIMEDOUT, EAGAIN, ENOMEM or an error of /proc (ENOENT, EMFILE, ...) some threads may have made
 * the call: a program that drops privileges must not go on.
 */
long int psx_syscall3(long int syscall_nr, long int arg1, long int arg2, long int arg3);
long int psx_syscall6(long int syscall_nr, long int arg1, long int arg2, long int arg3,
                      long int arg4, long int arg5, long int arg6);

/*
 * psx_syscall(nr, ...) takes zero to six arguments, integers or pointers. __psx_syscall is its
 * landing place: six arguments of type long and, seventh, how many of them count (the older
 * macro's calling convention: the arguments, then 6, 5, 4, 3, 2, 1, 0).
 */
long int __psx_syscall(long int syscall_nr, ...);
#define psx_syscall(...)                                                                    \
  __PSX_PICK(__VA_ARGS__, __PSX_6, __PSX_5, __PSX_4, __PSX_3, __PSX_2, __PSX_1, __PSX_0, 0) \
  (__VA_ARGS__)
#define __PSX_PICK(n, a, b, c, d, e, f, name, ...) name
#define __PSX_L(x) ((long int)(x))
#define __PSX_0(n) __psx_syscall(__PSX_L(n), 0L, 0L, 0L, 0L, 0L, 0L, 0L)
#define __PSX_1(n, a) __psx_syscall(__PSX_L(n), __PSX_L(a), 0L, 0L, 0L, 0L, 0L, 1L)
#define __PSX_2(n, a, b) __psx_syscall(__PSX_L(n), __PSX_L(a), __PSX_L(b), 0L, 0L, 0L, 0L, 2L)
#define __PSX_3(n, a, b, c) \
  __psx_syscall(__PSX_L(n), __PSX_L(a), __PSX_L(b), __PSX_L(c), 0L, 0L, 0L, 3L)
#define __PSX_4(n, a, b, c, d) \
  __psx_syscall(__PSX_L(n), __PSX_L(a), __PSX_L(b), __PSX_L(c), __PSX_L(d), 0L, 0L, 4L)
#define __PSX_5(n, a, b, c, d, e) \
  __psx_syscall(__PSX_L(n), __PSX_L(a), __PSX_L(b), __PSX_L(c), __PSX_L(d), __PSX_L(e), 0L, 5L)
#define __PSX_6(n, a, b, c, d, e, f)                                                    \
  __psx_syscall(__PSX_L(n), __PSX_L(a), __PSX_L(b), __PSX_L(c), __PSX_L(d), __PSX_L(e), \
                __PSX_L(f), 6L)

/*
 * Hands out psx_syscall3 and psx_syscall6. libcap has a weak function of this name that hands out
 * plain syscall(2); this one takes its place at link time.
 */
void psx_load_syscalls(long int (**syscall_fn)(long int, long int, long int, long int),
                       long int (**syscall6_fn)(long int, long int, long int, long int, long int,
                                                long int, long int));

/*
 * What happens when a thread's result differs from the caller's: PSX_IGNORE nothing, PSX_WARNING a
 * message that names the thread and both results, PSX_ERROR (the default) the message and the end
 * of the process by SIGSYS. Returns 0, or -1 with EINVAL for another level.
 */
#ifdef __cplusplus
#define __PSX_AS_INT : int /* any level may be passed, also a wrong one */
#else
#define __PSX_AS_INT
#endif
typedef enum __PSX_AS_INT {
  PSX_IGNORE = 0,
  PSX_WARNING = 1,
  PSX_ERROR = 2,
} psx_sensitivity_t;
int psx_set_sensitivity(psx_sensitivity_t level);

/* Additions of this library. */

/*
 * How long to wait for a thread that does not answer, in milliseconds since the last answer of any
 * thread; 10000 unless set. For the whole process, as the sensitivity is.
 */
void psx_set_deadline_ms(unsigned int deadline_ms);
/*
 * Not 0: a process that libc takes for single-threaded is believed to be, and the kernel is not
 * asked; threads made by raw clone(2) may then go without the call. Off unless set. Returns 0, or
 * -1 with ENOSYS where libc does not say (it must be glibc 2.32 or later).
 */
int psx_trust_libc(int trust);
/* Opens /proc/self/task and keeps it, for use after /proc is gone. 0, or -1 with errno. */
int psx_prepare(void);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif /* _SYS_PSX_SYSCALL_H */
