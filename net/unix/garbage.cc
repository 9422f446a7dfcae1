#include "net/unix/garbage.h"

#include <algorithm>
#include <atomic>
#include <unordered_map>
#include <vector>

#include "net/files_in_flight.h"
#include "net/unix/unix_socket.h"

namespace caisson {
namespace {

constexpr size_t kFewest = 64;
std::atomic<size_t> due_at{kFewest};
std::atomic<bool> is_collecting{false};

struct Candidate {
  Ref<FileDescription> file;
  uint32_t elsewhere;  // times under way, but in no candidate's queue
  std::vector<const FileDescription*> in_queue;
  bool is_reachable = false;
};
using Candidates = std::unordered_map<const FileDescription*, Candidate>;

// Those whose every reference is under way.
Candidates find_candidates() {
  Candidates candidates;
  for (const auto& [file, times] : FilesInFlight::sockets()) {
    // The pointer is good only as long as it is under way: it may be closed since.
    RefOrNull<FileDescription> held = FilesInFlight::hold_if_in_flight(file);
    if (!held || held->ref_count() != times + 1) continue;
    candidates.emplace(file, Candidate{Ref<FileDescription>::from(std::move(held)), times, {}});
  }
  return candidates;
}

}  // namespace

void UnixGarbage::collect() {
  Candidates candidates = find_candidates();
  for (auto& [file, candidate] : candidates) {
    auto* socket = dynamic_cast<UnixSocket*>(candidate.file.get());
    if (socket != nullptr) candidate.in_queue = socket->endpoint().sockets_in_queue();
  }
  for (auto& [file, candidate] : candidates) {
    for (const FileDescription* inner : candidate.in_queue) {
      auto it = candidates.find(inner);
      if (it != candidates.end() && it->second.elsewhere != 0) --it->second.elsewhere;
    }
  }
  std::vector<Candidate*> reachable;
  for (auto& [file, candidate] : candidates) {
    if (candidate.elsewhere == 0) continue;
    candidate.is_reachable = true;
    reachable.push_back(&candidate);
  }
  while (!reachable.empty()) {
    Candidate* from = reachable.back();
    reachable.pop_back();
    for (const FileDescription* inner : from->in_queue) {
      auto it = candidates.find(inner);
      if (it == candidates.end() || it->second.is_reachable) continue;
      it->second.is_reachable = true;
      reachable.push_back(&it->second);
    }
  }
  for (auto& [file, candidate] : candidates) {
    if (candidate.is_reachable) continue;
    if (auto* socket = dynamic_cast<UnixSocket*>(candidate.file.get()))
      socket->endpoint().drop_queue();
  }
}

void UnixGarbage::collect_if_due() {
  const size_t count = FilesInFlight::socket_count();
  const size_t due = due_at.load();
  if (count < due) {
    // What was alive in great numbers has gone by itself.
    if (count < due / 4) due_at.store(std::max(kFewest, due / 2));
    return;
  }
  if (is_collecting.exchange(true)) return;
  collect();
  due_at.store(std::max(kFewest, FilesInFlight::socket_count() * 2));
  is_collecting.store(false);
}

}  // namespace caisson
