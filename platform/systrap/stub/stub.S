// The code that runs inside stub processes, below the guest's feet. Rules:
//  - General registers only: the guest's vector state stays in the CPU, or where the host or `save` put it, until `leave`
//    loads it.
//  - Guest threads of one process are hostile to each other and can write every slot and this thread's signal stack.
//    What is here trusts registers, this text, the control page and the order page, nothing else.
//  - No stack is used. Subroutines return through a register. The mapper and a new thread before its filter is on must
//    not load anything from guest-writable memory.
//  - One `syscall` instruction per purpose; the guest-thread filter names their addresses (filters.cc).
// Jumping here with wild registers is expected; it can only do what the filters let any guest thread do.
#include "platform/systrap/stub/calls.h"
#include "platform/systrap/sysmsg/sysmsg.h"

#define MINUS_EINTR -4
#define MINUS_EFAULT -14
#define MINUS_ETIMEDOUT -110
#define RING_TRIES 8
#define SIGNAL_INTERRUPT 10
#define SIGNAL_SYS 31
#define AUDIT_ARCH_X86_64 0xc000003e
#define SIGINFO_ARCH 28
#define LEAVING (-1)
#define UCONTEXT_STACK 16
#define UCONTEXT_R8 40
#define UCONTEXT_R9 48
#define UCONTEXT_R10 56
#define UCONTEXT_R11 64
#define UCONTEXT_R12 72
#define UCONTEXT_R13 80
#define UCONTEXT_R14 88
#define UCONTEXT_R15 96
#define UCONTEXT_RDI 104
#define UCONTEXT_RSI 112
#define UCONTEXT_RBP 120
#define UCONTEXT_RBX 128
#define UCONTEXT_RDX 136
#define UCONTEXT_RAX 144
#define UCONTEXT_RCX 152
#define UCONTEXT_RSP 160
#define UCONTEXT_RIP 168
#define UCONTEXT_RFLAGS 176
#define UCONTEXT_CS 184
#define UCONTEXT_FPSTATE 224
#define UCONTEXT_SIGMASK 296
#define USER_SS 0x2b
#define FLAGS_KEPT_BY_HOST 0x204000     // ID and NT: rt_sigreturn(2) leaves them as they are
#define CPU_NODE_SEGMENT 0x7b

// eax = the worker of this CPU; r12 = control page.
#define OWN_WORKER \
        mov     $CPU_NODE_SEGMENT, %eax; \
        lsl     %eax, %eax; \
        and     $(CONTROL_MAX_CPUS - 1), %eax; \
        movzbl  CONTROL_CPU_WORKER(%r12, %rax), %eax
// The kernel is told, rbx = slot. Clobbers eax.
#define NOTE_OWN_WORKER \
        OWN_WORKER; \
        inc     %eax; \
        mov     %eax, SLOT_WORKER(%rbx)
// The registers that a call passes in SLOT_REGS as they are; rbx, rsp and the flags need care.
#define EACH_REGISTER(DO) \
        DO(RDX, rdx); DO(RSI, rsi); DO(RDI, rdi); DO(RBP, rbp); DO(R8, r8); DO(R9, r9); DO(R10, r10); \
        DO(R12, r12); DO(R13, r13); DO(R14, r14); DO(R15, r15)

        .section .text.start, "ax"
        .globl stub_start
// The image's header, struct StubHeader in stub_image.h.
stub_start:
        .ascii "CAISTUB1"
        .long stub_text_end - stub_start
        .long signal_entry - stub_start
        .long sigreturn - stub_start
        .long gate_entry - stub_start
        .long gate_futex - stub_start
        .long zygote_entry - stub_start
        .long initial_vector_state - stub_start
        .long site_sigreturn + 2 - stub_start
        .long site_wait + 2 - stub_start
        .long site_wake + 2 - stub_start
        .long site_exit + 2 - stub_start
        .long site_stack + 2 - stub_start
        .long site_protect + 2 - stub_start
        .long site_private_wait + 2 - stub_start
        .long site_private_wake + 2 - stub_start
        .long site_rseq + 2 - stub_start
        .type   stub_start, @object
        .size   stub_start, . - stub_start

        .balign 64

