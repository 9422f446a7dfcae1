#include "psx/roster.h"

#include <sys/mman.h>
#include <sys/syscall.h>

#include "host/raw_syscall.h"

namespace caisson::psx::internal {

using host::raw_arg;
using host::raw_syscall;

namespace {

// Zeroed pages, or nullptr.
void* map_pages(size_t size) {
  auto mapped = raw_syscall(SYS_mmap, 0, static_cast<long>(size), PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return mapped.ok() ? reinterpret_cast<void*>(mapped.value()) : nullptr;
}

uint32_t hash(int32_t tid) { return static_cast<uint32_t>(tid) * 2654435761U; }

}  // namespace

uint32_t Roster::find(int32_t tid) const {
  if (index_ == nullptr) return kNone;
  const uint32_t mask = index_->capacity - 1;
  for (uint32_t at = hash(tid) & mask;; at = (at + 1) & mask) {
    if (index_->cell[at].tid == tid) return index_->cell[at].slot;
    if (index_->cell[at].tid == 0) return kNone;
  }
}

uint32_t Roster::add(int32_t tid) {
  const uint32_t slot = size_;
  if (slot >= kRecordsPerChunk * kChunks || !reserve(slot + 1)) return kNone;
  Record& record = *record_at(slot);
  record.word.store(record_word(0, Answer::kIdle), std::memory_order_relaxed);
  record.tid.store(tid, std::memory_order_relaxed);
  enter(tid, slot);
  size_ = slot + 1;
  return slot;
}

bool Roster::reserve(uint32_t count) {
  auto& chunk = chunks[(count - 1) / kRecordsPerChunk];
  if (chunk.load(std::memory_order_relaxed) == nullptr) {
    auto* records = static_cast<Record*>(map_pages(kRecordsPerChunk * sizeof(Record)));
    if (records == nullptr) return false;
    chunk.store(records, std::memory_order_release);
  }
  if (index_ != nullptr && count * 2 <= index_->capacity) return true;
  uint32_t capacity = 512;
  while (capacity < count * 4) capacity *= 2;
  auto size_of = [](uint32_t cells) { return sizeof(Index) + cells * sizeof(Index::cell[0]); };
  auto* bigger = static_cast<Index*>(map_pages(size_of(capacity)));
  if (bigger == nullptr) return false;
  Index* old = index_;
  bigger->capacity = capacity;
  std::atomic_signal_fence(std::memory_order_release);  // a fork may copy what is done so far
  index_ = bigger;
  for (uint32_t slot = 0; slot < size_; slot++) {
    enter(record_at(slot)->tid.load(std::memory_order_relaxed), slot);
  }
  if (old != nullptr) {
    raw_syscall(SYS_munmap, raw_arg(old), static_cast<long>(size_of(old->capacity))).ignore();
  }
  return true;
}

void Roster::enter(int32_t tid, uint32_t slot) {
  const uint32_t mask = index_->capacity - 1;
  uint32_t at = hash(tid) & mask;
  while (index_->cell[at].tid != 0) at = (at + 1) & mask;
  index_->cell[at].tid = tid;
  index_->cell[at].slot = slot;
}

void Roster::drop_missing() {
  uint32_t kept = 0;
  for (uint32_t slot = 0; slot < size_; slot++) {
    Record& record = *record_at(slot);
    const Answer answer = record.answer();
    if (answer == Answer::kGone || answer == Answer::kAbandoned || answer == Answer::kDead ||
        answer == Answer::kIdle) {
      continue;
    }
    if (kept != slot) {
      Record& place = *record_at(kept);
      place.tid.store(record.tid.load(std::memory_order_relaxed), std::memory_order_relaxed);
      const Answer lasting = answer == Answer::kKernelWorker ? answer : Answer::kIdle;
      place.word.store(record_word(0, lasting), std::memory_order_relaxed);
    }
    kept++;
  }
  if (kept == size_) return;
  size_ = kept;
  rebuild_index();
}

void Roster::rebuild_index() {
  for (uint32_t at = 0; at < index_->capacity; at++) index_->cell[at].tid = 0;
  for (uint32_t slot = 0; slot < size_; slot++) {
    enter(record_at(slot)->tid.load(std::memory_order_relaxed), slot);
  }
}

void Roster::clear() {
  size_ = 0;
  if (index_ != nullptr) rebuild_index();
}

}  // namespace caisson::psx::internal
