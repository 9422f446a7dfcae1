// /proc/PID/maps, smaps and the sizes of status and statm. Linux: fs/proc/task_mmu.c.
#include <linux/mman.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>

#include "host/event_loop.h"
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

// Calls visit(pma, offset, bytes) for each run of resident memory in [start, end); `offset` is
// where it lies in the memory file or the host's.
template <typename F>
void MemoryManager::for_each_resident_locked(GuestAddr start, GuestAddr end, F&& visit) const {
  DataRuns runs(memory_);
  for (auto it = pmas_.first_ending_after(start); it != pmas_.end() && it->second.start < end;
       ++it) {
    const Pma& pma = it->second;
    GuestAddr low = std::max(start, pma.start);
    GuestAddr high = std::min(end, pma.end);
    MemoryRange rest{pma.offset + (low - pma.start), high - low};
    if (!pma.in_memory_file()) {
      visit(pma, rest.offset, rest.length);  // the host's page cache; taken as resident
      continue;
    }
    while (!rest.empty()) {
      MemoryRange data = runs.next(rest);
      if (data.empty()) break;
      uint64_t at = data.offset;
      auto visit_up_to = [&](uint64_t stop) {
        if (stop > at) visit(pma, at, stop - at);
      };
      memory_.find_untouched(data, [&](MemoryRange part) {
        visit_up_to(part.offset);
        at = part.end();
      });
      visit_up_to(data.end());
      rest = {data.end(), rest.end() - data.end()};
    }
  }
}

ResidentBytes MemoryManager::resident_locked(GuestAddr start, GuestAddr end) const {
  ResidentBytes bytes;
  for_each_resident_locked(start, end, [&](const Pma& pma, uint64_t, uint64_t length) {
    switch (pma.kind) {
      case Pma::Kind::kPrivate:
        bytes.own += length;
        break;
      case Pma::Kind::kShared:
        bytes.shared += length;
        break;
      case Pma::Kind::kHostFile:
        bytes.host_file += length;
        break;
    }
  });
  return bytes;
}

// What smaps shows of one mapping or of all. Of Linux's "proportional" sizes the fraction is kept.
struct MemoryManager::SmapsBytes {
  uint64_t shared_clean = 0, shared_dirty = 0, private_clean = 0, private_dirty = 0;
  uint64_t anonymous = 0;
  uint64_t pss = 0, pss_dirty = 0, pss_locked = 0;  // shifted

  static constexpr int kShift = 12;
  void add(uint64_t length, uint64_t sharers, bool dirty, bool locked) {
    bool shared = sharers > 1;
    (shared ? (dirty ? shared_dirty : shared_clean) : (dirty ? private_dirty : private_clean)) +=
        length;
    uint64_t part = (length << kShift) / std::max<uint64_t>(sharers, 1);
    pss += part;
    if (dirty) pss_dirty += part;
    if (locked) pss_locked += part;
  }
};

void MemoryManager::append_resident(std::string& text, const SmapsBytes& sums) {
  uint64_t resident =
      sums.shared_clean + sums.shared_dirty + sums.private_clean + sums.private_dirty;
  append_field(text, "Rss:", resident);
  append_field(text, "Pss:", sums.pss >> SmapsBytes::kShift);
  append_field(text, "Pss_Dirty:", sums.pss_dirty >> SmapsBytes::kShift);
  append_field(text, "Shared_Clean:", sums.shared_clean);
  append_field(text, "Shared_Dirty:", sums.shared_dirty);
  append_field(text, "Private_Clean:", sums.private_clean);
  append_field(text, "Private_Dirty:", sums.private_dirty);
  append_field(text, "Referenced:", resident);
  append_field(text, "Anonymous:", sums.anonymous);
  for (const char* none :
       {"KSM:", "LazyFree:", "AnonHugePages:", "ShmemPmdMapped:", "FilePmdMapped:",
        "Shared_Hugetlb:", "Private_Hugetlb:", "Swap:", "SwapPss:"})
    append_field(text, none, 0);
  append_field(text, "Locked:", sums.pss_locked >> SmapsBytes::kShift);
}

MemoryManager::FileUse MemoryManager::host_file_use_locked() const {
  FileUse use;
  for (const auto& [start, vma] : vmas_)
    if (vma.file && vma.file->mapping_count() != 0) ++use[vma.file.ref().get()];
  return use;
}

// Memory of ours is shared by those that hold references, of which a file has one itself. Of a host
// file it is known how often it is mapped: others are taken to map it as often as this one.
void MemoryManager::add_resident_locked(const Vma& vma, const FileUse& files,
                                        SmapsBytes& sums) const {
  const bool locked = vma.has(kVmaLocked);
  for_each_resident_locked(
      vma.start, vma.end, [&](const Pma& pma, uint64_t offset, uint64_t length) {
        if (pma.kind == Pma::Kind::kHostFile) {
          auto own = files.find(vma.file.ref().get());
          uint64_t mine = own == files.end() ? 1 : own->second;
          sums.add(length, (vma.file->mapping_count() + mine / 2) / mine, false, locked);
          return;
        }
        bool own = pma.kind == Pma::Kind::kPrivate;
        if (own) sums.anonymous += length;
        for (uint64_t end = offset + length; offset < end;) {
          MemoryFile::References holders = memory_.references_at(offset);
          uint64_t stop = std::min(end, holders.end);
          sums.add(stop - offset, holders.count - (own ? 0 : 1), true, locked);
          offset = stop;
        }
      });
}

std::string MemoryManager::smaps_text() const {
  std::string text;
  ReadLock lock(mappings_);
  const FileUse files = host_file_use_locked();
  for (const auto& [start, vma] : vmas_) {
    MappedFileInfo info = vma.file ? vma.file->info() : MappedFileInfo{};
    append_line(text, vma, info, name_of_locked(vma, info));
    SmapsBytes sums;
    add_resident_locked(vma, files, sums);
    append_field(text, "Size:", vma.length());
    append_field(text, "KernelPageSize:", kPageSize);
    append_field(text, "MMUPageSize:", kPageSize);
    append_resident(text, sums);
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
    const FileUse files = host_file_use_locked();
    for (const auto& [start, vma] : vmas_) {
      all.end = vma.end;
      add_resident_locked(vma, files, sums);
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

uint64_t MemoryManager::peak_resident(uint64_t max_age_ns) const {
  const uint64_t now = host::monotonic_ns();
  if (now - resident_counted_ns_.load(std::memory_order_relaxed) >= max_age_ns) {
    ReadLock lock(mappings_);
    note_peak(resident_locked(0, max_addr_).all());
    resident_counted_ns_.store(now, std::memory_order_relaxed);
  }
  return peak_resident_.load(std::memory_order_relaxed);
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
