// The C interface, with the names of libcap's libpsx (sys/psx_syscall.h).
#include <errno.h>
#include <stdarg.h>

#include "psx/include/sys/psx_syscall.h"
#include "psx/psx.h"

// With -Wl,-wrap,pthread_create in a static link this is pthread_create; else it is missing.
extern "C" __attribute__((weak)) int __real_pthread_create(pthread_t*, const pthread_attr_t*,
                                                           void* (*)(void*), void*);
extern "C" __attribute__((visibility("default"))) int __wrap_pthread_create(
    pthread_t* thread, const pthread_attr_t* attributes, void* (*start)(void*), void* argument);

namespace {

long give(const caisson::psx::Outcome& outcome) {
  if (!outcome.ok()) errno = outcome.error;
  return static_cast<long>(outcome.r1);
}

int give_error(int error) {
  if (error == 0) return 0;
  errno = error;
  return -1;
}

}  // namespace

long psx_syscall3(long nr, long arg1, long arg2, long arg3) {
  return give(caisson::psx::syscall3(nr, arg1, arg2, arg3));
}

long psx_syscall6(long nr, long arg1, long arg2, long arg3, long arg4, long arg5, long arg6) {
  return give(caisson::psx::syscall6(nr, arg1, arg2, arg3, arg4, arg5, arg6));
}

long __psx_syscall(long nr, ...) {
  long arg[7];
  va_list list;
  va_start(list, nr);
  for (long& each : arg) each = va_arg(list, long);
  va_end(list);
  const long count = arg[6];
  if (count < 0 || count > 6) {
    errno = EINVAL;
    return -1;
  }
  for (long i = count; i < 6; i++) arg[i] = 0;
  return psx_syscall6(nr, arg[0], arg[1], arg[2], arg[3], arg[4], arg[5]);
}

void psx_load_syscalls(long (**syscall_fn)(long, long, long, long),
                       long (**syscall6_fn)(long, long, long, long, long, long, long)) {
  *syscall_fn = psx_syscall3;
  *syscall6_fn = psx_syscall6;
}

int psx_set_sensitivity(psx_sensitivity_t level) {
  switch (static_cast<int>(level)) {
    case PSX_IGNORE:
      caisson::psx::set_mismatch(caisson::psx::Mismatch::kIgnore);
      return 0;
    case PSX_WARNING:
      caisson::psx::set_mismatch(caisson::psx::Mismatch::kWarn);
      return 0;
    case PSX_ERROR:
      caisson::psx::set_mismatch(caisson::psx::Mismatch::kEndProcess);
      return 0;
    default:
      errno = EINVAL;
      return -1;
  }
}

void psx_set_deadline_ms(unsigned int deadline_ms) { caisson::psx::set_deadline_ms(deadline_ms); }

int psx_trust_libc(int trust) { return give_error(caisson::psx::trust_libc(trust != 0)); }

int psx_prepare() { return give_error(caisson::psx::prepare()); }

// Programs linked for the older library call this for pthread_create. Threads need no registration
// here.
int __wrap_pthread_create(pthread_t* thread, const pthread_attr_t* attributes,
                          void* (*start)(void*), void* argument) {
  auto* create = &__real_pthread_create != nullptr ? &__real_pthread_create : &pthread_create;
  return create(thread, attributes, start, argument);
}
