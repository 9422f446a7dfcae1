// ThreadSource: which threads this process has, from /proc/self/task.
//
// One per process, used by the caller of a broadcast under its lock. It keeps two descriptors once
// opened (numbers from 200 up, close-on-exec): /proc itself, by which a forked child finds its own
// directory, and /proc/self/task. Both keep working after /proc is unmounted (MNT_DETACH). Programs
// close descriptors that they do not know, so each use checks that the number still means ours.
//
// Two ways to ask: count() is the number of threads in the group as the kernel keeps it (the link
// count of the directory; exact, also while threads come and go), sweep() lists them (it may miss
// some when others exit meanwhile, which is why the count decides).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace caisson::psx::internal {

class ThreadSource {
 public:
  // Makes sure that the directory of this process, number `pid`, is open. 0 or errno.
  int open(int32_t pid);
  // After fork: what is open is the parent's. Its number proves nothing, each PID namespace has
  // a 1.
  void forget() { pid_ = 0; }
  // Threads in the group, exited leaders included. 0 or errno.
  int count(int64_t* threads);
  // Whether it is known without a doubt that process `pid` has one thread only. Needs no lock: who
  // asks while another changes what is open is not alone, and what was read fits nothing then.
  bool counts_one(int32_t pid) const;
  // Calls each(tid, argument) for every thread listed, in this process's own numbers. 0 or errno.
  int sweep(void (*each)(int32_t tid, void* argument), void* argument);
  struct Thread {
    char state;             // of proc(5): 'R', 'S', 'Z', ...; 0: there is no such thread
    bool is_kernel_worker;  // io_uring's or vhost's: listed and counted, but it takes no signal
  };
  Thread look_at(int32_t tid);
  // The thread's name, or "?".
  void name(int32_t tid, char* buffer, size_t size);

 private:
  struct Descriptor {
    std::atomic<int> fd{-1};
    std::atomic<uint64_t> device{0};
    std::atomic<uint64_t> inode{0};
    bool adopt(int opened);  // moves it up and remembers what it is
    bool is_ours(int64_t* links) const;
    void close_if_ours();
  };

  int32_t own_number(int32_t listed);
  uint32_t kernel_worker_flags();
  long read_file(const Descriptor& place, const char* path, char* buffer, size_t size);
  long read_file_of(int32_t tid, const char* file, char* buffer, size_t size);

  Descriptor proc_;
  Descriptor task_;
  std::atomic<int32_t> pid_{0};  // whose task_ is; 0: not this process's
  bool translate_ = false;       // /proc shows another PID namespace's numbers
};

}  // namespace caisson::psx::internal
