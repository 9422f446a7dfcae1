#include "psx/message.h"

#include <errno.h>
#include <sys/syscall.h>

#include "psx/broadcast_state.h"

namespace caisson::psx::internal {

namespace {

struct Name {
  long value;
  const char* name;
};

// What privilege changes meet; other errors are printed by number.
constexpr Name kErrors[] = {
    {EPERM, "EPERM"},         {ESRCH, "ESRCH"},   {EINTR, "EINTR"},   {EBADF, "EBADF"},
    {EAGAIN, "EAGAIN"},       {ENOMEM, "ENOMEM"}, {EACCES, "EACCES"}, {EFAULT, "EFAULT"},
    {EBUSY, "EBUSY"},         {ENOENT, "ENOENT"}, {EINVAL, "EINVAL"}, {ENOSYS, "ENOSYS"},
    {ETIMEDOUT, "ETIMEDOUT"}, {EMFILE, "EMFILE"}, {ENFILE, "ENFILE"}, {ENOTDIR, "ENOTDIR"},
};

constexpr Name kCalls[] = {
    {SYS_setuid, "setuid"},       {SYS_setgid, "setgid"},
    {SYS_setreuid, "setreuid"},   {SYS_setregid, "setregid"},
    {SYS_setresuid, "setresuid"}, {SYS_setresgid, "setresgid"},
    {SYS_setfsuid, "setfsuid"},   {SYS_setfsgid, "setfsgid"},
    {SYS_setgroups, "setgroups"}, {SYS_capset, "capset"},
    {SYS_prctl, "prctl"},         {SYS_seccomp, "seccomp"},
    {SYS_unshare, "unshare"},     {SYS_setns, "setns"},
    {SYS_keyctl, "keyctl"},       {SYS_landlock_restrict_self, "landlock_restrict_self"},
};

}  // namespace

Message& Message::text(const char* words) {
  while (*words != '\0' && length_ < sizeof(buffer_) - 1) buffer_[length_++] = *words++;
  return *this;
}

Message& Message::number(long value) {
  char digits[24];
  char* at = digits + sizeof(digits);
  *--at = '\0';
  unsigned long rest = value < 0 ? 0UL - static_cast<unsigned long>(value) : value;
  do {
    *--at = static_cast<char>('0' + rest % 10);
    rest /= 10;
  } while (rest != 0);
  if (value < 0) *--at = '-';
  return text(at);
}

Message& Message::result(long value) {
  number(value);
  for (const Name& error : kErrors) {
    if (error.value == -value) return text(" (").text(error.name).text(")");
  }
  return *this;
}

Message& Message::call(long nr) {
  for (const Name& call : kCalls) {
    if (call.value == nr) return text(call.name);
  }
  return text("system call ").number(nr);
}

void Message::print() {
  Message line;
  buffer_[length_] = '\0';
  line.text("psx: ").text(buffer_);
  line.buffer_[line.length_++] = '\n';
  write_error(line.buffer_, line.length_);
}

}  // namespace caisson::psx::internal