// ---- A host signal: SIGSYS and the exceptions (the guest needs the kernel), or the interrupt signal. rdi = signal,
// rsi = siginfo_t*, rdx = ucontext*; every register is in the frame, and the vector state. Nothing is blocked, and the thread
// leaves without rt_sigreturn(2); only the interrupt blocks itself. One that comes while another signal is handled must not get
// lost: from signal_entry to `decided`, rdi, rsi and rdx stay as they are; behind it a request is certain, which the kernel sees.
        .balign 64
signal_entry:
        mov     %rsp, %rbx
        and     $-SLOT_SIZE, %rbx
        lea     CONTROL(%rip), %r12
        cmp     $SIGNAL_INTERRUPT, %edi
        je      interrupted
        cmp     $SIGNAL_SYS, %edi
        jne     trapped
        cmpl    $AUDIT_ARCH_X86_64, SIGINFO_ARCH(%rsi)
        jne     trapped
        cmpq    $NR_FUTEX, UCONTEXT_RAX(%rdx)
        jne     call_trapped

// futex(2) on private words, where the kernel left it to us: the host's futex, in this process, but outside of this handler,
// so that the interrupt can end it.
        lea     private_wait_end(%rip), %rax
        cmp     %rax, UCONTEXT_RIP(%rdx)
        je      private_wait_trapped
        lea     ORDERS(%rip), %rbp
        cmpl    $0, ORDERS_ANSWERS(%rbp)
        je      call_trapped
        rdgsbase %rax
        cmp     %rbx, %rax              // the way back of a wait needs it
        jne     call_trapped
        mov     $STUB_USER_END, %rax
        cmp     %rax, UCONTEXT_RDI(%rdx)
        jae     call_trapped
        mov     UCONTEXT_RSI(%rdx), %eax
        cmp     $FUTEX_WAKE_PRIVATE, %eax
        je      1f
        cmp     $FUTEX_WAKE_BITSET_PRIVATE, %eax
        je      1f
        cmp     $FUTEX_WAIT_BITSET_PRIVATE, %eax
        je      2f
        cmp     $FUTEX_WAIT_BITSET_PRIVATE_REALTIME, %eax
        je      2f
        cmp     $FUTEX_WAIT_PRIVATE, %eax
        jne     call_trapped
        cmpq    $0, UCONTEXT_R10(%rdx)  // a wait with a relative time could not go on after an interrupt
        jne     call_trapped
2:      movl    $1, SLOT_WAITING(%rbx)
        jmp     3f
1:      mfence                          // the guest's word first, then a look for waiters of the kernel
        cmpl    $0, ORDERS_WAITERS(%rbp)
        jne     call_trapped
3:      mov     UCONTEXT_RIP(%rdx), %rax
        mov     %rax, SLOT_WAIT_RETURN(%rbx)
        lea     private_wait(%rip), %rax
        mov     %rax, UCONTEXT_RIP(%rdx)
return_to_frame:
        mov     %rdx, %rsp
sigreturn:
        mov     $NR_SIGRETURN, %eax
site_sigreturn:
        syscall
        ud2

// The interrupt hit guest code, or stub code where only a hostile jump leads: an ordinary event. It hit a private wait:
// that becomes a request, or it is over and the guest is at its return address. It hit the gate's way in, or a signal's: the
// kernel sees the request anyway. It hit the wait for the kernel or the way back, after the kernel let the guest run: the
// kernel's own copy of the registers is complete, and of the vector state but for that which is still in the CPU.
interrupted:
        mov     UCONTEXT_RIP(%rdx), %rax
        lea     stub_start(%rip), %rcx
        sub     %rcx, %rax
        cmp     $(signal_entry - stub_start), %rax
        jb      trapped
        cmp     $(decided - stub_start), %rax
        jb      interrupted_undecided
        cmp     $(gate_futex - stub_start), %rax
        jb      return_to_frame
        cmp     $(private_wait_end - stub_start), %rax
        jb      interrupted_private_wait
        cmp     $(gate_entry - stub_start), %rax
        jb      trapped
        cmp     $(thread_start - stub_start), %rax
        jae     trapped
        cmp     $(wait_start - stub_start), %rax
        jb      return_to_frame
        cmp     $(gate_resume_end - stub_start), %rax
        jae     return_to_frame
