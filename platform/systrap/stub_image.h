// The stub image: the flat, position-independent code that every stub maps at the base of its stub
// region.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace caisson::systrap {

// At the start of the image (stub/stub.S); all values are offsets in the image. A "site" is the
// address after a `syscall` instruction, as seccomp filters see it.
struct StubHeader {
  char magic[8];
  uint32_t text_size;
  uint32_t signal_entry;
  uint32_t restorer;
  uint32_t gate;
  uint32_t gate_futex;
  uint32_t zygote_entry;
  uint32_t initial_vector_state;
  uint32_t site_sigreturn;
  uint32_t site_wait;
  uint32_t site_wake;
  uint32_t site_exit;
  uint32_t site_stack;
  uint32_t site_protect;
  uint32_t site_private_wait;
  uint32_t site_private_wake;
  uint32_t site_rseq;
};

std::span<const std::byte> stub_image();
const StubHeader& stub_header();

}  // namespace caisson::systrap
