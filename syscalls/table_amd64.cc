// The list of system calls of x86-64: one line each, sorted by number. Whatever is absent is ENOSYS
// and counted. syscalls/table_test.cc checks order and numbers against the host's headers.
#include "syscalls/table.h"

namespace caisson {
namespace {

constexpr SyscallEntry kAmd64[] = {
    refused<ENOSYS>(134, "uselib", "removed from Linux"),
};

}  // namespace

std::span<const SyscallEntry> amd64_syscalls() { return kAmd64; }

}  // namespace caisson