interrupted_wait:
        cmpl    $SLOT_STATE_RUN, SLOT_STATE(%rbx)
        jne     return_to_frame
        mov     SLOT_ENTRY(%rbx), %eax
        cmp     $SLOT_ENTRY_GATE, %eax
        je      gate_broken
        cmp     $SLOT_ENTRY_SAVED, %eax
        jne     way_back_broken
gate_broken:
        mov     $SLOT_ENTRY_GATE_BROKEN, %eax
        jmp     publish_frame
// A call that might have been left to the host becomes the kernel's.
interrupted_undecided:
        mov     UCONTEXT_RDI(%rdx), %ecx
        cmp     $LEAVING, %ecx
        je      interrupted_wait
        cmp     $SIGNAL_SYS, %ecx
        jne     return_to_frame
        lea     call_again(%rip), %rax
        mov     %rax, UCONTEXT_RIP(%rdx)
        jmp     return_to_frame
private_wait_trapped:
        mov     SLOT_WAIT_RETURN(%rbx), %rax
        mov     %rax, UCONTEXT_RCX(%rdx)
        mov     %rax, UCONTEXT_RIP(%rdx)        // last: call_again comes here by it
        movl    $0, SLOT_WAITING(%rbx)
        cmp     $SIGNAL_SYS, %edi
        je      call_trapped
        jmp     trapped
call_again:
        mov     %rsp, %rbx
        and     $-SLOT_SIZE, %rbx
        lea     CONTROL(%rip), %r12
        cmpl    $AUDIT_ARCH_X86_64, SIGINFO_ARCH(%rsi)
        jne     trapped
        lea     private_wait_end(%rip), %rax
        cmp     %rax, UCONTEXT_RIP(%rdx)
        je      private_wait_trapped
        lea     private_wait(%rip), %rax
        cmp     %rax, UCONTEXT_RIP(%rdx)
        je      private_wait_trapped
        jmp     call_trapped
// rax = offset of the interrupted instruction.
interrupted_private_wait:
        cmp     $(private_wait - stub_start), %rax
        jbe     2f
        cmp     $(private_wait_to_kernel - stub_start), %rax
        jae     return_to_frame
        cmpq    $MINUS_EINTR, UCONTEXT_RAX(%rdx)
        je      return_to_frame
        cmpq    $MINUS_EFAULT, UCONTEXT_RAX(%rdx)
        jne     private_wait_trapped
        jmp     return_to_frame
2:      cmp     $(gate_futex - stub_start), %rax
        jne     3f
        mov     UCONTEXT_RCX(%rdx), %rcx
        mov     %rcx, SLOT_WAIT_RETURN(%rbx)
3:      cmp     $(gate_futex_decides - stub_start), %rax
        jb      4f
        cmp     $(private_wait - stub_start), %rax
        je      4f
        mov     UCONTEXT_R11(%rdx), %rcx
        movzbl  %ch, %eax
        and     $0xd5, %eax
        and     $1, %ecx
        shl     $11, %ecx
        or      %ecx, %eax
        mov     UCONTEXT_RFLAGS(%rdx), %rcx
        and     $~0x8d5, %rcx
        or      %rax, %rcx
        mov     %rcx, UCONTEXT_RFLAGS(%rdx)
4:      lea     private_wait_to_kernel(%rip), %rax
        mov     %rax, UCONTEXT_RIP(%rdx)
        jmp     return_to_frame
