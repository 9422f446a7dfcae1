#include "mm/safe_copy.h"

#include "host/fault_handler.h"

namespace caisson {

// In every routine a label pair brackets the instructions that may fault. The handler moves the
// instruction pointer of a fault between them to the matching fix-up.
//
// caisson_guarded_copy: rdi to, rsi from, rdx length; returns the bytes left in rax.
//   below 64 bytes: 8 at a time; below 1 KiB: 64 at a time through xmm; above: rep movsb, which
//   counts down rcx. A fault of the wide moves goes on byte by byte to find the exact place.
__asm__(R"(
  .text
  .p2align 5
  .type caisson_guarded_copy, @function
caisson_guarded_copy:
  cmpq $1024, %rdx
  jae 3f
.Lcopy_wide_begin:
  cmpq $64, %rdx
  jb 1f
0:
  movups (%rsi), %xmm0
  movups 16(%rsi), %xmm1
  movups 32(%rsi), %xmm2
  movups 48(%rsi), %xmm3
  movups %xmm0, (%rdi)
  movups %xmm1, 16(%rdi)
  movups %xmm2, 32(%rdi)
  movups %xmm3, 48(%rdi)
  addq $64, %rsi
  addq $64, %rdi
  subq $64, %rdx
  cmpq $64, %rdx
  jae 0b
1:
  cmpq $8, %rdx
  jb .Lcopy_bytes
  movq (%rsi), %rax
  movq %rax, (%rdi)
  addq $8, %rsi
  addq $8, %rdi
  subq $8, %rdx
  jmp 1b
.Lcopy_wide_end:
.Lcopy_bytes:
  testq %rdx, %rdx
  jz .Lcopy_done
.Lcopy_bytes_begin:
  movb (%rsi), %al
  movb %al, (%rdi)
  incq %rsi
  incq %rdi
  decq %rdx
  jnz .Lcopy_bytes_begin
.Lcopy_bytes_end:
.Lcopy_done:
  movq %rdx, %rax
  ret
3:
  movq %rdx, %rcx
.Lcopy_rep_begin:
  rep movsb
.Lcopy_rep_end:
  movq %rcx, %rax
  ret
  .size caisson_guarded_copy, .-caisson_guarded_copy

  .type caisson_guarded_zero, @function
caisson_guarded_zero:
  movq %rsi, %rcx
  xorl %eax, %eax
.Lzero_begin:
  rep stosb
.Lzero_end:
  movq %rcx, %rax
  ret
  .size caisson_guarded_zero, .-caisson_guarded_zero

# rdi to, rsi from, rdx length > 0; returns bytes copied, edx becomes 0 none, 1 NUL found, 2 fault
  .type caisson_guarded_string, @function
caisson_guarded_string:
  xorl %eax, %eax
.Lstring_begin:
  movzbl (%rsi,%rax), %ecx
  movb %cl, (%rdi,%rax)
  incq %rax
  testb %cl, %cl
  jz .Lstring_found
  cmpq %rdx, %rax
  jb .Lstring_begin
.Lstring_end:
  xorl %edx, %edx
  ret
.Lstring_found:
  movl $1, %edx
  ret
.Lstring_fault:
  movl $2, %edx
  ret
  .size caisson_guarded_string, .-caisson_guarded_string

# rdi word; rax: value, edx: 1 if it went well
  .type caisson_guarded_load, @function
caisson_guarded_load:
  movl $1, %edx
.Lload_begin:
  movl (%rdi), %eax
.Lload_end:
  ret
# rdi word, esi expected, edx desired
  .type caisson_guarded_cmpxchg, @function
caisson_guarded_cmpxchg:
  movl %esi, %eax
.Lcmpxchg_begin:
  lock cmpxchgl %edx, (%rdi)
.Lcmpxchg_end:
  movl $1, %edx
  ret
.Lword_fault:
  xorl %edx, %edx
  ret

  .section .data.rel.ro, "aw"
  .p2align 3
  .type caisson_guard_table, @object
caisson_guard_table:
  .quad .Lcopy_wide_begin, .Lcopy_wide_end, .Lcopy_bytes
  .quad .Lcopy_bytes_begin, .Lcopy_bytes_end, .Lcopy_done
  .quad .Lcopy_rep_begin, .Lcopy_rep_end, .Lcopy_rep_end
  .quad .Lzero_begin, .Lzero_end, .Lzero_end
  .quad .Lstring_begin, .Lstring_end, .Lstring_fault
  .quad .Lload_begin, .Lload_end, .Lword_fault
  .quad .Lcmpxchg_begin, .Lcmpxchg_end, .Lword_fault
  .size caisson_guard_table, .-caisson_guard_table
  .text
)");

namespace {

struct TwoWords {
  uint64_t rax;
  uint64_t rdx;
};
struct Guard {
  uint64_t begin, end, fixup;
};
extern "C" {
size_t caisson_guarded_copy(void*, const void*, size_t);
size_t caisson_guarded_zero(void*, size_t);
TwoWords caisson_guarded_string(char*, const char*, size_t);
TwoWords caisson_guarded_load(const void*);
TwoWords caisson_guarded_cmpxchg(void*, uint32_t, uint32_t);
extern const Guard caisson_guard_table[7];
}

uint64_t fixup_of(uint64_t rip) {
  for (const Guard& guard : caisson_guard_table)
    if (rip >= guard.begin && rip < guard.end) return guard.fixup;
  return 0;
}

}  // namespace

void install_fault_guards() {
  static const bool installed = (host::install_fault_handler(fixup_of), true);
  (void)installed;
}

size_t safe_copy(void* to, const void* from, size_t length) {
  return caisson_guarded_copy(to, from, length);
}

size_t safe_zero(void* to, size_t length) { return caisson_guarded_zero(to, length); }

size_t safe_copy_string(char* to, const char* from, size_t length, bool* found, bool* faulted) {
  *found = *faulted = false;
  if (length == 0) return 0;
  TwoWords result = caisson_guarded_string(to, from, length);
  *found = result.rdx == 1;
  *faulted = result.rdx == 2;
  return result.rax;
}

bool safe_load_u32(const void* word, uint32_t* value) {
  TwoWords result = caisson_guarded_load(word);
  *value = static_cast<uint32_t>(result.rax);
  return result.rdx != 0;
}

bool safe_compare_exchange_u32(void* word, uint32_t expected, uint32_t desired, uint32_t* value) {
  TwoWords result = caisson_guarded_cmpxchg(word, expected, desired);
  *value = static_cast<uint32_t>(result.rax);
  return static_cast<uint32_t>(result.rdx) != 0;
}

}  // namespace caisson
