// MemoryRange: whole pages of the memory file. RangeSet: a set of pages, as disjoint ranges.
//
// Values; whoever owns a RangeSet guards it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>

namespace caisson {

// Bytes [offset, offset + length) of the memory file, whole pages.
struct MemoryRange {
  uint64_t offset = 0;
  uint64_t length = 0;
  uint64_t end() const { return offset + length; }
  bool empty() const { return length == 0; }
  friend bool operator==(const MemoryRange&, const MemoryRange&) = default;
};

class RangeSet {
 public:
  bool empty() const { return ends_.empty(); }
  void clear() { ends_.clear(); }
  void add(MemoryRange range) {
    if (range.empty()) return;
    uint64_t start = range.offset;
    uint64_t end = range.end();
    auto it = ends_.upper_bound(start);
    if (it != ends_.begin() && std::prev(it)->second >= start) --it;
    while (it != ends_.end() && it->first <= end) {
      start = std::min(start, it->first);
      end = std::max(end, it->second);
      it = ends_.erase(it);
    }
    ends_.emplace_hint(it, start, end);
  }
  void remove(MemoryRange range) {
    for (auto it = first_ending_after(range.offset);
         it != ends_.end() && it->first < range.end();) {
      const auto [low, high] = *it;
      it = ends_.erase(it);
      if (low < range.offset) ends_.emplace(low, range.offset);
      if (high > range.end()) ends_.emplace(range.end(), high);
    }
  }
  // The first part of `range` that is in the set; empty if there is none.
  MemoryRange first(MemoryRange range) const {
    auto it = const_cast<RangeSet*>(this)->first_ending_after(range.offset);
    if (it == ends_.end() || it->first >= range.end()) return {};
    const uint64_t start = std::max(it->first, range.offset);
    return {start, std::min(it->second, range.end()) - start};
  }
  template <typename F>
  void for_each(F&& visit) const {
    for (const auto& [offset, end] : ends_) visit(MemoryRange{offset, end - offset});
  }

 private:
  std::map<uint64_t, uint64_t>::iterator first_ending_after(uint64_t offset) {
    auto it = ends_.upper_bound(offset);
    if (it != ends_.begin() && std::prev(it)->second > offset) --it;
    return it;
  }

  std::map<uint64_t, uint64_t> ends_;  // by offset
};

}  // namespace caisson
