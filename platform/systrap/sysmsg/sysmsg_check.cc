// The assembler's offsets are the structs' offsets.
#include "platform/systrap/sysmsg/sysmsg.h"

namespace caisson::systrap {

static_assert(offsetof(Slot, state) == SLOT_STATE && offsetof(Slot, waiting) == SLOT_WAITING);
static_assert(offsetof(Slot, entry) == SLOT_ENTRY && offsetof(Slot, resume) == SLOT_RESUME);
static_assert(offsetof(Slot, calls) == SLOT_CALLS);
static_assert(offsetof(Slot, resume_frame) == SLOT_RESUME_FRAME);
static_assert(offsetof(Slot, frame) == SLOT_FRAME && offsetof(Slot, info) == SLOT_INFO);
static_assert(offsetof(Slot, signo) == SLOT_SIGNO && offsetof(Slot, worker) == SLOT_WORKER &&
              SLOT_RIP + 8 <= 64);
static_assert(offsetof(Slot, rax) == SLOT_RAX && offsetof(Slot, rip) == SLOT_RIP);
static_assert(offsetof(Slot, self) == SLOT_SELF && offsetof(Slot, gate) == SLOT_GATE);
static_assert(offsetof(Slot, wait_return) == SLOT_WAIT_RETURN);
static_assert(offsetof(Slot, flags) == SLOT_FLAGS);
static_assert(offsetof(Slot, regs) == SLOT_REGS && offsetof(Slot, call) == SLOT_CALL);
static_assert(offsetof(Slot, resume_fs) == SLOT_RESUME_FS);
static_assert(offsetof(Slot, resume_gs) == SLOT_RESUME_GS);
static_assert(sizeof(CallerCall) == CALL_SIZE && offsetof(CallerCall, args) == CALL_ARGS);
static_assert(CALLS_FOR_RSEQ < CALLS_MAX);
static_assert(CALLS_MAX <= CALLS_COUNT_MASK && (CALLS_AWAITED & CALLS_COUNT_MASK) == 0);
static_assert(offsetof(CallRegisters, rbx) == REGS_RBX && offsetof(CallRegisters, rdx) == REGS_RDX);
static_assert(offsetof(CallRegisters, rsi) == REGS_RSI && offsetof(CallRegisters, rdi) == REGS_RDI);
static_assert(offsetof(CallRegisters, rbp) == REGS_RBP && offsetof(CallRegisters, rsp) == REGS_RSP);
static_assert(offsetof(CallRegisters, r8) == REGS_R8 && offsetof(CallRegisters, r9) == REGS_R9);
static_assert(offsetof(CallRegisters, r10) == REGS_R10 && offsetof(CallRegisters, r12) == REGS_R12);
static_assert(offsetof(CallRegisters, r13) == REGS_R13 && offsetof(CallRegisters, r14) == REGS_R14);
static_assert(offsetof(CallRegisters, r15) == REGS_R15);
static_assert(offsetof(CallRegisters, rflags) == REGS_RFLAGS);
static_assert(offsetof(CallRegisters, fs) == REGS_FS && offsetof(CallRegisters, gs) == REGS_GS);
static_assert(sizeof(CallRegisters) == 128);
static_assert(sizeof(Slot) <= SLOT_STACK);
static_assert(sizeof(Order) == ORDER_SIZE && offsetof(Order, args) == ORDER_ARGS);
static_assert(offsetof(Order, seq) == ORDER_SEQ);
static_assert(offsetof(OrderPage, tail) == ORDERS_TAIL);
static_assert(offsetof(OrderPage, ack_fd) == ORDERS_ACK_FD);
static_assert(offsetof(OrderPage, answers) == ORDERS_ANSWERS &&
              offsetof(OrderPage, waiters) == ORDERS_WAITERS &&
              offsetof(OrderPage, ring) == ORDERS_RING);
static_assert(offsetof(OrderPage, entries) == ORDERS_ENTRIES);
static_assert(offsetof(OrderPage, images) == ORDERS_IMAGES);
static_assert(sizeof(OrderPage) <= 4096);
static_assert(CALL_TABLE_END - CALL_TABLE >= STUB_CALLS_SIZE / STUB_CALL_SIZE * 8);
static_assert(STUB_CALLS + STUB_CALLS_SIZE <= STUB_SLOTS);
static_assert(offsetof(AckPage, done) == ACK_DONE && offsetof(AckPage, failed) == ACK_FAILED);
static_assert(offsetof(ControlPage, hot) == CONTROL_HOT &&
              offsetof(ControlPage, spin) == CONTROL_SPIN);
static_assert(offsetof(ControlPage, parent) == CONTROL_PARENT);
static_assert(offsetof(ControlPage, workers) == CONTROL_WORKERS);
static_assert(offsetof(ControlPage, patience_s) == CONTROL_PATIENCE);
static_assert(offsetof(ControlPage, filter_length) == CONTROL_FPROG);
static_assert(offsetof(ControlPage, filter_address) == CONTROL_FPROG + 8);
static_assert(offsetof(ControlPage, cpu_worker) == CONTROL_CPU_WORKER);
static_assert(offsetof(ControlPage, sleepers) == CONTROL_SLEEPERS && sizeof(Sleeper) == 64);
static_assert(offsetof(Sleeper, looks) == SLEEPER_LOOKS);
static_assert(sizeof(ControlPage) <= CONTROL_FILTER);
static_assert(uint64_t{STUB_SLOTS} + uint64_t{SLOT_COUNT} * SLOT_SIZE <= STUB_REGION_SIZE);

}  // namespace caisson::systrap
