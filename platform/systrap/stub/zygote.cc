// The zygote: a tiny process, forked before any guest data exists, from which stub processes are
// cloned.
//
// Freestanding: no libc, no writable data; runs on its own small stack in the stub region. It
// serves one socket (struct Command / Answer in sysmsg.h) until the kernel process closes its end.
// It shares its descriptor table with every stub, so descriptors that the kernel sends become
// available to all mappers under the number it chose.
#include <linux/sched.h>
#include <stddef.h>
#include <sys/socket.h>

#include "platform/systrap/sysmsg/sysmsg.h"

namespace caisson::systrap {
namespace {

constexpr long kMmap = 9, kMunmap = 11, kSendto = 44, kRecvmsg = 47, kClone = 56, kExit = 60,
               kClose = 3, kDup3 = 292;

inline long call(long nr, long a1 = 0, long a2 = 0, long a3 = 0, long a4 = 0, long a5 = 0,
                 long a6 = 0) {
  long result;
  register long r10 __asm__("r10") = a4;
  register long r8 __asm__("r8") = a5;
  register long r9 __asm__("r9") = a6;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(nr), "D"(a1), "S"(a2), "d"(a3), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
}

[[noreturn]] void leave() {
  for (;;) call(kExit, 0);
}

constexpr long kEintr = -4;
constexpr long kEbadmsg = -74;

// Receives one command; `fd` is the descriptor that came along or -1. False: the kernel process is
// gone.
bool receive(Command& command, int& fd) {
  alignas(cmsghdr) unsigned char control[CMSG_SPACE(sizeof(int))];
  iovec vector{&command, sizeof command};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  long got;
  do {
    got = call(kRecvmsg, FD_COMMANDS, reinterpret_cast<long>(&message), 0);
  } while (got == kEintr);
  if (got != static_cast<long>(sizeof command)) return false;
  fd = -1;
  auto* header = reinterpret_cast<cmsghdr*>(control);
  if (message.msg_controllen >= CMSG_LEN(sizeof(int)) && header->cmsg_type == SCM_RIGHTS)
    fd = *reinterpret_cast<int*>(CMSG_DATA(header));
  return true;
}

long install(int fd, uint32_t number) {
  if (fd < 0) return kEbadmsg;
  if (static_cast<uint32_t>(fd) == number) return 0;
  long result = call(kDup3, fd, number, 0);
  call(kClose, fd);
  return result < 0 ? result : 0;
}

// A new stub: this very function returns 0 in it.
long clone_stub() { return call(kClone, CLONE_FILES | CLONE_PARENT, 0, 0, 0, 0); }

}  // namespace

extern "C" [[noreturn]] void mapper_start();

extern "C" [[noreturn]] void zygote_main(uint64_t base) {
  // Everything of the kernel process goes; what is left is the stub region.
  call(kMunmap, 0, CALL_TABLE);
  call(kMunmap, CALL_TABLE_END, static_cast<long>(base - CALL_TABLE_END));
  constexpr uint64_t kTop = 0x7ffffffff000;
  if (base + STUB_REGION_SIZE < kTop)
    call(kMunmap, static_cast<long>(base + STUB_REGION_SIZE),
         static_cast<long>(kTop - base - STUB_REGION_SIZE));

  for (;;) {
    Command command;
    int fd;
    if (!receive(command, fd)) leave();
    Answer answer{command.serial, 0};
    switch (command.kind) {
      case CommandKind::kInstall:
        answer.result = static_cast<int32_t>(install(fd, command.fd));
        break;
      case CommandKind::kClose:
        answer.result = static_cast<int32_t>(call(kClose, command.fd));
        break;
      case CommandKind::kStub: {
        long result = install(fd, command.fd);
        if (result == 0) result = clone_stub();
        if (result == 0) {
          constexpr long kRead = 1, kSharedFixed = 0x11;
          long at = static_cast<long>(base + STUB_ORDERS);
          long offset = static_cast<long>(STUB_CONTROL_SIZE + uint64_t{command.index} * 4096);
          if (call(kMmap, at, 4096, kRead, kSharedFixed, FD_CONTROL_RO, offset) != at) leave();
          mapper_start();
        }
        answer.result = static_cast<int32_t>(result);
        break;
      }
    }
    long sent;
    do {
      sent = call(kSendto, FD_COMMANDS, reinterpret_cast<long>(&answer), sizeof answer,
                  MSG_NOSIGNAL, 0, 0);
    } while (sent == kEintr);
    if (sent != static_cast<long>(sizeof answer)) leave();
  }
}

// rdi = base of the stub region; the stack is empty.
__asm__(
    ".section .text.entry, \"ax\"\n"
    ".globl zygote_entry\n"
    "zygote_entry:\n"
    "  lea stub_start(%rip), %rdi\n"
    "  xor %ebp, %ebp\n"
    "  and $-16, %rsp\n"
    "  call zygote_main\n"
    "  ud2\n"
    ".text\n");

}  // namespace caisson::systrap
