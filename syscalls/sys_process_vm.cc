// process_vm_readv(2), process_vm_writev(2). Linux: mm/process_vm_access.c.
//
// Data go through a small buffer of ours: the two address spaces are never locked together.
#include <algorithm>
#include <array>
#include <vector>

#include "kernel/kernel.h"
#include "kernel/task.h"
#include "mm/user_buffer.h"
#include "syscalls/resource_usage.h"
#include "syscalls/sys_memory.h"

namespace caisson {

namespace {

struct Iovec {
  uint64_t base;
  uint64_t length;
};
enum class Transfer { kRead, kWrite };

// One piece of the other process; what was moved, 0 at an address that can't be accessed.
size_t move_piece(MemoryManager& other, UserBuffer& own, GuestAddr addr, size_t length,
                  Transfer transfer) {
  std::array<std::byte, 4 * kPageSize> bytes;
  length = std::min({length, bytes.size(), static_cast<size_t>(own.remaining())});
  if (transfer == Transfer::kRead) {
    length = other.readable_length(addr, length);
    size_t got = other.copy_in(bytes.data(), addr, length).done;
    return got == 0 ? 0 : own.write(bytes.data(), got).value_or(size_t{0});
  }
  size_t got = own.peek(bytes.data(), length).value_or(size_t{0});
  size_t done = got == 0 ? 0 : other.copy_out(addr, bytes.data(), got).done;
  own.skip(done);
  return done;
}

SyscallResult transfer_vm(CurrentTask& task, int pid, uint64_t local, uint64_t local_count,
                          uint64_t remote, uint64_t remote_count, uint64_t flags,
                          Transfer transfer) {
  if (flags != 0) return Errno(EINVAL);
  UserBuffer own = TRY(UserBuffer::create_vector(task.mm(), local, local_count));
  if (own.size() == 0) return 0;
  if (remote_count > UserBuffer::kMaxSegments) return Errno(EINVAL);
  std::vector<Iovec> pieces(remote_count);
  TRY(task.mm().copy_in(pieces.data(), remote, remote_count * sizeof(Iovec)).result());
  uint64_t total = 0;
  for (const Iovec& piece : pieces) {
    if (piece.length > static_cast<uint64_t>(INT64_MAX)) return Errno(EINVAL);
    total |= piece.length;
  }
  if (total == 0) return 0;
  RefOrNull<Task> target = task.kernel().tasks().find_task(pid);
  if (!target) return Errno(ESRCH);
  TRY(may_inspect(task, *target));
  RefOrNull<MemoryManager> other = target->mm_ref();
  if (!other) return Errno(ESRCH);
  for (const Iovec& piece : pieces) {
    for (uint64_t at = 0; at < piece.length && own.remaining() != 0;) {
      size_t moved = move_piece(*other, own, piece.base + at, piece.length - at, transfer);
      if (moved == 0) {
        if (own.done() == 0) return Errno(EFAULT);
        return own.done();
      }
      at += moved;
    }
  }
  return own.done();
}

}  // namespace

SyscallResult sys_process_vm_readv(CurrentTask& task, int pid, uint64_t local, uint64_t local_count,
                                   uint64_t remote, uint64_t remote_count, uint64_t flags) {
  return transfer_vm(task, pid, local, local_count, remote, remote_count, flags, Transfer::kRead);
}

SyscallResult sys_process_vm_writev(CurrentTask& task, int pid, uint64_t local,
                                    uint64_t local_count, uint64_t remote, uint64_t remote_count,
                                    uint64_t flags) {
  return transfer_vm(task, pid, local, local_count, remote, remote_count, flags, Transfer::kWrite);
}

}  // namespace caisson