decided:

// A system call. The kernel gets what it needs in three lines, and leaves the frame to this CPU. rdx is the ucontext.
call_trapped:
        mov     UCONTEXT_RAX(%rdx), %rax
        mov     %rax, SLOT_RAX(%rbx)
        mov     UCONTEXT_RIP(%rdx), %rax
        mov     %rax, SLOT_RIP(%rbx)
#define PASS(NAME, name) mov UCONTEXT_##NAME(%rdx), %rax; mov %rax, SLOT_REGS+REGS_##NAME(%rbx)
        PASS(RSP, rsp)
        PASS(RBX, rbx)
        EACH_REGISTER(PASS)
        PASS(RFLAGS, rflags)
        mov     $SLOT_ENTRY_CALL, %eax
        jmp     publish_bases
trapped:
        mov     $SLOT_ENTRY_TRAP, %eax
publish_frame:
        mov     %edi, SLOT_SIGNO(%rbx)
        sub     %rbx, %rsi
        mov     %esi, SLOT_INFO(%rbx)
publish_bases:
        mov     %eax, SLOT_ENTRY(%rbx)
        sub     %rbx, %rdx
        mov     %edx, SLOT_FRAME(%rbx)
        rdfsbase %rax
        mov     %rax, SLOT_REGS+REGS_FS(%rbx)
        rdgsbase %rax
        mov     %rax, SLOT_REGS+REGS_GS(%rbx)
        jmp     publish
// The frame that the thread waited in stays its frame; the interrupt's, below it, goes.
way_back_broken:
        mov     SLOT_FRAME(%rbx), %eax
        lea     (%rbx, %rax), %rsp
        movl    $SLOT_ENTRY_BROKEN, SLOT_ENTRY(%rbx)
        jmp     publish

// The call gate of futex(2): as gate_entry, which it goes to with what the kernel must do.
gate_futex:
        mov     %rcx, %gs:SLOT_WAIT_RETURN
        lahf
        seto    %al
        movzwl  %ax, %r11d
gate_futex_decides:                     // the guest's flags are in r11 only
        lea     ORDERS(%rip), %rcx
        cmpl    $0, ORDERS_ANSWERS(%rcx)
        je      gate_futex_to_kernel
        mov     $STUB_USER_END, %rax
        cmp     %rax, %rdi
        jae     gate_futex_to_kernel
        cmp     $FUTEX_WAKE_PRIVATE, %esi
        je      1f
        cmp     $FUTEX_WAKE_BITSET_PRIVATE, %esi
        je      1f
        cmp     $FUTEX_WAIT_BITSET_PRIVATE, %esi
        je      2f
        cmp     $FUTEX_WAIT_BITSET_PRIVATE_REALTIME, %esi
        je      2f
        cmp     $FUTEX_WAIT_PRIVATE, %esi
        jne     gate_futex_to_kernel
        test    %r10, %r10              // as for futex_call
        jne     gate_futex_to_kernel
2:      movl    $1, %gs:SLOT_WAITING
        jmp     3f
1:      mfence
        cmpl    $0, ORDERS_WAITERS(%rcx)
        je      3f
gate_futex_to_kernel:
        mov     %r11d, %eax
        add     $0x7f, %al              // OF
        sahf
        mov     %gs:SLOT_WAIT_RETURN, %rcx
        mov     $NR_FUTEX, %eax
        jmp     gate_entry
3:      mov     %r11d, %eax
        add     $0x7f, %al
        sahf
        mov     $NR_FUTEX, %eax

// The guest's registers, rax = NR_FUTEX. Flags and stack are the guest's. Wake-ups come here by the gate.
private_wait:
site_private_wait:
        syscall
        lea     -(MINUS_EINTR)(%rax), %rcx
        jrcxz   private_wait_to_kernel
        lea     -(MINUS_EFAULT)(%rax), %rcx
        jrcxz   private_wait_to_kernel
        movl    $0, %gs:SLOT_WAITING
        mov     %gs:SLOT_WAIT_RETURN, %rcx
        jmp     *%rcx
