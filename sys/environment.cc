#include "caisson/sys/environment.h"

#include <unistd.h>

#include <unordered_map>

#include "base/mutex.h"

namespace caisson::sys {

EnvironmentSnapshot::EnvironmentSnapshot(std::vector<std::string> entries)
    : entries_(std::move(entries)) {
  pointers_.reserve(entries_.size() + 1);
  for (std::string& entry : entries_) pointers_.push_back(entry.data());
  pointers_.push_back(nullptr);
}

namespace {

// The one environment. Never destroyed: threads may outlive static destructors. An allocation that
// fails (std::bad_alloc) leaves it as it was, and unlocked.
class Environment {
 public:
  static Environment& get() {
    static Environment* const environment = new Environment;
    return *environment;
  }

  std::optional<std::string> find(std::string_view key) {
    MutexLock lock(mu_);
    const auto found = places_.find(std::string(key));
    if (found == places_.end()) return std::nullopt;
    return entries_[found->second]->substr(key.size() + 1);
  }

  void set(std::string_view key, std::string_view value) {
    std::string entry = std::string(key) + "=" + std::string(value);
    MutexLock lock(mu_);
    // The place first: what comes after the name is entered must not fail.
    if (entries_.size() == entries_.capacity()) entries_.reserve(2 * entries_.size() + 16);
    const auto [place, is_new] = places_.try_emplace(std::string(key), entries_.size());
    if (is_new) {
      entries_.emplace_back(std::move(entry));
    } else {
      entries_[place->second] = std::move(entry);
    }
    snapshot_ = nullptr;
  }

  void erase(std::string_view key) {
    MutexLock lock(mu_);
    const auto found = places_.find(std::string(key));
    if (found == places_.end()) return;
    entries_[found->second] = std::nullopt;
    places_.erase(found);
    snapshot_ = nullptr;
    if (++holes_ > 64 && holes_ > entries_.size() / 2) close_holes_locked();
  }

  void clear() {
    MutexLock lock(mu_);
    entries_.clear();
    places_.clear();
    holes_ = 0;
    snapshot_ = nullptr;
  }

  std::shared_ptr<const EnvironmentSnapshot> snapshot() {
    MutexLock lock(mu_);
    if (snapshot_ == nullptr) {
      std::vector<std::string> entries;
      for (const auto& entry : entries_)
        if (entry) entries.push_back(*entry);
      snapshot_ = std::make_shared<const EnvironmentSnapshot>(std::move(entries));
    }
    return snapshot_;
  }

 private:
  Environment() {
    MutexLock lock(mu_);
    if (::environ == nullptr) return;
    for (char** at = ::environ; *at != nullptr; ++at) {
      std::string entry(*at);
      const size_t equals = entry.find('=');
      // Of two settings of one name the first counts, as in getenv(3).
      if (equals != std::string::npos &&
          !places_.try_emplace(entry.substr(0, equals), entries_.size()).second)
        continue;
      entries_.emplace_back(std::move(entry));
    }
  }

  void close_holes_locked() REQUIRES(mu_) {
    std::vector<size_t> new_place(entries_.size());  // may fail; nothing is changed yet
    size_t kept = 0;
    for (size_t i = 0; i < entries_.size(); ++i)
      if (entries_[i]) new_place[i] = kept++;
    for (auto& [key, place] : places_) place = new_place[place];
    std::erase(entries_, std::nullopt);
    holes_ = 0;
  }

  Mutex<LockRank::kLeaf> mu_;
  std::vector<std::optional<std::string>> entries_ GUARDED_BY(mu_);  // nullopt: unset
  std::unordered_map<std::string, size_t> places_ GUARDED_BY(mu_);   // key -> index in entries_
  size_t holes_ GUARDED_BY(mu_) = 0;
  std::shared_ptr<const EnvironmentSnapshot> snapshot_ GUARDED_BY(mu_);  // null: to be made
};

bool holds(std::string_view text, char byte) { return text.find(byte) != std::string_view::npos; }

}  // namespace

std::optional<std::string> getenv(std::string_view key) {
  if (key.empty()) return std::nullopt;
  return Environment::get().find(key);
}

Result<void> setenv(std::string_view key, std::string_view value) {
  if (key.empty() || holds(key, '=') || holds(key, '\0') || holds(value, '\0'))
    return Errno(EINVAL);
  Environment::get().set(key, value);
  return {};
}

Result<void> unsetenv(std::string_view key) {
  if (key.empty()) return Errno(EINVAL);
  Environment::get().erase(key);
  return {};
}

void clearenv() { Environment::get().clear(); }

std::vector<std::string> environ() { return environment_snapshot()->entries(); }

std::shared_ptr<const EnvironmentSnapshot> environment_snapshot() {
  return Environment::get().snapshot();
}

}  // namespace caisson::sys
