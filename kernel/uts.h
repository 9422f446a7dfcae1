// UtsNames: host and domain name, uname(2). One per Kernel. Linux: struct uts_namespace.
#pragma once

#include <string>

#include "base/mutex.h"

namespace caisson {

class UtsNames {
 public:
  static constexpr const char* kSystem = "Linux";
  static constexpr const char* kRelease = "6.12.0-caisson";
  static constexpr const char* kVersion = "#1 SMP PREEMPT_DYNAMIC";
  static constexpr const char* kMachine = "x86_64";
  static constexpr size_t kMaxName = 64;

  explicit UtsNames(std::string host) : host_(std::move(host)) {}
  std::string host() const {
    MutexLock lock(mu_);
    return host_;
  }
  std::string domain() const {
    MutexLock lock(mu_);
    return domain_;
  }
  void set_host(std::string name) {
    MutexLock lock(mu_);
    host_ = std::move(name);
  }
  void set_domain(std::string name) {
    MutexLock lock(mu_);
    domain_ = std::move(name);
  }

 private:
  mutable Mutex<LockRank::kLeaf> mu_;
  std::string host_ GUARDED_BY(mu_);
  std::string domain_ GUARDED_BY(mu_) = "(none)";
};

}  // namespace caisson
