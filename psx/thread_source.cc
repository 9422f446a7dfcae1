#include "psx/thread_source.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>

#include "host/raw_syscall.h"
#include "psx/broadcast_state.h"

namespace caisson::psx::internal {

using host::raw_arg;
using host::raw_syscall;
using host::RawResult;

namespace {

struct DirectoryEntry {  // linux_dirent64, getdents64(2)
  uint64_t inode;
  int64_t offset;
  uint16_t size;
  uint8_t type;
  char name[];
};

// A decimal number, or -1; stops at the first other character.
int32_t parse(const char* text) {
  if (*text < '0' || *text > '9') return -1;
  int64_t value = 0;
  for (; *text >= '0' && *text <= '9' && value < (1 << 30); text++)
    value = value * 10 + *text - '0';
  return static_cast<int32_t>(value);
}

// Writes "<tid>/<file>".
void path_of(int32_t tid, const char* file, char* path) {
  char digits[12];
  int length = 0;
  do {
    digits[length++] = static_cast<char>('0' + tid % 10);
    tid /= 10;
  } while (tid != 0);
  while (length > 0) *path++ = digits[--length];
  *path++ = '/';
  while ((*path++ = *file++) != '\0') {
  }
}

}  // namespace

bool ThreadSource::Descriptor::adopt(int opened) {
  constexpr int kAboveMost = 200;
  auto moved = raw_syscall(SYS_fcntl, opened, F_DUPFD_CLOEXEC, kAboveMost);
  if (moved.ok()) {
    raw_syscall(SYS_close, opened).ignore();
    opened = static_cast<int>(moved.value());
  }
  struct stat status;
  if (!raw_syscall(SYS_fstat, opened, raw_arg(&status)).ok()) return false;
  fd = opened;
  device = status.st_dev;
  inode = status.st_ino;
  return true;
}

bool ThreadSource::Descriptor::is_ours(int64_t* links) const {
  struct stat status;
  if (fd < 0 || !raw_syscall(SYS_fstat, fd, raw_arg(&status)).ok()) return false;
  if (links != nullptr) *links = static_cast<int64_t>(status.st_nlink);
  return status.st_dev == device && status.st_ino == inode;
}

void ThreadSource::Descriptor::close_if_ours() {
  if (is_ours(nullptr)) raw_syscall(SYS_close, fd).ignore();
  fd = -1;
}

int ThreadSource::open(int32_t pid) {
  if (pid_ != 0 && task_.is_ours(nullptr)) return 0;
  pid_ = 0;
  task_.close_if_ours();
  if (!proc_.is_ours(nullptr)) {
    proc_.fd = -1;
    auto opened =
        raw_syscall(SYS_openat, AT_FDCWD, raw_arg("/proc"), O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (!opened.ok()) return opened.error().value();
    if (!proc_.adopt(static_cast<int>(opened.value()))) return EBADF;
  }
  // A directory that only looks like procfs could hide threads.
  struct statfs filesystem;
  auto checked = raw_syscall(SYS_fstatfs, proc_.fd, raw_arg(&filesystem));
  if (!checked.ok() || filesystem.f_type != PROC_SUPER_MAGIC) {
    proc_.close_if_ours();
    return checked.ok() ? ENOENT : checked.error().value();
  }
  auto opened =
      raw_syscall(SYS_openat, proc_.fd, raw_arg("self/task"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (!opened.ok()) return opened.error().value();
  if (!task_.adopt(static_cast<int>(opened.value()))) return EBADF;
  char self[16] = {};
  if (!raw_syscall(SYS_readlinkat, proc_.fd, raw_arg("self"), raw_arg(self), sizeof(self) - 1).ok())
    return ENOENT;
  translate_ = parse(self) != pid;
  pid_ = pid;
  return 0;
}

int ThreadSource::count(int64_t* threads) {
  int64_t links = 0;
  if (!task_.is_ours(&links)) {
    if (int error = open(pid_); error != 0) return error;
    if (!task_.is_ours(&links)) return EBADF;
  }
  *threads = links - 2;  // "." and the directory above
  return 0;
}

bool ThreadSource::counts_one(int32_t pid) const {
  int64_t links = 0;
  return pid_ == pid && task_.is_ours(&links) && links == 3 && pid_ == pid;
}

int ThreadSource::sweep(void (*each)(int32_t tid, void* argument), void* argument) {
  alignas(DirectoryEntry) static char buffer[32768];
  RawResult result = raw_syscall(SYS_lseek, task_.fd, 0, SEEK_SET);
  if (!result.ok()) return result.error().value();
  for (;;) {
    result = raw_syscall(SYS_getdents64, task_.fd, raw_arg(buffer), sizeof(buffer));
    if (!result.ok()) return result.error().value();
    if (result.value() == 0) return 0;
    for (long at = 0; at < result.value();) {
      auto* entry = reinterpret_cast<DirectoryEntry*>(buffer + at);
      at += entry->size;
      int32_t tid = parse(entry->name);
      if (tid > 0 && translate_) tid = own_number(tid);
      if (tid > 0) each(tid, argument);
    }
  }
}

long ThreadSource::read_file_of(int32_t tid, const char* file, char* buffer, size_t size) {
  char path[64];
  path_of(tid, file, path);
  return read_file(task_, path, buffer, size);
}

long ThreadSource::read_file(const Descriptor& place, const char* path, char* buffer, size_t size) {
  auto opened = raw_syscall(SYS_openat, place.fd, raw_arg(path), O_RDONLY | O_CLOEXEC);
  if (!opened.ok()) return -1;
  auto got = raw_syscall(SYS_read, opened.value(), raw_arg(buffer), static_cast<long>(size - 1));
  raw_syscall(SYS_close, opened.value()).ignore();
  if (!got.ok()) return -1;
  buffer[got.value()] = '\0';
  return got.value();
}

// The last number of status's NSpid line: the one in the thread's own PID namespace.
int32_t ThreadSource::own_number(int32_t listed) {
  char status[2048];
  if (read_file_of(listed, "status", status, sizeof(status)) < 0) return -1;
  constexpr char kLabel[] = "\nNSpid:";
  for (const char* at = status; *at != '\0'; at++) {
    size_t same = 0;
    while (kLabel[same] != '\0' && at[same] == kLabel[same]) same++;
    if (kLabel[same] != '\0') continue;
    int32_t last = -1;
    for (at += same; *at != '\0' && *at != '\n'; at++) {
      if ((at[-1] == '\t' || at[-1] == ' ') && *at >= '0' && *at <= '9') last = parse(at);
    }
    return last;
  }
  return -1;
}

ThreadSource::Thread ThreadSource::look_at(int32_t tid) {
  // Where our own numbers are not the names, the leader alone has another.
  if (translate_ && tid != pid_) {
    return {thread_exists(pid_, tid) ? '?' : '\0', false};
  }
  char stat[512];
  const long length = translate_ ? read_file(proc_, "self/stat", stat, sizeof(stat))
                                 : read_file_of(tid, "stat", stat, sizeof(stat));
  if (length < 0) return {'\0', false};
  long at = length - 1;
  while (at > 0 && stat[at] != ')') at--;  // the name before it may contain anything
  if (at + 2 >= length) return {'?', false};
  Thread thread = {stat[at + 2], false};
  for (int fields = 0; at < length && fields < 7; at++) fields += stat[at] == ' ' ? 1 : 0;
  uint32_t flags = 0;
  for (; at < length && stat[at] >= '0' && stat[at] <= '9'; at++) {
    flags = flags * 10 + static_cast<uint32_t>(stat[at] - '0');
  }
  thread.is_kernel_worker = (flags & kernel_worker_flags()) != 0;
  return thread;
}

// PF_IO_WORKER and PF_USER_WORKER; the bits meant something else before these versions.
uint32_t ThreadSource::kernel_worker_flags() {
  char release[32];
  const long length = read_file(proc_, "sys/kernel/osrelease", release, sizeof(release));
  long dot = 0;
  while (dot < length && release[dot] != '.') dot++;
  if (dot >= length) return 0;
  const int version = parse(release) * 1000 + parse(release + dot + 1);
  return version >= 6004 ? 0x4010 : version >= 5012 ? 0x10 : 0;
}

void ThreadSource::name(int32_t tid, char* buffer, size_t size) {
  buffer[0] = '?';
  buffer[1] = '\0';
  if (translate_) return;
  const long length = read_file_of(tid, "comm", buffer, size);
  for (long at = 0; at < length; at++) {
    if (buffer[at] < ' ' || buffer[at] > '~') buffer[at] = buffer[at] == '\n' ? '\0' : '?';
  }
}

}  // namespace caisson::psx::internal
