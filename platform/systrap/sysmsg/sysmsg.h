// The memory that the kernel process and stub processes share, and the stub region's layout. One
// header for both sides and for the assembler; sysmsg_check.cc asserts every offset.
//
// Trust: a slot is writable by every thread of its stub process, so the kernel reads each field
// once into private memory and checks it. The control page and the order pages are mapped read-only
// in stubs, through a read-only descriptor. README.md has the picture and the state tables.
#pragma once

// ---- The stub region: the same addresses, relative to its base, in every stub of a sandbox.
#define STUB_TEXT 0x00000     // stub code, read-execute
#define STUB_CONTROL 0x10000  // control page and the pages after it, read-only
#define STUB_CONTROL_SIZE 0x4000
#define STUB_ORDERS 0x20000        // this stub's order page, read-only
#define STUB_VDSO 0x30000          // the host's vvar and vdso, moved here
#define STUB_ZYGOTE_STACK 0x60000  // the zygote's stack; a leftover copy in stubs
#define STUB_ZYGOTE_STACK_SIZE 0x4000
#define STUB_CALLS 0x100000  // code that patched call sites jump to (call_patches.h), read-execute
#define STUB_CALLS_SIZE 0x100000
#define STUB_CALL_SIZE 0x80    // call i at STUB_CALLS + i * STUB_CALL_SIZE
#define STUB_SLOTS 0x10000000  // slot i at STUB_SLOTS + i * SLOT_SIZE
#define STUB_REGION_SIZE 0x100000000

// Guest addresses end here; the region lies at least STUB_GAP above.
#define STUB_USER_END 0x7f0000000000
#define STUB_GAP 0x1000000000

// Where patched call sites find the code's address: call i at CALL_TABLE + i * 8, the same in every
// stub, read-only. Its place makes the bytes of a patch what call_patches.h wants. Guests have no
// memory below its end.
#define CALL_TABLE 0x60000
#define CALL_TABLE_END 0x70000

#define SLOT_SIZE 0x8000
#define SLOT_COUNT 0x10000
#define SLOT_STACK 0x1000  // the alternate signal stack fills the slot from here
// In it, far below the host's frames of a signal or two, with room below for as many: the frame
// that the kernel lays for a thread that waits in none, and an XSAVE image.
#define SLOT_LAID 0x3000
#define SLOT_LAID_VECTOR 0x3400
#define SLOT_LAID_END 0x6000

// ---- Descriptors in the table that the zygote and all stubs share.
#define FD_MEMORY 0         // guest memory file, read-write
#define FD_MEMORY_RO 1      // guest memory file, read-only
#define FD_CONTROL 2        // control file, read-write: slots are mapped from it
#define FD_CONTROL_RO 3     // control file, read-only: control page and order pages
#define FD_COMMANDS 4       // the zygote's socket
#define FD_CALLS_RO 5       // what patching makes: table, code and copies of text, read-only
#define FD_FIRST_DYNAMIC 8  // acknowledgement files and host files, numbers chosen by the kernel

// ---- Slot fields (byte offsets). Lines of 64 bytes: what each request and answer needs is in the
// first and in SLOT_REGS, as each line costs a transfer between CPUs. The second is for the stub
// alone.
#define SLOT_STATE 0          // u32, futex word: SLOT_STATE_*
#define SLOT_WAITING 4        // u32: the guest waits in the host's futex; a hint
#define SLOT_ENTRY 8          // u32: SLOT_ENTRY_*, written by the stub
#define SLOT_RESUME 12        // u32: SLOT_RESUME_*, written by the kernel
#define SLOT_CALLS 16         // u32: calls to make before the guest goes on, | CALLS_AWAITED
#define SLOT_RESUME_FRAME 20  // u32: offset of the ucontext to return to
#define SLOT_FRAME 24         // u32: offset of the host's struct ucontext in the slot
#define SLOT_INFO 28          // u32: offset of the host's siginfo_t in the slot
#define SLOT_SIGNO 32         // u32
#define SLOT_WORKER 36  // u32: the worker of the CPU that it last slept or rang on, + 1; a hint
#define SLOT_RAX 40     // u64: a call's number, and its result
#define SLOT_RIP 48     // u64
#define SLOT_SELF 64    // u64: the slot's address in the stub
#define SLOT_GATE 72    // u64: address of the stub's call gate
#define SLOT_WAIT_RETURN 80  // u64: where the guest goes on after a private wait
#define SLOT_FLAGS 88        // u64: with SLOT_ENTRY_SAVED; the arithmetic ones mean nothing
#define SLOT_REGS 128        // the caller's other registers: REGS_*
#define SLOT_RESUME_FS 256   // u64: for resumption by a frame
#define SLOT_RESUME_GS 264   // u64

