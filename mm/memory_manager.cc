#include "mm/memory_manager.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "mm/safe_copy.h"

namespace caisson {

namespace {

// Memory that no stub can reach any more goes back to the allocator.
class ReleaseMemory final : public platform::Deferred {
 public:
  ReleaseMemory(MemoryFile& memory, std::vector<MemoryRange> ranges)
      : memory_(memory), ranges_(std::move(ranges)) {}
  void run() override { memory_.release(ranges_); }

 private:
  MemoryFile& memory_;
  std::vector<MemoryRange> ranges_;
};

// The host's vm.max_map_count, less what the stub itself maps and what one change may add.
size_t host_mapping_limit() {
  static const size_t limit = [] {
    size_t value = 65530;
    if (FILE* file = std::fopen("/proc/sys/vm/max_map_count", "re")) {
      unsigned long read = 0;
      if (std::fscanf(file, "%lu", &read) == 1) value = read;
      std::fclose(file);
    }
    return value > 1024 ? value - 256 : value / 2;
  }();
  return limit;
}

}  // namespace

MemoryManager::Garbage::~Garbage() {
  if (ranges.empty()) return;
  mm.space_->defer(std::make_unique<ReleaseMemory>(mm.memory_, std::move(ranges)));
}

void MemoryManager::prepare_process() {
  install_fault_guards();
  (void)host_mapping_limit();
}

Result<Ref<MemoryManager>> MemoryManager::create(platform::Platform& platform, MemoryFile& memory,
                                                 const MemoryLimits& limits, uint64_t trust_domain,
                                                 bool randomize) {
  prepare_process();
  Ref<platform::AddressSpace> space = TRY(platform.new_address_space(trust_domain));
  Ref<MemoryManager> mm =
      adopt_ref(new MemoryManager(platform, memory, std::move(space), trust_domain));
  mm->set_limits(limits);
  mm->choose_layout(randomize);
  return mm;
}

MemoryManager::MemoryManager(platform::Platform& platform, MemoryFile& memory,
                             Ref<platform::AddressSpace> space, uint64_t trust_domain)
    : platform_(platform),
      memory_(memory),
      space_(std::move(space)),
      trust_domain_(trust_domain),
      min_addr_(platform.min_user_address()),
      max_addr_(platform.max_user_address()) {}

MemoryManager::~MemoryManager() {
  Garbage garbage(*this);
  WriteLock lock(mappings_);
  for (auto& [start, pma] : pmas_) {
    if (pma.in_memory_file()) garbage.ranges.push_back(pma.range());
    give_back_spare_locked(pma);
  }
  evict_parked_locked(0, max_addr_, garbage.ranges);
  if (!garbage.ranges.empty() || !pmas_.empty()) space_->unmap(min_addr_, max_addr_ - min_addr_);
  for (auto& [start, vma] : vmas_)
    if (vma.file) garbage.files.push_back(vma.file.release());
  // No stub ever saw these.
  memory_.unreserve(carve_);
  memory_.unreserve(heap_carve_);
}

void MemoryManager::set_limits(const MemoryLimits& limits) {
  WriteLock lock(mappings_);
  limits_ = limits;
}

void MemoryManager::set_fork_copy_limit(uint64_t bytes) {
  WriteLock lock(mappings_);
  fork_copy_limit_ = bytes;
}

void MemoryManager::set_program(ProgramLayout layout) {
  WriteLock lock(mappings_);
  program_ = std::move(layout);
}

ProgramLayout MemoryManager::program() const {
  ReadLock lock(mappings_);
  return program_;
}

bool MemoryManager::is_mapped(GuestAddr addr) const {
  ReadLock lock(mappings_);
  return vmas_.find(addr) != vmas_.end();
}

uint64_t MemoryManager::readable_length(GuestAddr addr, uint64_t length) const {
  ReadLock lock(mappings_);
  uint64_t readable = 0;
  for (auto it = vmas_.find(addr); it != vmas_.end() && readable < length; ++it) {
    if (it->second.start > addr + readable || (it->second.prot & kProtRead) == 0) break;
    readable = it->second.end - addr;
  }
  return std::min(readable, length);
}

bool MemoryManager::near_mapping_limit() const {
  return std::max(space_->mapping_count(), vmas_.size()) >= host_mapping_limit();
}

void MemoryManager::account_locked(const Vma& vma, bool add) {
  auto change = [add](uint64_t& counter, uint64_t bytes) {
    counter = add ? counter + bytes : counter - bytes;
  };
  uint64_t bytes = vma.length();
  change(use_.total, bytes);
  if (vma.is_data()) change(use_.data, bytes);
  if (vma.has(kVmaGrowsDown)) change(use_.stack, bytes);
  if ((vma.prot & (kProtExec | kProtWrite)) == kProtExec && !vma.has(kVmaGrowsDown))
    change(use_.library, bytes);  // executable in all; usage() takes the program's text off
  if (vma.has(kVmaLocked)) change(use_.locked, bytes);
  use_.peak_total = std::max(use_.peak_total, use_.total);
}

VmaSet::iterator MemoryManager::merge_vma_locked(VmaSet::iterator it) {
  auto next = std::next(it);
  if (next != vmas_.end() && it->second.can_merge(next->second)) {
    it->second.end = next->second.end;
    vmas_.erase(next);
  }
  if (it != vmas_.begin()) {
    auto previous = std::prev(it);
    if (previous->second.can_merge(it->second)) {
      previous->second.end = it->second.end;
      vmas_.erase(it);
      return previous;
    }
  }
  return it;
}

void MemoryManager::merge_vmas_locked(GuestAddr start, GuestAddr end) {
  auto it = vmas_.first_ending_after(start);
  if (it != vmas_.begin()) --it;
  while (it != vmas_.end() && it->second.start <= end) {
    auto next = std::next(it);
    if (next == vmas_.end()) break;
    if (it->second.can_merge(next->second)) {
      it->second.end = next->second.end;
      vmas_.erase(next);
    } else {
      it = next;
    }
  }
}

VmaSet::iterator MemoryManager::insert_vma_locked(Vma vma) {
  ++generation_;
  account_locked(vma, true);
  return merge_vma_locked(vmas_.insert(std::move(vma)));
}

// Removes every mapping in the range; the stub's too.
void MemoryManager::remove_locked(GuestAddr start, GuestAddr end, Garbage& garbage) {
  auto it = vmas_.first_ending_after(start);
  if (it == vmas_.end() || it->second.start >= end) return;
  note_peak_before_locked(end - start);
  vmas_.split(start);
  pmas_.split(start);
  vmas_.split(end);
  pmas_.split(end);
  drop_pmas_locked(start, end, garbage, Unmap::kPark);
  for (it = vmas_.first_ending_after(start); it != vmas_.end() && it->second.start < end;) {
    account_locked(it->second, false);
    if (it->second.file) garbage.files.push_back(it->second.file.release());
    it = vmas_.erase(it);
  }
  ++generation_;
  note_gap_locked(it == vmas_.begin() ? min_addr_ : std::prev(it)->second.end,
                  it == vmas_.end() ? max_addr_ : it->second.start);
}

// [start, end) are pma boundaries; the stub unmaps them in one order.
void MemoryManager::drop_pmas_locked(GuestAddr start, GuestAddr end, Garbage& garbage,
                                     Unmap unmap) {
  if (unmap == Unmap::kPark && park_locked(start, end)) return;
  GuestAddr low = 0;
  GuestAddr high = 0;
  for (auto it = pmas_.first_ending_after(start); it != pmas_.end() && it->second.start < end;) {
    Pma& pma = it->second;
    if (high == 0) low = pma.start;
    high = pma.end;
    if (pma.in_memory_file()) garbage.ranges.push_back(pma.range());
    give_back_spare_locked(pma);
    it = pmas_.erase(it);
  }
  if (unmap == Unmap::kNoOrder || high == 0) return;
  evict_parked_locked(low, high, garbage.ranges);
  space_->unmap(low, high - low);
}

// Inserts without an order. Joins neighbours that the same vma holds.
PmaSet::iterator MemoryManager::insert_pma_locked(const Pma& pma) {
  ++generation_;
  auto joins = [](const Pma& low, const Pma& high) {
    return low.end == high.start && low.kind == high.kind && low.prot == high.prot &&
           low.read_only == high.read_only && low.is_patched == high.is_patched &&
           low.is_broken == high.is_broken && low.shared_by == high.shared_by &&
           low.offset + low.length() == high.offset &&
           (low.spare == kNoSpare ? high.spare == kNoSpare
                                  : low.spare + low.length() == high.spare);
  };
  auto it = pmas_.insert(pma);
  auto vma = vmas_.find(pma.start);
  auto next = std::next(it);
  if (next != pmas_.end() && joins(it->second, next->second) &&
      (vma == vmas_.end() || vma->second.end > next->second.start)) {
    it->second.end = next->second.end;
    it->second.view = nullptr;
    pmas_.erase(next);
  }
  if (it == pmas_.begin()) return it;
  auto previous = std::prev(it);
  if (!joins(previous->second, it->second) ||
      (vma != vmas_.end() && vma->second.start >= it->second.start))
    return it;
  previous->second.end = it->second.end;
  previous->second.view = nullptr;
  pmas_.erase(it);
  return previous;
}

// As Linux does where huge pages are on for all: large private memory, whose alignment allows it.
bool MemoryManager::wants_huge_locked(const Vma& vma, const Pma& pma) const {
  if (pma.kind != Pma::Kind::kPrivate || pma.is_cow() || (pma.prot & kProtWrite) == 0) return false;
  if ((pma.start - pma.offset) % kHugePageSize != 0) return false;
  if (vma.has(kVmaNoHugePage | kVmaNoReserve | kVmaGrowsDown)) return false;
  if (pma.length() < (vma.has(kVmaHugePage) ? kHugePageSize : 2 * kHugePageSize)) return false;
  return memory_.has_room_for_huge(pma.length());
}

// What may be mapped for `pma` instead of its file. Claims the place in this address space.
const PatchedText* MemoryManager::claim_text_locked(const Vma& vma, const Pma& pma) const {
  if (pma.kind != Pma::Kind::kHostFile || vma.is_shared() || (pma.prot & kProtExec) == 0 ||
      (vma.prot & kProtWrite) != 0)
    return nullptr;
  const PatchedText* text = vma.file->patched_text();
  if (text == nullptr || !text->covers(pma.offset, pma.length()) ||
      !space_->claim_image(text->image.id, pma.start - pma.offset))
    return nullptr;
  return text;
}

std::optional<MemoryManager::HostText> MemoryManager::host_text_at(GuestAddr addr) const {
  ReadLock lock(mappings_);
  auto vma = vmas_.find(addr);
  auto pma = pmas_.find(addr);
  if (vma == vmas_.end() || pma == pmas_.end() || pma->second.kind != Pma::Kind::kHostFile ||
      vma->second.is_shared())
    return std::nullopt;
  return HostText{Ref<Mappable>::from(vma->second.file.ref()), vma->second.file_offset(addr),
                  pma->second.is_patched};
}

void MemoryManager::map_text_again(const Mappable& file, GuestAddr addr) {
  {
    // Asked often where the answer stays no: the file is somewhere else too, for one.
    ReadLock lock(mappings_);
    auto vma = vmas_.find(addr);
    auto pma = pmas_.find(addr);
    if (vma == vmas_.end() || pma == pmas_.end() || vma->second.file.ref().get() != &file ||
        claim_text_locked(vma->second, pma->second) == nullptr)
      return;
  }
  WriteLock lock(mappings_);
  for (auto& [start, vma] : vmas_) {
    if (vma.file.ref().get() != &file || vma.is_shared() || (vma.prot & kProtExec) == 0) continue;
    vma.flags |= kVmaPatchable;
    for (auto it = pmas_.first_ending_after(vma.start);
         it != pmas_.end() && it->second.start < vma.end; ++it) {
      Pma& pma = it->second;
      if (pma.is_patched || claim_text_locked(vma, pma) == nullptr) continue;
      post_map_locked(vma, pma);
    }
  }
}

MemoryManager::PatchedPlace MemoryManager::patched_place(GuestAddr addr) const {
  ReadLock lock(mappings_);
  auto vma = vmas_.find(addr);
  auto pma = pmas_.find(addr);
  // What is mapped now, whatever would be mapped anew: writable text keeps its patches until it is
  // written.
  if (vma == vmas_.end() || pma == pmas_.end() || !pma->second.is_patched) return {};
  const PatchedText* text = vma->second.file->patched_text();
  uint64_t offset = vma->second.file_offset(addr);
  auto call = std::upper_bound(text->calls.begin(), text->calls.end(), offset,
                               [](uint64_t at, const PatchedCall& c) { return at < c.offset; });
  if (call == text->calls.begin()) return {};
  --call;
  uint64_t within = offset - call->offset;
  GuestAddr start = addr - within;
  platform::CallLayout layout = platform::layout_of(call->shape);
  if (call->shape == platform::CallShape::kMov) {
    if (within == layout.call) return {PatchedPlace::Kind::kCall, start + layout.after};
  } else if (call->shape == platform::CallShape::kCompare) {
    if (within == layout.after)
      return {PatchedPlace::Kind::kCompare, start + layout.end, call->compared};
  }
  return {};
}

void MemoryManager::post_map_locked(const Vma& vma, Pma& pma, Wait wait, bool is_repeated) {
  platform::MapOrder order;
  order.is_awaited = wait == Wait::kNow;
  order.is_repeated = is_repeated;
  order.addr = pma.start;
  order.length = pma.length();
  order.prot = pma.prot;
  order.offset = pma.offset;
  RefOrNull<platform::MappableFile> file;
  switch (pma.kind) {
    case Pma::Kind::kPrivate:
    case Pma::Kind::kShared:
      order.backing =
          pma.read_only ? platform::Backing::kMemoryReadOnly : platform::Backing::kMemory;
      break;
    case Pma::Kind::kHostFile: {
      const PatchedText* text = vma.has(kVmaPatchable) && (pma.is_patched || !is_repeated)
                                    ? claim_text_locked(vma, pma)
                                    : nullptr;
      pma.is_patched = text != nullptr;
      if (text != nullptr) {
        order.backing = platform::Backing::kPatched;
        order.offset = text->image.offset + (pma.offset - text->offset);
        break;
      }
      Result<Ref<platform::MappableFile>> host = vma.file->host_file();
      if (!host.ok()) {
        // Registered when the pma was made; only a dying stub loses it. The guest will fault.
        space_->unmap(pma.start, pma.length());
        return;
      }
      file = std::move(host).value().or_null();
      order.backing = platform::Backing::kFile;
      order.file = file.get();
      break;
    }
  }
  order.huge = wants_huge_locked(vma, pma);
  order.populate = vma.has(kVmaLocked) && !vma.has(kVmaLockOnFault) && pma.prot != 0;
  std::vector<MemoryRange> released;
  evict_parked_locked(pma.start, pma.end, released);
  space_->map(order);
  if (!released.empty())
    space_->defer(std::make_unique<ReleaseMemory>(memory_, std::move(released)));
}

bool MemoryManager::fits_limits_locked(uint64_t added, bool is_data) const {
  if (added > limits_.address_space || use_.total > limits_.address_space - added) return false;
  if (is_data && (added > limits_.data || use_.data > limits_.data - added)) return false;
  return true;
}

uint64_t MemoryManager::locked_bytes_locked(GuestAddr start, GuestAddr end) const {
  uint64_t bytes = 0;
  for (auto it = vmas_.first_ending_after(start); it != vmas_.end() && it->second.start < end; ++it)
    if (it->second.has(kVmaLocked))
      bytes += std::min(end, it->second.end) - std::max(start, it->second.start);
  return bytes;
}

}  // namespace caisson
