// Guarded access to memory that can fault in the kernel process: guest memory at the memory limit
// (SIGBUS), mapped files that were truncated (SIGBUS).
//
// Each routine reports a fault instead of dying. The SIGBUS and SIGSEGV handlers recognise these
// routines by instruction address, and pass every other fault to the handlers that were there
// before. Guests write the same memory at the same time: every value is read once.
#pragma once

#include <cstddef>
#include <cstdint>

namespace caisson {

// Installs the handlers. Idempotent; needed before the first access below.
void install_fault_guards();

// Each returns the number of bytes NOT copied: 0 when all went well. The ranges must not overlap.
size_t safe_copy(void* to, const void* from, size_t length);
size_t safe_zero(void* to, size_t length);
// Copies up to and including the first NUL, at most `length` bytes. Returns the bytes copied;
// *found tells whether the NUL is among them, *faulted whether a fault stopped it.
size_t safe_copy_string(char* to, const char* from, size_t length, bool* found, bool* faulted);

// Atomic, sequentially consistent; `word` must be aligned. False on a fault.
bool safe_load_u32(const void* word, uint32_t* value);
// *value is what was there before; the exchange happened if it equals `expected`.
bool safe_compare_exchange_u32(void* word, uint32_t expected, uint32_t desired, uint32_t* value);

}  // namespace caisson
