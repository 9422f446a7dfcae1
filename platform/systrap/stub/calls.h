// Numbers of the host calls that stub code makes, and where its pages are: for the assembler files
// of this folder.
#pragma once

#define NR_LSEEK 8
#define NR_MPROTECT 10
#define NR_SIGRETURN 15
#define NR_PWRITE64 18
#define NR_CLONE 56
#define NR_EXIT 60
#define NR_GETPPID 110
#define NR_SIGALTSTACK 131
#define NR_PRCTL 157
#define NR_FUTEX 202
#define NR_SECCOMP 317
#define NR_RSEQ 334
#define FUTEX_WAIT_SHARED 0
#define FUTEX_WAKE_SHARED 1
#define FUTEX_WAKE_OP_SHARED 5
#define FUTEX_WAIT_PRIVATE 128
#define FUTEX_WAKE_PRIVATE 129
#define FUTEX_WAIT_BITSET_PRIVATE 137
#define FUTEX_WAKE_BITSET_PRIVATE 138
#define FUTEX_WAIT_BITSET_PRIVATE_REALTIME (137 + 256)

#define CONTROL (stub_start + STUB_CONTROL)
#define ORDERS (stub_start + STUB_ORDERS)
