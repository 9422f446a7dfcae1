// SharedMemory: the control file (control page, order pages, slots) and the stub text, as the
// kernel process sees them.
//
// One per sandbox, owned by Systrap. The kernel maps the whole control file once; stubs map single
// pages of it: the control page and one order page read-only, and the slots of their own threads.
// Sparse: only touched pages cost.
#pragma once

#include <bitset>
#include <memory>
#include <vector>

#include "base/mutex.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "platform/systrap/sysmsg/sysmsg.h"

namespace caisson::systrap {

inline constexpr uint32_t kMaxStubs = 0x8000;
inline constexpr uint64_t kControlFileOrders = STUB_CONTROL_SIZE;
inline constexpr uint64_t kControlFileSlots =
    (kControlFileOrders + uint64_t{kMaxStubs} * 4096 + SLOT_SIZE - 1) / SLOT_SIZE * SLOT_SIZE;
inline constexpr uint64_t kControlFileSize = kControlFileSlots + uint64_t{SLOT_COUNT} * SLOT_SIZE;

class SharedMemory {
 public:
  static Result<std::unique_ptr<SharedMemory>> create(uint64_t stub_base, bool stub_calls);
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  ControlPage& control() { return *reinterpret_cast<ControlPage*>(base_); }
  OrderPage& orders(uint32_t stub) {
    return *reinterpret_cast<OrderPage*>(base_ + kControlFileOrders + uint64_t{stub} * 4096);
  }
  Slot& slot(uint32_t id) { return *reinterpret_cast<Slot*>(base_ + slot_offset(id)); }
  static uint64_t slot_offset(uint32_t id) { return kControlFileSlots + uint64_t{id} * SLOT_SIZE; }
  uint64_t slot_address(uint32_t id) const {
    return stub_base_ + STUB_SLOTS + uint64_t{id} * SLOT_SIZE;
  }
  uint64_t stub_base() const { return stub_base_; }

  int control_fd() const { return control_rw_.get(); }
  int control_ro_fd() const { return control_ro_.get(); }
  int text_fd() const { return text_ro_.get(); }

  // Gives a slot's pages back to the host. Precondition: no stub maps it any more, or it is about
  // to be set up anew.
  void discard_slot(uint32_t id);

 private:
  explicit SharedMemory(uint64_t stub_base) : stub_base_(stub_base) {}

  const uint64_t stub_base_;
  std::byte* base_ = nullptr;
  UniqueFd control_rw_;
  UniqueFd control_ro_;
  UniqueFd text_ro_;
};

// A memfd of `size` bytes, and a second, read-only descriptor of the same file.
struct FilePair {
  UniqueFd read_write;
  UniqueFd read_only;
};
Result<FilePair> make_memory_file_pair(const char* name, uint64_t size);

}  // namespace caisson::systrap
