// HostMappings: what the orders so far have mapped in one stub, merged as Linux merges; counts
// against the host's vm.max_map_count. Guarded by its StubProcess' lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>

namespace caisson::systrap {

class HostMappings {
 public:
  // `origin` identifies what is mapped: equal origins, protections and contiguous offsets merge.
  void map(uint64_t begin, uint64_t end, uint64_t origin, uint64_t offset, int prot);
  void unmap(uint64_t begin, uint64_t end);
  void protect(uint64_t begin, uint64_t end, int prot);
  void clear() { mappings_.clear(); }
  size_t count() const { return mappings_.size(); }

 private:
  struct Mapping {
    uint64_t end;
    uint64_t origin;
    uint64_t offset;
    int prot;
  };
  using Iterator = std::map<uint64_t, Mapping>::iterator;
  void split(uint64_t at);
  void merge_around(uint64_t begin, uint64_t end);

  std::map<uint64_t, Mapping> mappings_;
};

}  // namespace caisson::systrap
