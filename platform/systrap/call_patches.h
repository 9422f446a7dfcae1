// CallPatches: how patched `syscall` instructions reach the call gate without a trap.
//
// One per sandbox, owned by Systrap. In a patched image of a file's text, `mov $number, %eax;
// syscall` is an indirect jump of the same size through a table at a fixed low address (CALL_TABLE)
// to code of the call's own (STUB_CALLS), which loads the return address and the number and goes on
// to the gate (stub/stub.S). Where the number comes from elsewhere, the jump is over the `syscall`
// and the comparison that follows. Table, code and images are in one file, which stubs map through
// a read-only descriptor, the same for all: an image fits wherever its file is mapped, as the code
// adds the address that the stub's order page has for it. Where another instruction began in what
// the jump has replaced there is one that faults: whoever goes there is mended by the kernel
// (Task::take_patched_place). Lock: mu_.
//
//   byte       0  1  2  3  4  5  6  7  8
//   patch      ff 24 e5 lo hi 06 00        jmp *0x0006hilo, the call's entry of the table
//   kMov       b8 number......0f 05        `syscall` at 5: 06, an invalid opcode
//   kMovWide   48 c7 c0 number......0f 05  the `syscall` at 7 stays
//   kCompare   0f 05 48 3d value......     `cmp` at 2: e5, `in $lo, %eax`, which no user may. (e5
//   for
//                                          25: the scale of an index that is not there.)
#pragma once

#include <array>
#include <memory>
#include <optional>

#include "base/mutex.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "platform/platform.h"
#include "platform/systrap/sysmsg/sysmsg.h"

namespace caisson::systrap {

class CallPatches {
 public:
  // `wanted` is false where calls shall not be patched; enabled() also says whether the host allows
  // it.
  static Result<std::unique_ptr<CallPatches>> create(uint64_t stub_base, bool wanted);
  ~CallPatches();
  CallPatches(const CallPatches&) = delete;
  CallPatches& operator=(const CallPatches&) = delete;

  bool enabled() const { return enabled_; }
  // For the stubs: the table, then the code, then images. Not owned by the caller.
  int read_only_fd() const { return read_only_.get(); }
  // Whether `address` lies in the code that patched call sites jump to.
  bool is_code(uint64_t address) const {
    return address - (stub_base_ + STUB_CALLS) < STUB_CALLS_SIZE;
  }

  // Where the guest is whose instruction pointer is `address` in that code: before the call or,
  // where the code ends with an instruction of the guest's, after it. `images` is what the stub's
  // order page has. 0: a hostile jump.
  uint64_t guest_address(uint64_t address, const Shared<uint64_t>* images) const;

  // A guest that runs step by step (TF) was stopped at `address`, behind the jump of a patch, where
  // no step of its own ends: sets what its first instruction does.
  enum class Step : uint8_t {
    kNone,  // not the code's beginning
    kDone,
    kCall,  // it is the system call, which returns to regs.rip
  };
  Step finish_step(uint64_t address, const Shared<uint64_t>* images, Registers& regs) const;

  // See platform::Platform.
  Result<platform::PatchedImage> new_image(uint64_t length) EXCLUDES(mu_);
  Result<std::array<std::byte, platform::kPatchSize>> new_call(const platform::PatchedImage& image,
                                                               platform::CallShape shape,
                                                               uint32_t value, uint64_t offset)
      EXCLUDES(mu_);

 private:
  struct Call {
    uint32_t image = 0;
    uint32_t offset = 0;  // in the file, of the first byte patched
    uint32_t value = 0;   // as new_call()'s
    platform::CallShape shape = platform::CallShape::kMov;
  };
  struct Place {
    Call call;
    uint64_t site;    // the guest's address of the first byte patched
    uint64_t within;  // the call's code
  };
  // What is known of an address in that code; nothing, if the guest has not mapped the call's
  // image.
  std::optional<Place> find(uint64_t address, const Shared<uint64_t>* images) const;
  explicit CallPatches(uint64_t stub_base) : stub_base_(stub_base) {}

  const uint64_t stub_base_;
  bool enabled_ = false;
  UniqueFd read_only_;
  std::byte* base_ = nullptr;  // the file, writable

  Mutex<LockRank::kPlatform> mu_;
  uint32_t images_ GUARDED_BY(mu_) = 0;
  uint64_t image_end_ GUARDED_BY(mu_) = 0;  // in the file
  uint32_t next_ GUARDED_BY(mu_) = 1;       // place 0 holds constants
  // By place. Written before the place's code is.
  std::unique_ptr<Call[]> calls_;
};

}  // namespace caisson::systrap
