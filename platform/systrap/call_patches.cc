#include "platform/systrap/call_patches.h"

#include <sys/mman.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstring>

#include "base/check.h"
#include "platform/systrap/shared_memory.h"
#include "platform/systrap/stub_image.h"

namespace caisson::systrap {
namespace {

constexpr uint64_t kTableSize = CALL_TABLE_END - CALL_TABLE;
constexpr uint64_t kFirstImage = kTableSize + STUB_CALLS_SIZE;
constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kFileSize = uint64_t{64} << 20;
constexpr uint32_t kMaxCalls = STUB_CALLS_SIZE / STUB_CALL_SIZE;

// Bytes of the table's address are bytes of the patch: where the second instruction of a kMov was
// is 0x06.
static_assert((CALL_TABLE >> 16 & 0xff) == 0x06 && CALL_TABLE_END - CALL_TABLE <= 0x10000);

// Writes instructions to `at`, which stubs will run at `address`.
class Assembler {
 public:
  Assembler(std::byte* at, uint64_t address) : start_(at), at_(at), address_(address) {}
  // rcx = what the pointer at `pointer` points to, plus `offset`
  void load_address(uint64_t pointer, uint64_t offset) {
    bytes({0x48, 0x8b, 0x0d});  // mov pointer(%rip), %rcx
    relative(pointer);
    bytes({0x48, 0x8d, 0x89});  // lea offset(%rcx), %rcx
    word(static_cast<uint32_t>(offset));
  }
  void bytes(std::initializer_list<int> values) {
    for (int value : values) *at_++ = static_cast<std::byte>(value);
  }
  void word(uint32_t value) {
    memcpy(at_, &value, sizeof value);
    at_ += sizeof value;
  }
  // The displacement, at the end of an instruction, to `target`.
  void relative(uint64_t target) {
    word(static_cast<uint32_t>(target - (address_ + size() + sizeof(uint32_t))));
  }
  size_t size() const { return static_cast<size_t>(at_ - start_); }

