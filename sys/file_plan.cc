#include "sys/file_plan.h"

namespace caisson::sys::internal {

std::vector<FileStep> plan_files(const std::vector<int>& files) {
  const int count = static_cast<int>(files.size());
  std::vector<FileStep> steps;
  steps.reserve(files.size() + 3);
  std::vector<int> uses(files.size(), 0);  // as a source of a copy that is still to be made
  const auto is_copy = [&](int place) { return files[place] >= 0 && files[place] != place; };
  for (int place = 0; place < count; ++place) {
    if (files[place] == place) steps.push_back({FileStep::kKeep, place, place});
    if (is_copy(place) && files[place] < count) ++uses[files[place]];
  }

  // Every copy onto a number that nobody needs any more; each may set another number free.
  std::vector<char> done(files.size(), 0);
  for (int start = 0; start < count; ++start) {
    for (int place = start; is_copy(place) && done[place] == 0 && uses[place] == 0;) {
      const int from = files[place];
      steps.push_back({FileStep::kCopy, from, place});
      done[place] = 1;
      if (from >= count || --uses[from] != 0) break;
      place = from;
    }
  }

  // What is left are cycles: each of their numbers is the source of exactly one other.
  for (int start = 0; start < count; ++start) {
    if (!is_copy(start) || done[start] != 0) continue;
    steps.push_back({FileStep::kSave, start, start});
    for (int place = start;; place = files[place]) {
      done[place] = 1;
      if (files[place] == start) {
        steps.push_back({FileStep::kCopySaved, start, place});
        break;
      }
      steps.push_back({FileStep::kCopy, files[place], place});
    }
  }

  for (int place = 0; place < count; ++place)
    if (files[place] < 0) steps.push_back({FileStep::kClose, -1, place});
  // The standard descriptors are seldom close-on-exec, so they go even if others are kept.
  for (int place = count; place < 3; ++place) steps.push_back({FileStep::kClose, -1, place});
  return steps;
}

}  // namespace caisson::sys::internal
