// MemoryWatch: keeps the sandbox to its memory limit where the host's file system does not.
//
// A memfd has no size limit, so a touch beyond ours is no fault. This thread looks at what is in
// use, the more often the nearer the limit is, and tells the memory killer once it is passed. What
// is touched between two looks comes on top. One per Kernel, and only where MemoryFile::limit() is
// not 0. No locks.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>

namespace caisson {

class Kernel;

class MemoryWatch {
 public:
  explicit MemoryWatch(Kernel& kernel) : kernel_(kernel) {}
  ~MemoryWatch() { stop(); }

  void start();
  void stop();

 private:
  void run();

  Kernel& kernel_;
  std::atomic<uint32_t> stopping_{0};  // a host futex
  std::thread thread_;
};

}  // namespace caisson
