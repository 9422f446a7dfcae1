// The mapper's code, in every stub process. The rules of stub.S hold; the mapper loads nothing from guest-writable memory.
#include "platform/systrap/stub/calls.h"
#include "platform/systrap/sysmsg/sysmsg.h"

// CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_PARENT
#define CLONE_FLAGS (0x100 | 0x200 | 0x400 | 0x8000)

        .text
// The stub process's first thread. rbp = order page, r12 = control page, r14 = acknowledgement file, r15d = orders done,
// r13 = the current order, rbx = the state word of a thread that is woken after the next report, or 0. It reports by
// writing constants from the order page into a file that no stub maps, and a new thread's id as that file's offset.
        .globl  mapper_start
mapper_start:
        lea     ORDERS(%rip), %rbp
        lea     CONTROL(%rip), %r12
        lea     1f(%rip), %r9
        jmp     die_with_parent
1:      mov     ORDERS_ACK_FD(%rbp), %r14d
        xor     %r15d, %r15d
        xor     %ebx, %ebx
mapper_wait:
        cmp     %r15d, ORDERS_TAIL(%rbp)
        jne     mapper_run
        lea     ORDERS_TAIL(%rbp), %rdi
        mov     $FUTEX_WAIT_SHARED, %esi
        mov     %r15d, %edx
        xor     %r10d, %r10d
        mov     $NR_FUTEX, %eax
        syscall
        jmp     mapper_wait
mapper_run:
        mov     %r15d, %eax
        and     $(ORDER_RING - 1), %eax
        shl     $6, %eax
        lea     ORDERS_ENTRIES(%rbp, %rax), %r13
        mov     ORDER_NR(%r13), %rax
        cmp     $ORDER_NR_CLONE, %rax
        je      mapper_clone
        cmp     $ORDER_NR_WAKE, %rax
        je      mapper_wake
        mov     ORDER_ARGS+0(%r13), %rdi
        mov     ORDER_ARGS+8(%r13), %rsi
        mov     ORDER_ARGS+16(%r13), %rdx
        mov     ORDER_ARGS+24(%r13), %r10
        mov     ORDER_ARGS+32(%r13), %r8
        mov     ORDER_ARGS+40(%r13), %r9
        syscall
        cmp     $-4095, %rax
        jae     mapper_failed
mapper_next:
        inc     %r15d
        cmp     %r15d, ORDERS_TAIL(%rbp)
        jne     mapper_run
mapper_ack:
        mov     %r14d, %edi
        lea     ORDER_SEQ(%r13), %rsi
        mov     $8, %edx
        mov     $ACK_DONE, %r10d
        mov     $NR_PWRITE64, %eax
        syscall
        test    %rbx, %rbx
        jz      mapper_ack_ring
        mov     %rbx, %rdi
        mov     $FUTEX_WAKE_OP_SHARED, %esi
        mov     $1, %edx
        xor     %r10d, %r10d
        mov     %rbx, %r8
        mov     $SLOT_STATE_RUN, %r9d   // FUTEX_OP_SET
        mov     $NR_FUTEX, %eax
        syscall
        xor     %ebx, %ebx
mapper_ack_ring:
        cmpl    $0, ORDERS_RING(%rbp)
        je      mapper_wait
        cmpl    $0, CONTROL_HOT(%r12)
        jne     mapper_wait
        lea     1f(%rip), %r9
        jmp     ring
1:      test    %r8d, %r8d
        jz      mapper_wait
        lea     ORDERS_TAIL(%rbp), %rdi
        mov     $FUTEX_WAIT_SHARED, %esi
        mov     %r15d, %edx
        lea     CONTROL_PATIENCE(%r12), %r10
        mov     $NR_FUTEX, %eax
        syscall
        cmp     %r15d, ORDERS_TAIL(%rbp)
        jne     mapper_run
        jmp     mapper_ack_ring
mapper_failed:
        mov     %r14d, %edi
        lea     ORDER_SEQ(%r13), %rsi
        mov     $8, %edx
        mov     $ACK_FAILED, %r10d
        mov     $NR_PWRITE64, %eax
        syscall
        jmp     mapper_next
// The thread that is woken may ask at once whether the orders before are done: reported first, after which the kernel
// may reuse the entry.
mapper_wake:
        mov     ORDER_NR_WAKE_ARG_STATE(%r13), %rbx
        inc     %r15d
        jmp     mapper_ack
mapper_clone:
        mov     ORDER_NR_CLONE_ARG_SLOT(%r13), %rbx
        mov     $CLONE_FLAGS, %edi
        xor     %esi, %esi
        xor     %edx, %edx
        xor     %r10d, %r10d
        xor     %r8d, %r8d
        mov     $NR_CLONE, %eax
        syscall
        test    %rax, %rax
        jz      thread_start
        mov     $0, %ecx
        cmovs   %rcx, %rax
        mov     %r14d, %edi
        mov     %rax, %rsi
        xor     %edx, %edx
        mov     $NR_LSEEK, %eax
        syscall
        xor     %ebx, %ebx
        inc     %r15d
        jmp     mapper_ack

        .section .note.GNU-stack, "", @progbits