 private:
  std::byte* start_;
  std::byte* at_;
  uint64_t address_;
};

// Where in a call's place the guest's own instruction is, and the end of it.
constexpr uint64_t kCompare = 96;
constexpr uint64_t kCompareDone = kCompare + 20;

}  // namespace

Result<std::unique_ptr<CallPatches>> CallPatches::create(uint64_t stub_base, bool wanted) {
  std::unique_ptr<CallPatches> calls(new CallPatches(stub_base));
  if (wanted) {
    // The host may keep programs away from so low addresses (vm.mmap_min_addr).
    void* low = mmap(reinterpret_cast<void*>(CALL_TABLE), kTableSize, PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    calls->enabled_ = low == reinterpret_cast<void*>(CALL_TABLE);
    if (low != MAP_FAILED) munmap(low, kTableSize);
  }
  FilePair file = TRY(make_memory_file_pair("caisson-calls", kFileSize));
  calls->read_only_ = std::move(file.read_only);
  if (!calls->enabled_) return calls;
  void* mapped = mmap(nullptr, kFileSize, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                      file.read_write.get(), 0);
  if (mapped == MAP_FAILED) return Errno(errno);
  calls->base_ = static_cast<std::byte*>(mapped);
  MutexLock lock(calls->mu_);
  calls->image_end_ = kFirstImage;
  calls->calls_ = std::make_unique<Call[]>(kMaxCalls);
  uint64_t minus_base = -stub_base;
  memcpy(calls->base_ + kTableSize, &minus_base, sizeof minus_base);
  return calls;
}

CallPatches::~CallPatches() {
  if (base_ != nullptr) munmap(base_, kFileSize);
}

Result<platform::PatchedImage> CallPatches::new_image(uint64_t length) {
  if (!enabled_) return Errno(ENOSYS);
  CHECK(length % kPageBytes == 0);
  MutexLock lock(mu_);
  if (images_ == IMAGE_COUNT || length > kFileSize - image_end_) return Errno(ENOSPC);
  platform::PatchedImage image{images_++, image_end_, {base_ + image_end_, length}};
  image_end_ += length;
  return image;
}

Result<std::array<std::byte, platform::kPatchSize>> CallPatches::new_call(
    const platform::PatchedImage& image, platform::CallShape shape, uint32_t value,
    uint64_t offset) {
  if (!enabled_) return Errno(ENOSYS);
  if (offset > INT32_MAX - 2 * platform::kPatchSize) return Errno(ENOTSUP);
  CHECK(image.id < IMAGE_COUNT);
  MutexLock lock(mu_);
  const bool compares = shape == platform::CallShape::kCompare;
  const platform::CallLayout layout = platform::layout_of(shape);
  if (next_ == kMaxCalls) return Errno(ENOSPC);
  uint32_t index = next_++;
  calls_[index] = {image.id, static_cast<uint32_t>(offset), value, shape};
  uint64_t codes = stub_base_ + STUB_CALLS;
  uint64_t address = codes + uint64_t{index} * STUB_CALL_SIZE;
  uint64_t file_address = stub_base_ + STUB_ORDERS + ORDERS_IMAGES + image.id * sizeof(uint64_t);

  std::byte* place = base_ + kTableSize + size_t{index} * STUB_CALL_SIZE;
  Assembler code(place, address);
  auto load_call = [&] {
    code.load_address(file_address, offset + layout.after);
    if (compares) return;  // the number is there
    code.bytes({0xb8});    // mov $number, %eax
    code.word(value);
  };
  auto go_and_compare = [&](uint64_t gate) {
    code.bytes({0x48, 0x8d, 0x0d});  // lea compare(%rip), %rcx
    code.relative(address + kCompare);
    code.bytes({0xe9});  // jmp gate
    code.relative(stub_base_ + gate);
  };
  // Does GS point into the stub region, as it does unless the guest has set it? The flags stay: rcx
  // becomes 0 if the upper half of GS - stub_base is 0.
  code.bytes({0xf3, 0x49, 0x0f, 0xae, 0xcb});  // rdgsbase %r11
  code.bytes({0x48, 0x8b, 0x0d});              // mov minus_base(%rip), %rcx
  code.relative(codes);
  code.bytes({0x4a, 0x8d, 0x0c, 0x19});        // lea (%rcx,%r11), %rcx
  code.bytes({0x41, 0x89, 0xcb});              // mov %ecx, %r11d
  code.bytes({0x49, 0xf7, 0xd3});              // not %r11
  code.bytes({0x4a, 0x8d, 0x4c, 0x19, 0x01});  // lea 1(%rcx,%r11), %rcx
  const int slow_size = compares ? 16 : 21;
  code.bytes({0xe3, slow_size});  // jrcxz
  size_t slow = code.size();
  load_call();
  code.bytes({0x0f, 0x0b});  // ud2: the kernel finds the call in the registers
  CHECK(code.size() - slow == static_cast<size_t>(slow_size));
  if (compares) {
    constexpr int kGoSize = 12;
    code.bytes({0x8d, 0x88});  // lea -SYS_futex(%rax), %ecx: the flags stay
    code.word(static_cast<uint32_t>(-SYS_futex));
    code.bytes({0xe3, kGoSize});  // jrcxz
    size_t go = code.size();
    go_and_compare(stub_header().gate);
    CHECK(code.size() - go == kGoSize);
    go_and_compare(stub_header().gate_futex);
  } else {
    load_call();
    code.bytes({0xe9});  // jmp gate
    code.relative(stub_base_ +
                  (value == SYS_futex ? stub_header().gate_futex : stub_header().gate));
  }
  CHECK(code.size() <= kCompare);
  if (compares) {
    Assembler rest(place + kCompare, address + kCompare);
    rest.load_address(file_address, offset + layout.end);
    rest.bytes({0x48, 0x3d});  // cmp $value, %rax
    rest.word(value);
    CHECK(rest.size() == kCompareDone - kCompare);
    rest.bytes({0xff, 0xe1});  // jmp *%rcx
  }
  memcpy(base_ + size_t{index} * sizeof address, &address, sizeof address);

  std::array<std::byte, platform::kPatchSize> patch{std::byte{0xff}, std::byte{0x24},
                                                    std::byte{0xe5}};  // jmp *table
  uint32_t entry = CALL_TABLE + index * 8;
  memcpy(patch.data() + 3, &entry, sizeof entry);
  return patch;
}

std::optional<CallPatches::Place> CallPatches::find(uint64_t address,
                                                    const Shared<uint64_t>* images) const {
  if (!enabled_ || !is_code(address)) return std::nullopt;
  uint64_t at = address - (stub_base_ + STUB_CALLS);
  const Call& call = calls_[at / STUB_CALL_SIZE];
  uint64_t file = images[call.image].load();
  if (file == 0) return std::nullopt;
  return Place{call, file + call.offset, at % STUB_CALL_SIZE};
}

uint64_t CallPatches::guest_address(uint64_t address, const Shared<uint64_t>* images) const {
  std::optional<Place> place = find(address, images);
  if (!place) return 0;
  if (place->within < kCompare) return place->site;
  platform::CallLayout layout = platform::layout_of(place->call.shape);
  return place->site + (place->within < kCompareDone ? layout.after : layout.end);
}

// If the step ended behind the jump for good, the jump would be made again after each handler.
CallPatches::Step CallPatches::finish_step(uint64_t address, const Shared<uint64_t>* images,
                                           Registers& regs) const {
  std::optional<Place> place = find(address, images);
  if (!place || place->within != 0) return Step::kNone;
  platform::CallLayout layout = platform::layout_of(place->call.shape);
  if (place->call.shape == platform::CallShape::kCompare) {
    regs.rip = place->site + layout.after;
    return Step::kCall;
  }
  regs.rax = place->call.value;
  regs.rip = place->site + layout.call;
  return Step::kDone;
}

}  // namespace caisson::systrap
