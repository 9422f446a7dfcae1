#include "platform/systrap/host_mappings.h"

namespace caisson::systrap {

void HostMappings::split(uint64_t at) {
  auto it = mappings_.upper_bound(at);
  if (it == mappings_.begin()) return;
  --it;
  if (it->first >= at || it->second.end <= at) return;
  Mapping right = it->second;
  right.offset += at - it->first;
  it->second.end = at;
  mappings_.emplace(at, right);
}

void HostMappings::unmap(uint64_t begin, uint64_t end) {
  split(begin);
  split(end);
  mappings_.erase(mappings_.lower_bound(begin), mappings_.lower_bound(end));
}

void HostMappings::map(uint64_t begin, uint64_t end, uint64_t origin, uint64_t offset, int prot) {
  unmap(begin, end);
  mappings_.emplace(begin, Mapping{end, origin, offset, prot});
  merge_around(begin, end);
}

void HostMappings::protect(uint64_t begin, uint64_t end, int prot) {
  split(begin);
  split(end);
  for (auto it = mappings_.lower_bound(begin); it != mappings_.end() && it->first < end; ++it)
    it->second.prot = prot;
  merge_around(begin, end);
}

void HostMappings::merge_around(uint64_t begin, uint64_t end) {
  auto it = mappings_.lower_bound(begin);
  if (it != mappings_.begin()) --it;
  while (it != mappings_.end() && it->first <= end) {
    auto next = std::next(it);
    if (next == mappings_.end()) break;
    const Mapping& a = it->second;
    const Mapping& b = next->second;
    if (a.end == next->first && a.origin == b.origin && a.prot == b.prot &&
        a.offset + (a.end - it->first) == b.offset) {
      it->second.end = b.end;
      mappings_.erase(next);
    } else {
      it = next;
    }
  }
}

}  // namespace caisson::systrap
