#include "mm/vma.h"

namespace caisson {

bool Vma::can_merge(const Vma& next) const {
  return end == next.start && prot == next.prot && max_prot == next.max_prot &&
         flags == next.flags && file == next.file && (!file || offset + length() == next.offset) &&
         name == next.name;
}

void trim_front(Vma& vma, GuestAddr addr) {
  vma.offset += addr - vma.start;
  vma.start = addr;
}

void trim_front(Pma& pma, GuestAddr addr) {
  pma.offset += addr - pma.start;
  if (pma.view != nullptr) pma.view += addr - pma.start;
  if (pma.spare != kNoSpare) pma.spare += addr - pma.start;
  pma.start = addr;
}

}  // namespace caisson