// Interrupted, or the memory must be brought in: a call that the filter does not let through.
private_wait_to_kernel:
        mov     $NR_FUTEX, %eax
        syscall
private_wait_end:
        ud2

// ---- The call gate, in place of a `syscall`: rcx is where the guest goes on, r11 is free, as after syscall(2). The guest's
// stack is not touched. Who jumps here must know that GS is the slot's, and the two bytes before the address in rcx must
// be a `syscall`: a call that is to be restarted after a handler goes back by two.
        .balign 64
gate_entry:
        mov     %gs:SLOT_SELF, %r11
        mov     %rax, SLOT_RAX(%r11)
        mov     %rcx, SLOT_RIP(%r11)
        lahf                            // the flags that instructions set; the others stay as they are
        seto    %al
        movzwl  %ax, %eax
        mov     %rax, SLOT_REGS+REGS_RFLAGS(%r11)
#define SAVE(NAME, name) mov %name, SLOT_REGS+REGS_##NAME(%r11)
        SAVE(RSP, rsp)
        SAVE(RBX, rbx)
        EACH_REGISTER(SAVE)
        rdfsbase %rax
        mov     %rax, SLOT_REGS+REGS_FS(%r11)
        movl    $SLOT_ENTRY_GATE, SLOT_ENTRY(%r11)
        mov     %r11, %rbx
        lea     CONTROL(%rip), %r12

// ---- rbx = slot, r12 = control page: tell the kernel, wait for its answer.
publish:
        mov     $SLOT_STATE_REQUEST, %eax
        xchg    %eax, SLOT_STATE(%rbx)
wait_start:
        cmpl    $0, CONTROL_HOT(%r12)
        je      ring_and_sleep
        rdtsc
        shl     $32, %rdx
        or      %rdx, %rax
        mov     CONTROL_SPIN(%r12), %ecx
        lea     (%rax, %rcx), %r8
1:      mov     $16, %ecx               // a look costs less than the time
2:      mov     SLOT_STATE(%rbx), %eax
        test    %eax, %eax
        jz      resume
        pause
        dec     %ecx
        jnz     2b
        cmp     $SLOT_STATE_REQUEST, %eax
        jne     3f
        OWN_WORKER
        inc     %eax
        cmp     %eax, CONTROL_HOT(%r12)
        je      3f                      // who polls has this CPU when this thread is off it
        rdtsc
        shl     $32, %rdx
        or      %rdx, %rax
        cmp     %r8, %rax
        jb      1b
3:      NOTE_OWN_WORKER
        xor     %r8d, %r8d
        jmp     sleep
ring_and_sleep:
        NOTE_OWN_WORKER
        lea     sleep(%rip), %r9
        jmp     ring
// r8d = not 0: no worker was woken: look again after a while.
sleep:
        mov     $SLOT_STATE_REQUEST, %eax
        mov     $SLOT_STATE_ASLEEP, %ecx
        lock cmpxchg %ecx, SLOT_STATE(%rbx)
        mov     SLOT_STATE(%rbx), %edx
        test    %edx, %edx
        jz      resume
        mov     %rbx, %rdi
        xor     %r10d, %r10d
        test    %r8d, %r8d
        jz      1f
        lea     CONTROL_PATIENCE(%r12), %r10
1:      lea     2f(%rip), %r14
        jmp     wait
2:      cmp     $MINUS_ETIMEDOUT, %rax
        jne     sleep
        lea     sleep(%rip), %r9
        jmp     ring

// rdi = word, edx = its value, r10 = struct timespec* or 0, r14 = where to go on. Result in rax.
wait:
        mov     $FUTEX_WAIT_SHARED, %esi
        mov     $NR_FUTEX, %eax
site_wait:
        syscall
        jmp     *%r14