#define SLOT_CALL 320  // CALLS_MAX calls

#define REGS_RBX 0
#define REGS_RDX 8
#define REGS_RSI 16
#define REGS_RDI 24
#define REGS_RBP 32
#define REGS_RSP 40
#define REGS_R8 48
#define REGS_R9 56
#define REGS_R10 64
#define REGS_R12 72
#define REGS_R13 80
#define REGS_R14 88
#define REGS_R15 96
#define REGS_RFLAGS 104  // at the gate: as lahf and seto leave them in ax
#define REGS_FS 112
#define REGS_GS 120

#define SLOT_STATE_RUN 0      // the guest runs (or is about to)
#define SLOT_STATE_REQUEST 1  // the stub thread waits for the kernel and polls
#define SLOT_STATE_ASLEEP 2   // the stub thread waits for the kernel in futex(2)
#define SLOT_STATE_PARKED 3   // set by the kernel: do not poll, this will take a while

#define SLOT_ENTRY_TRAP 1  // a host signal: frame and info are valid
#define SLOT_ENTRY_GATE 2  // the call gate: SLOT_REGS is valid
#define SLOT_ENTRY_GATE_BROKEN \
  3  // an interrupt hit the way back from the gate: of the frame, only the vector state counts
#define SLOT_ENTRY_CALL 4    // a trapped system call: SLOT_REGS is valid, and SLOT_FRAME
#define SLOT_ENTRY_SAVED 5   // the vector state of a thread in the gate is at SLOT_LAID_VECTOR
#define SLOT_ENTRY_BROKEN 6  // an interrupt hit the way back by a frame: nothing is new

#define SLOT_RESUME_BY_FRAME 0
#define SLOT_RESUME_BY_HOST 1  // by the frame, with rt_sigreturn(2): signal mask and stack too
#define SLOT_RESUME_BY_GATE 2
#define SLOT_RESUME_SAVE 3    // do not go on, but save the vector state; the thread is in the gate
#define SLOT_RESUME_RESULT 5  // a trapped call: by its own frame, but with rax from SLOT_RAX
#define SLOT_RESUME_BY_GATE_BASES 6  // by the gate, with the bases from SLOT_REGS
#define SLOT_RESUME_PARK 7           // not at all: when the calls are made, PARKED again

// ---- Calls that a stub thread makes for the kernel on its way back to the guest: what the guest
// could do to its own process anyhow.
#define CALLS_MAX 6
#define CALLS_FOR_RSEQ 2  // of them
#define CALLS_COUNT_MASK 7
#define CALLS_AWAITED 8  // ring when they are made
#define CALL_KIND 0      // u64: CALL_*
#define CALL_ARGS 8      // 3 x u64
#define CALL_SIZE 32
#define CALL_PROTECT 1       // mprotect(2): address, length, protection
#define CALL_PRIVATE_WAKE 2  // FUTEX_WAKE_BITSET_PRIVATE: address, how many, mask
// rseq(2): address, length | flags << 32, signature. The upper half of the kind is the one result
// besides 0 with which the thread goes on; with any other it ends.
#define CALL_RSEQ 3
// No thread can register this; the host says EFAULT, but to one that has a registration EINVAL.
#define RSEQ_NOWHERE 0xffffffffffffffe0

// ---- Order page. The kernel writes entries and then `tail`; the mapper carries out entries up to
// it.
#define ORDERS_TAIL 0      // u32, futex word: number of orders posted
#define ORDERS_ACK_FD 4    // u32
#define ORDERS_ANSWERS 8   // u32: not 0: stub threads answer what they can by themselves
#define ORDERS_RING 16     // u32: not 0: a worker is to be rung for an acknowledgement
#define ORDERS_WAITERS 12  // u32: private futex waits in the kernel, which a wake-up must not miss
#define ORDERS_ENTRIES 64
#define ORDERS_IMAGES \
  2560  // u64 per patched image: the address of its file's offset 0; 0: not there
#define IMAGE_COUNT 128
#define ORDER_SIZE 64
#define ORDER_RING 32  // a power of two
#define ORDER_NR 0     // u64: system call number, or ORDER_NR_*
#define ORDER_ARGS 8   // 6 x u64
#define ORDER_SEQ 56   // u64: what is written to the acknowledgement file
#define ORDER_NR_CLONE 0x1000
#define ORDER_NR_CLONE_ARG_SLOT ORDER_ARGS
#define ORDER_NR_WAKE 0x1001  // a thread's slot state becomes RUN
#define ORDER_NR_WAKE_ARG_STATE ORDER_ARGS
#define ACK_DONE 0  // offsets in the acknowledgement file
#define ACK_FAILED 8

