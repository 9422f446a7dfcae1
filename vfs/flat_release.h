// release_flat(): drops a reference without recursion. Guests can make directory trees a million
// levels deep, and chains of removed ones: destructors that drop the next level must not nest.
#pragma once

#include <utility>
#include <vector>

#include "base/ref.h"

namespace caisson {

template <typename T>
void release_flat(RefOrNull<T> object) {
  if (!object) return;
  static thread_local std::vector<RefOrNull<T>>* pending = nullptr;
  if (pending != nullptr) {  // called by a destructor that the loop below runs
    pending->push_back(std::move(object));
    return;
  }
  std::vector<RefOrNull<T>> list;
  pending = &list;
  list.push_back(std::move(object));
  while (!list.empty()) {
    RefOrNull<T> last = std::move(list.back());
    list.pop_back();
    last = nullptr;
  }
  pending = nullptr;
}

}  // namespace caisson
