// /proc/PID/maps, smaps and the sizes of status and statm. Linux: fs/proc/task_mmu.c.
#include <linux/mman.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>

#include "mm/memory_manager.h"

namespace caisson {

namespace {

constexpr uint64_t kVdsoSize = 2 * kPageSize;

// One line of maps; the name begins in column 74.
void append_line(std::string& text, const Vma& vma, const MappedFileInfo& info,
                 const std::string& name) {
  char line[160];
  int n = std::snprintf(
      line, sizeof(line), "%08" PRIx64 "-%08" PRIx64 " %c%c%c%c %08" PRIx64 " %02x:%02x %" PRIu64,
      vma.start, vma.end, (vma.prot & PROT_READ) != 0 ? 'r' : '-',
      (vma.prot & PROT_WRITE) != 0 ? 'w' : '-', (vma.prot & PROT_EXEC) != 0 ? 'x' : '-',
      vma.is_shared() ? 's' : 'p', vma.file ? vma.offset : 0, info.device_major, info.device_minor,
      info.inode);
  text.append(line, static_cast<size_t>(n));
  text.push_back(' ');
  if (!name.empty()) {
    if (n < 72) text.append(static_cast<size_t>(72 - n), ' ');
    for (char c : name) {
      if (c == '\n')
        text += "\\012";
      else
        text.push_back(c);
    }
  }
  text.push_back('\n');
}

void append_field(std::string& text, const char* name, uint64_t bytes) {
  char line[64];
  std::snprintf(line, sizeof(line), "%-16s%8" PRIu64 " kB\n", name, bytes / 1024);
  text += line;
}

}  // namespace

std::string MemoryManager::name_of_locked(const Vma& vma, const MappedFileInfo& info) const {
  if (vma.file) return info.path;
  if (vma.start < brk_end_ && vma.end > brk_start_) return "[heap]";
  if (vma.start <= program_.stack_start && vma.end >= program_.stack_start) return "[stack]";
  if (!vma.name.empty()) return "[anon:" + vma.name + "]";
  return {};
}

std::string MemoryManager::maps_text() const {
  std::string text;
  ReadLock lock(mappings_);
  text.reserve(vmas_.size() * 100);
  for (const auto& [start, vma] : vmas_) {
    MappedFileInfo info = vma.file ? vma.file->info() : MappedFileInfo{};
    append_line(text, vma, info, name_of_locked(vma, info));
  }
  append_vdso_locked(text);
  return text;
}

void MemoryManager::append_vdso_locked(std::string& text) const {
  Vma vdso;
  vdso.start = platform_.vdso_address();
  if (vdso.start == 0) return;
  vdso.end = vdso.start + kVdsoSize;
  vdso.prot = PROT_READ | PROT_EXEC;
  append_line(text, vdso, {}, "[vdso]");
}

ResidentBytes MemoryManager::resident_locked(GuestAddr start, GuestAddr end) const {
  ResidentBytes bytes;
  DataRuns runs(memory_);
  for (auto it = pmas_.first_ending_after(start); it != pmas_.end() && it->second.start < end;
       ++it) {
    const Pma& pma = it->second;
    GuestAddr low = std::max(start, pma.start);
    GuestAddr high = std::min(end, pma.end);
    if (!pma.in_memory_file()) {
      bytes.host_file += high - low;  // the host's page cache; taken as resident
      continue;
    }
    MemoryRange rest{pma.offset + (low - pma.start), high - low};
    while (!rest.empty()) {
      MemoryRange data = runs.next(rest);
      if (data.empty()) break;
      uint64_t touched = data.length;
      memory_.find_untouched(data, [&](MemoryRange part) { touched -= part.length; });
      (pma.kind == Pma::Kind::kPrivate ? bytes.own : bytes.shared) += touched;
      rest = {data.end(), rest.end() - data.end()};
    }
  }
  return bytes;
}

void MemoryManager::append_resident(std::string& text, const SmapsBytes& sums) {
  uint64_t resident = sums.own + sums.shared_clean + sums.shared_dirty;
  append_field(text, "Rss:", resident);
  append_field(text, "Pss:", resident);
  append_field(text, "Pss_Dirty:", sums.own);
  append_field(text, "Shared_Clean:", sums.shared_clean);
  append_field(text, "Shared_Dirty:", sums.shared_dirty);
  append_field(text, "Private_Clean:", 0);
  append_field(text, "Private_Dirty:", sums.own);
  append_field(text, "Referenced:", resident);
  append_field(text, "Anonymous:", sums.own);
  for (const char* none :
       {"KSM:", "LazyFree:", "AnonHugePages:", "ShmemPmdMapped:", "FilePmdMapped:",
        "Shared_Hugetlb:", "Private_Hugetlb:", "Swap:", "SwapPss:"})
    append_field(text, none, 0);
  append_field(text, "Locked:", sums.locked);
}

MemoryManager::SmapsBytes MemoryManager::resident_of(const Vma& vma, const ResidentBytes& bytes) {
  uint64_t others = bytes.shared + bytes.host_file;
  SmapsBytes sums;
  sums.own = bytes.own;
  (vma.is_shared() ? sums.shared_dirty : sums.shared_clean) = others;
  if (vma.has(kVmaLocked)) sums.locked = bytes.all();
  return sums;
}

std::string MemoryManager::smaps_text() const {
  std::string text;
  ReadLock lock(mappings_);
  for (const auto& [start, vma] : vmas_) {
    MappedFileInfo info = vma.file ? vma.file->info() : MappedFileInfo{};
    append_line(text, vma, info, name_of_locked(vma, info));
    ResidentBytes bytes = resident_locked(vma.start, vma.end);
    append_field(text, "Size:", vma.length());
    append_field(text, "KernelPageSize:", kPageSize);
    append_field(text, "MMUPageSize:", kPageSize);
    append_resident(text, resident_of(vma, bytes));
    text += "THPeligible:           0\nVmFlags:";
    const std::pair<bool, const char*> flags[] = {{(vma.prot & PROT_READ) != 0, " rd"},
                                                  {(vma.prot & PROT_WRITE) != 0, " wr"},
                                                  {(vma.prot & PROT_EXEC) != 0, " ex"},
                                                  {vma.is_shared(), " sh"},
                                                  {(vma.max_prot & PROT_READ) != 0, " mr"},
                                                  {(vma.max_prot & PROT_WRITE) != 0, " mw"},
                                                  {(vma.max_prot & PROT_EXEC) != 0, " me"},
                                                  {vma.has(kVmaGrowsDown), " gd"},
                                                  {vma.has(kVmaLocked), " lo"},
                                                  {vma.has(kVmaSequential), " sr"},
                                                  {vma.has(kVmaRandom), " rr"},
                                                  {vma.has(kVmaDontFork), " dc"},
                                                  {!vma.has(kVmaNoReserve), " ac"},
                                                  {vma.has(kVmaNoReserve), " nr"},
                                                  {vma.has(kVmaWipeOnFork), " wf"},
                                                  {vma.has(kVmaDontDump), " dd"},
                                                  {vma.has(kVmaHugePage), " hg"},
                                                  {vma.has(kVmaNoHugePage), " nh"},
                                                  {vma.has(kVmaMergeable), " mg"}};
    for (const auto& [present, name] : flags)
      if (present) text += name;
    text += " \n";
  }
  return text;
}

std::string MemoryManager::smaps_rollup_text() const {
  SmapsBytes sums;
  Vma all;
  {
    ReadLock lock(mappings_);
    if (vmas_.empty()) return "";
    all.start = vmas_.begin()->second.start;
    for (const auto& [start, vma] : vmas_) {
      all.end = vma.end;
      SmapsBytes one = resident_of(vma, resident_locked(vma.start, vma.end));
      sums.own += one.own;
      sums.shared_clean += one.shared_clean;
      sums.shared_dirty += one.shared_dirty;
      sums.locked += one.locked;
    }
  }
  std::string text;
  append_line(text, all, {}, "[rollup]");
  append_resident(text, sums);
  return text;
}

// Present or not, and whether of a file or shared. Page frame numbers are nobody's business.
void MemoryManager::read_pagemap(GuestAddr start, std::span<uint64_t> entries) {
  constexpr uint64_t kPresent = uint64_t{1} << 63;
  constexpr uint64_t kFileOrShared = uint64_t{1} << 61;
  std::vector<uint8_t> pages(entries.size());
  ReadLock lock(mappings_);
  residency_locked(start, pages);
  for (size_t i = 0; i < entries.size(); ++i) {
    entries[i] = 0;
    if (pages[i] == 0) continue;
    auto pma = pmas_.find(start + i * kPageSize);
    bool own = pma != pmas_.end() && pma->second.kind == Pma::Kind::kPrivate;
    entries[i] = kPresent | (own ? 0 : kFileOrShared);
  }
}

void MemoryManager::note_peak(uint64_t resident) const {
  uint64_t peak = peak_resident_.load(std::memory_order_relaxed);
  while (peak < resident && !peak_resident_.compare_exchange_weak(peak, resident)) {
  }
}

// Before `length` bytes of mappings or of their pages go. What is little against the whole is let
// pass: counting takes time in proportion to the whole.
void MemoryManager::note_peak_before_locked(uint64_t length) const {
  constexpr uint64_t kMuch = 1024 * 1024;
  uint64_t peak = peak_resident_.load(std::memory_order_relaxed);
  if (length >= std::max(kMuch, peak / 16)) note_peak(resident_locked(0, max_addr_).all());
}

MemoryUse MemoryManager::usage() const {
  ReadLock lock(mappings_);
  MemoryUse use = use_;
  use.text = page_up(program_.code_end) - page_down(program_.code_start);
  use.library = use.library > use.text ? use.library - use.text : 0;
  ResidentBytes bytes = resident_locked(0, max_addr_);
  use.resident = bytes.all();
  note_peak(use.resident);
  use.peak_resident = peak_resident_.load(std::memory_order_relaxed);
  use.guest_memory = bytes.own + bytes.shared;
  use.shared = bytes.shared + bytes.host_file;
  return use;
}

}  // namespace caisson