// ---- Control page: written by the kernel only.
#define CONTROL_HOT 0        // u32: the worker that polls now, + 1; 0: none
#define CONTROL_SPIN 4       // u32: how long a stub thread polls for its answer, TSC cycles
#define CONTROL_PARENT 8     // u32: pid of the kernel process as stubs see it
#define CONTROL_WORKERS 12   // u32
#define CONTROL_PATIENCE 16  // struct timespec: how long an unheard request waits to be repeated
#define CONTROL_FPROG 64     // struct sock_fprog of the guest-thread filter
#define CONTROL_CPU_WORKER 1024  // u8 per CPU (CONTROL_MAX_CPUS): its worker's index
#define CONTROL_MAX_CPUS 1024
#define CPU_WORKER_NONE 0xff  // in it: the CPU has no worker
#define CONTROL_SLEEPERS \
  2048  // one line per worker: u32 asleep flag, the futex word of its doorbell; SLEEPER_LOOKS
#define CONTROL_MAX_WORKERS 32
#define SLEEPER_LOOKS 4  // u32: not 0: it is awake and looks for requests, or is about to; a hint
#define CONTROL_FILTER 0x1000  // the guest-thread filter's instructions

#ifndef __ASSEMBLER__

#if __STDC_HOSTED__
#include <atomic>
#endif
#include <cstddef>
#include <cstdint>

namespace caisson::systrap {

// A word that both sides change. Stub code, which is freestanding, only needs its place: clang's
// <atomic> does not compile for general registers alone.
#if __STDC_HOSTED__
template <typename T>
using Shared = std::atomic<T>;
#else
template <typename T>
using Shared = T;
#endif

// A caller's registers but rax and rip; rcx and r11 are rip and rflags, as after any syscall(2).
struct CallRegisters {
  uint64_t rbx, rdx, rsi, rdi, rbp, rsp, r8, r9, r10, r12, r13, r14, r15, rflags, fs, gs;
};

struct CallerCall {
  uint64_t kind;
  uint64_t args[3];
};

struct Slot {
  Shared<uint32_t> state;
  Shared<uint32_t> waiting;
  uint32_t entry;
  uint32_t resume;
  Shared<uint32_t> calls;
  uint32_t resume_frame;
  uint32_t frame;
  uint32_t info;
  uint32_t signo;
  Shared<uint32_t> worker;
  uint64_t rax;
  uint64_t rip;
  alignas(64) uint64_t self;
  uint64_t gate;
  uint64_t wait_return;
  uint64_t flags;
  alignas(64) CallRegisters regs;
  alignas(64) uint64_t resume_fs;
  uint64_t resume_gs;
  alignas(64) CallerCall call[CALLS_MAX];
};

struct Order {
  uint64_t nr;
  uint64_t args[6];
  uint64_t seq;
};

struct OrderPage {
  Shared<uint32_t> tail;
  uint32_t ack_fd;
  Shared<uint32_t> answers;
  Shared<uint32_t> waiters;
  Shared<uint32_t> ring;
  alignas(64) Order entries[ORDER_RING];
  alignas(512) Shared<uint64_t> images[IMAGE_COUNT];
};

struct AckPage {
  Shared<uint64_t> done;
  Shared<uint64_t> failed;
};

struct alignas(64) Sleeper {
  Shared<uint32_t> asleep;
  Shared<uint32_t> looks;
};

struct ControlPage {
  Shared<uint32_t> hot;
  uint32_t spin;
  uint32_t parent;
  uint32_t workers;
  int64_t patience_s;
  int64_t patience_ns;
  alignas(64) uint16_t filter_length;
  uint16_t pad[3];
  uint64_t filter_address;
  alignas(1024) uint8_t cpu_worker[CONTROL_MAX_CPUS];
  Sleeper sleepers[CONTROL_MAX_WORKERS];
};

// ---- The zygote's commands and answers, one datagram each.
enum class CommandKind : uint32_t {
  kInstall,  // a descriptor comes along: make it number `fd`
  kClose,    // close number `fd`
  kStub,     // a descriptor comes along: make it `fd`, the acknowledgement file of a new stub with
             // order page `index`
};
struct Command {
  CommandKind kind;
  uint32_t fd;
  uint32_t index;
  uint32_t serial;
};
struct Answer {
  uint32_t serial;
  int32_t result;  // 0 or a pid; negative: -errno
};

}  // namespace caisson::systrap

#endif  // __ASSEMBLER__
