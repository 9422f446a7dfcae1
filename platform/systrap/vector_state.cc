#include "platform/systrap/vector_state.h"

#include <cpuid.h>
#include <signal.h>
#include <ucontext.h>

#include <algorithm>
#include <cstring>

#include "platform/systrap/sysmsg/sysmsg.h"

namespace caisson::systrap {
namespace {

// Offsets in struct _fpstate and the XSAVE header (Linux: arch/x86/include/uapi/asm/sigcontext.h).
constexpr size_t kMxcsr = 24;
constexpr size_t kMxcsrMask = 28;
constexpr size_t kSoftware = 464;  // struct _fpx_sw_bytes
constexpr size_t kHeader = 512;    // xstate_bv, xcomp_bv, reserved
constexpr size_t kHeaderSize = 64;
constexpr size_t kFxsaveSize = 512;

struct SoftwareBytes {
  uint32_t magic1;
  uint32_t extended_size;
  uint64_t features;
  uint32_t state_size;
  uint32_t padding[7];
};
constexpr uint32_t kMagic1 = 0x46505853;
constexpr size_t kMagic2Size = 4;  // at the end

std::vector<std::byte>* captured;

void capture(int, siginfo_t*, void* context) {
  auto* state = reinterpret_cast<std::byte*>(static_cast<ucontext_t*>(context)->uc_mcontext.fpregs);
  if (state == nullptr) return;
  SoftwareBytes software;
  memcpy(&software, state + kSoftware, sizeof software);
  size_t size = software.magic1 == kMagic1 ? software.extended_size : kFxsaveSize;
  if (size > captured->size()) return;
  memcpy(captured->data(), state, size);
  captured->resize(size);
}

// Whether the signal stack has room: two of the host's frames above what the kernel lays, two
// below, and in between what XSAVE writes, which may be more than frames hold.
bool fits(size_t size) {
  constexpr size_t kRest = 0x280;  // of a frame
  constexpr size_t kFrames = std::min(SLOT_SIZE - SLOT_LAID_END, SLOT_LAID - SLOT_STACK);
  constexpr size_t kVector = SLOT_LAID_END - SLOT_LAID_VECTOR;
  uint32_t eax, saved, ecx, edx;
  if (__get_cpuid_count(0xd, 0, &eax, &saved, &ecx, &edx) == 0) return false;
  return 2 * (size + kRest) <= kFrames && std::max<size_t>(size, saved) <= kVector;
}

}  // namespace

Result<VectorState> VectorState::learn() {
  std::vector<std::byte> image(64 * 1024);
  captured = &image;
  struct sigaction action {};
  struct sigaction before {};
  action.sa_sigaction = capture;
  action.sa_flags = SA_SIGINFO;
  if (sigaction(SIGUSR2, &action, &before) < 0) return Errno(errno);
  raise(SIGUSR2);
  sigaction(SIGUSR2, &before, nullptr);
  captured = nullptr;

  SoftwareBytes software;
  memcpy(&software, image.data() + kSoftware, sizeof software);
  if (software.magic1 != kMagic1 || image.size() < kHeader + kHeaderSize + kMagic2Size ||
      !fits(image.size()))
    return Errno(ENOTSUP);
  VectorState result;
  result.features_ = software.features;
  memcpy(&result.mxcsr_mask_, image.data() + kMxcsrMask, 4);
  if (result.mxcsr_mask_ == 0) result.mxcsr_mask_ = 0xffbf;

  std::vector<std::byte>& initial = result.initial_;
  initial.assign(image.size(), std::byte{0});
  uint16_t control_word = 0x37f;
  uint32_t mxcsr = 0x1f80;
  memcpy(initial.data(), &control_word, sizeof control_word);
  memcpy(initial.data() + kMxcsr, &mxcsr, sizeof mxcsr);
  memcpy(initial.data() + kMxcsrMask, &result.mxcsr_mask_, 4);
  memcpy(initial.data() + kSoftware, image.data() + kSoftware, kFxsaveSize - kSoftware);
  const size_t end = image.size() - kMagic2Size;
  memcpy(initial.data() + end, image.data() + end, kMagic2Size);
  return result;
}

void VectorState::sanitize(std::span<std::byte> image) const {
  uint32_t mxcsr;
  memcpy(&mxcsr, image.data() + kMxcsr, 4);
  mxcsr &= mxcsr_mask_;
  memcpy(image.data() + kMxcsr, &mxcsr, 4);
  memcpy(image.data() + kSoftware, initial_.data() + kSoftware, kFxsaveSize - kSoftware);
  uint64_t present;
  memcpy(&present, image.data() + kHeader, 8);
  present &= features_;
  memset(image.data() + kHeader, 0, kHeaderSize);
  memcpy(image.data() + kHeader, &present, 8);
  const size_t end = image.size() - kMagic2Size;
  memcpy(image.data() + end, initial_.data() + end, kMagic2Size);
}

}  // namespace caisson::systrap