// ---- The kernel let this thread go on, perhaps after calls that it makes for the kernel.
resume:
        mov     SLOT_CALLS(%rbx), %r14d
        and     $CALLS_COUNT_MASK, %r14d
        jnz     make_calls
resume_guest:
        mov     SLOT_RESUME(%rbx), %ecx
        cmp     $SLOT_RESUME_RESULT, %ecx
        je      result_resume
        cmp     $SLOT_RESUME_BY_GATE, %ecx
        je      gate_resume             // the bases are as they were
        cmp     $SLOT_RESUME_BY_GATE_BASES, %ecx
        je      gate_resume_bases
        cmp     $SLOT_RESUME_SAVE, %ecx
        je      save
        mov     SLOT_RESUME_FS(%rbx), %rax
        wrfsbase %rax
        mov     SLOT_RESUME_GS(%rbx), %rax
        wrgsbase %rax
        mov     SLOT_RESUME_FRAME(%rbx), %eax
        lea     (%rbx, %rax), %rsp
        cmp     $SLOT_RESUME_BY_HOST, %ecx
        jne     leave
        mov     UCONTEXT_RFLAGS(%rsp), %eax
        and     $FLAGS_KEPT_BY_HOST, %eax
        or      $0x202, %eax
        push    %rax
        popfq
        mov     %rsp, %rbp
        lea     UCONTEXT_STACK(%rsp), %rdi
        xor     %esi, %esi
        xor     %esp, %esp              // on no stack, whatever a former guest has set: rt_sigreturn(2) does not change the one it is on
        mov     $NR_SIGALTSTACK, %eax
site_stack:
        syscall
        mov     %rbp, %rsp
leave_by_host:
        movq    $0, UCONTEXT_SIGMASK(%rsp)
        mov     $LEAVING, %edi          // for `interrupted`: not a handler's rdi
        jmp     sigreturn
result_resume:
        mov     SLOT_FRAME(%rbx), %eax
        lea     (%rbx, %rax), %rsp
        mov     SLOT_RAX(%rbx), %rax
        mov     %rax, UCONTEXT_RAX(%rsp)
// rsp = ucontext: all that rt_sigreturn(2) would load, but no signal mask, unless a hostile guest has set one; the stack below
// it is free. The flags go first, as iret refuses to run with NT.
leave:
        cmpq    $0, UCONTEXT_SIGMASK(%rsp)
        jne     leave_by_host
        mov     UCONTEXT_FPSTATE(%rsp), %rcx
        mov     $-1, %eax
        mov     $-1, %edx
        xrstor64 (%rcx)
        mov     %rsp, %rbp
        push    $0x202
        popfq
        movzwl  UCONTEXT_CS(%rbp), %eax
        push    $USER_SS
        push    UCONTEXT_RSP(%rbp)
        push    UCONTEXT_RFLAGS(%rbp)
        push    %rax
        push    UCONTEXT_RIP(%rbp)
        mov     UCONTEXT_R8(%rbp), %r8
        mov     UCONTEXT_R9(%rbp), %r9
        mov     UCONTEXT_R10(%rbp), %r10
        mov     UCONTEXT_R11(%rbp), %r11
        mov     UCONTEXT_R12(%rbp), %r12
        mov     UCONTEXT_R13(%rbp), %r13
        mov     UCONTEXT_R14(%rbp), %r14
        mov     UCONTEXT_R15(%rbp), %r15
        mov     UCONTEXT_RDI(%rbp), %rdi
        mov     UCONTEXT_RSI(%rbp), %rsi
        mov     UCONTEXT_RBX(%rbp), %rbx
        mov     UCONTEXT_RDX(%rbp), %rdx
        mov     UCONTEXT_RAX(%rbp), %rax
        mov     UCONTEXT_RCX(%rbp), %rcx
        mov     UCONTEXT_RBP(%rbp), %rbp
        iretq
