/* The header and every name of the C interface, as a C program sees them. 0: all is well. */
#include <errno.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/psx_syscall.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CHECK(condition)                                 \
  do {                                                   \
    if (!(condition)) {                                  \
      fprintf(stderr, "%d: %s\n", __LINE__, #condition); \
      return 1;                                          \
    }                                                    \
  } while (0)

static void* other(void* stop) {
  while (!__atomic_load_n((int*)stop, __ATOMIC_ACQUIRE)) usleep(100);
  return NULL;
}

int psx_c_test(void) {
  long (*three)(long, long, long, long) = NULL;
  long (*six)(long, long, long, long, long, long, long) = NULL;
  char name[16] = "five";
  char back[16] = "";
  int stop = 0;
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, other, &stop) == 0);

  psx_load_syscalls(&three, &six);
  CHECK(three == psx_syscall3 && six == psx_syscall6);
  errno = 0;
  CHECK(three(SYS_prctl, PR_SET_NAME, (long)name, 0) == 0);
  CHECK(six(SYS_prctl, PR_GET_NAME, (long)back, 0, 0, 0, 0) == 0 && back[0] == 'f');

  /* Integers and pointers as they come, from none to six. getppid() looks at none. */
  CHECK(psx_syscall(SYS_getppid) == getppid());
  CHECK(psx_syscall(SYS_getpgid, 0) == getpgid(0));
  CHECK(psx_syscall(SYS_prctl, PR_SET_NAME, name) == 0);
  CHECK(psx_syscall(SYS_prctl, PR_GET_NAME, back, 0) == 0);
  CHECK(psx_syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0) == 0);
  CHECK(psx_syscall(SYS_prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
  CHECK(psx_syscall(SYS_getppid, 1, 2, 3, 4, 5, 6) == getppid());
  CHECK(errno == 0);
  /* The older macro's form: the arguments, then the counting numbers. */
  CHECK(__psx_syscall(SYS_prctl, (long)PR_GET_NO_NEW_PRIVS, 0L, 0L, 0L, 0L, 6L, 5L, 4L, 3L, 2L, 1L,
                      0L) == 1);
  CHECK(__psx_syscall(SYS_getpgid, 0L, 6L, 5L, 4L, 3L, 2L, 1L, 0L) == getpgid(0));
  CHECK(__psx_syscall(SYS_getpgid, 0L, 0L, 0L, 0L, 0L, 0L, 7L) == -1 && errno == EINVAL);

  errno = 0;
  CHECK(psx_syscall3(9999, 0, 0, 0) == -1 && errno == ENOSYS);
  errno = 0;
  CHECK(psx_syscall6(SYS_fork, 0, 0, 0, 0, 0, 0) == -1 && errno == EINVAL);

  CHECK(psx_set_sensitivity(PSX_IGNORE) == 0);
  CHECK(psx_set_sensitivity(PSX_WARNING) == 0);
  CHECK(psx_set_sensitivity(PSX_ERROR) == 0);
  errno = 0;
  CHECK(psx_set_sensitivity((psx_sensitivity_t)3) == -1 && errno == EINVAL);
  CHECK(psx_set_sensitivity((psx_sensitivity_t)-1) == -1);
  psx_set_deadline_ms(5000);
  CHECK(psx_prepare() == 0);
  CHECK(psx_trust_libc(1) == 0 || errno == ENOSYS);
  CHECK(psx_trust_libc(0) == 0);

  __atomic_store_n(&stop, 1, __ATOMIC_RELEASE);
  pthread_join(thread, NULL);
  return 0;
}