// The kernel needs the vector state of a thread that waits in the gate, and the flags that the gate does not pass; the CPU keeps
// both. The stack goes below it first, so that the host's frames do not come over it.
save:
        lea     SLOT_LAID(%rbx), %rsp
        pushfq
        popq    SLOT_FLAGS(%rbx)
        mov     $-1, %eax
        mov     $-1, %edx
        xsave64 SLOT_LAID_VECTOR(%rbx)
        movl    $SLOT_ENTRY_SAVED, SLOT_ENTRY(%rbx)
        jmp     publish
gate_resume_bases:
        mov     SLOT_REGS+REGS_FS(%rbx), %rax
        wrfsbase %rax
        mov     SLOT_REGS+REGS_GS(%rbx), %rax
        wrgsbase %rax
gate_resume:
        prefetchw SLOT_REGS(%rbx)
        prefetchw SLOT_REGS+64(%rbx)
        mov     SLOT_REGS+REGS_RFLAGS(%rbx), %rax
        add     $0x7f, %al              // OF
        sahf
        mov     SLOT_RIP(%rbx), %rcx
        mov     SLOT_RAX(%rbx), %rax
#define LOAD(NAME, name) mov SLOT_REGS+REGS_##NAME(%rbx), %name
        LOAD(RSP, rsp)
        EACH_REGISTER(LOAD)
        LOAD(RBX, rbx)
        jmp     *%rcx

// The calls in the slot, in order, r14d of them. The number of waiters that they woke is added to the guest's result.
make_calls:
        lea     SLOT_CALL(%rbx), %r13
        xor     %ebp, %ebp
1:      mov     CALL_ARGS+0(%r13), %rdi
        mov     CALL_ARGS+8(%r13), %rsi
        mov     CALL_ARGS+16(%r13), %rdx
        cmpl    $CALL_RSEQ, CALL_KIND(%r13)
        je      9f
        cmpl    $CALL_PROTECT, CALL_KIND(%r13)
        jne     2f
        mov     $NR_MPROTECT, %eax
site_protect:
        syscall
        jmp     3f
2:      mov     %edx, %r9d
        mov     %rsi, %rdx
        mov     $FUTEX_WAKE_BITSET_PRIVATE, %esi
        lea     4f(%rip), %r8
        jmp     private_wake
4:      test    %eax, %eax
        js      3f
        add     %eax, %ebp
        jmp     3f
9:      mov     %edx, %r10d
        mov     %rsi, %rdx
        shr     $32, %rdx
        mov     %esi, %esi
        mov     $NR_RSEQ, %eax
site_rseq:
        syscall
        test    %eax, %eax
        jz      3f
        cmp     CALL_KIND+4(%r13), %eax
        jne     exit_thread
3:      add     $CALL_SIZE, %r13
        dec     %r14d
        jnz     1b
        mov     SLOT_RESUME_FRAME(%rbx), %eax
        cmpl    $SLOT_RESUME_PARK, SLOT_RESUME(%rbx)
        je      park_after_calls
        cmpl    $SLOT_RESUME_BY_HOST, SLOT_RESUME(%rbx)
        jbe     5f                      // by a frame
        add     %rbp, SLOT_RAX(%rbx)
        jmp     6f
5:      add     %rbp, UCONTEXT_RAX(%rbx, %rax)
6:      xor     %eax, %eax
        xchg    %eax, SLOT_CALLS(%rbx)
        test    $CALLS_AWAITED, %eax
        jz      resume_guest
        cmpl    $0, CONTROL_HOT(%r12)
        jne     resume_guest
7:      lea     8f(%rip), %r9
        jmp     ring
8:      test    %r8d, %r8d
        jz      resume_guest
        mov     %rbx, %rdi
        mov     $SLOT_STATE_RUN, %edx
        lea     CONTROL_PATIENCE(%r12), %r10
        lea     7b(%rip), %r14
        jmp     wait
// The calls were the last for this task. When they are made the kernel may give the thread away: state first.
park_after_calls:
        movl    $SLOT_STATE_PARKED, SLOT_STATE(%rbx)
        xor     %r8d, %r8d
        xor     %eax, %eax
        xchg    %eax, SLOT_CALLS(%rbx)
        test    $CALLS_AWAITED, %eax
        jz      sleep
        cmpl    $0, CONTROL_HOT(%r12)
        jne     sleep
        lea     sleep(%rip), %r9
        jmp     ring

// rdi = word, esi = FUTEX_WAKE*_PRIVATE, edx = how many, r9d = mask, r8 = where to go on. Result in rax.
private_wake:
        mov     $NR_FUTEX, %eax
site_private_wake:
        syscall
        jmp     *%r8

// ---- ring: wake the worker of this CPU, or any that sleeps. r12 = control page, r9 = where to go on. r8d = 0: done; not 0:
// one that is about to sleep, or was woken and did not run yet, could not be woken in a few tries: try again after a while.
// Clobbers rax rcx rdx rsi rdi r8 r11 r13. A worker that claims to sleep but is not in futex(2) yet is tried again:
// the flag is read-only here, so waking is all that can be done. A worker looks at every slot after it sets its flag.
        .globl  ring
ring:
        xor     %r8d, %r8d
ring_again:
        OWN_WORKER
        cmp     CONTROL_WORKERS(%r12), %eax
        jae     ring_any
        shl     $6, %eax
        lea     CONTROL_SLEEPERS(%r12, %rax), %r13
        cmpl    $0, (%r13)
        jne     ring_this
        cmpl    $0, SLEEPER_LOOKS(%r13)
        jne     ring_done               // it waits for this CPU; another's would be woken for nothing
ring_any:
        mov     CONTROL_WORKERS(%r12), %ecx
        lea     CONTROL_SLEEPERS(%r12), %r13
1:      cmpl    $0, (%r13)
        jne     ring_this
        add     $64, %r13
        dec     %ecx
        jnz     1b
        jmp     ring_done
ring_this:
        mov     %r13, %rdi
        mov     $FUTEX_WAKE_SHARED, %esi
        mov     $1, %edx
        mov     $NR_FUTEX, %eax
site_wake:
        syscall
        test    %eax, %eax
        jg      ring_done
        cmpl    $0, (%r13)
        je      ring_done
        pause
        inc     %r8d
        cmp     $RING_TRIES, %r8d
        jb      ring_again
        jmp     *%r9
ring_done:
        xor     %r8d, %r8d
        jmp     *%r9
gate_resume_end:

// What exec(2) starts with, as XRSTOR takes it: nothing is there but MXCSR and the x87 control word.
        .balign 64
initial_vector_state:
        .word   0x37f
        .skip   22
        .long   0x1f80
        .skip   576 - 28

exit_thread:
        xor     %edi, %edi
        mov     $NR_EXIT, %eax
site_exit:
        syscall
        ud2

// ---- A new stub thread: rbx = its slot, all signals blocked, nothing but registers used until the filter is on.
        .globl  thread_start
thread_start:
        lea     CONTROL(%rip), %r12
        lea     1f(%rip), %r9
        jmp     die_with_parent
1:      mov     $1, %edi                // SECCOMP_SET_MODE_FILTER
        xor     %esi, %esi
        lea     CONTROL_FPROG(%r12), %rdx
        mov     $NR_SECCOMP, %eax
        syscall
        xor     %r8d, %r8d
        test    %rax, %rax
        jz      sleep
        jmp     exit_thread

// Asks for SIGKILL when the kernel process dies, and dies now if it is gone already. r9 = where to go on.
        .globl  die_with_parent
die_with_parent:
        mov     $1, %edi                // PR_SET_PDEATHSIG
        mov     $9, %esi
        xor     %edx, %edx
        xor     %r10d, %r10d
        xor     %r8d, %r8d
        mov     $NR_PRCTL, %eax
        syscall
        mov     $NR_GETPPID, %eax
        syscall
        cmp     CONTROL_PARENT(%r12), %eax
        jne     exit_thread
        jmp     *%r9

        .section .note.GNU-stack, "", @progbits
