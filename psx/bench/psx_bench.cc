// psx_bench: what a broadcast costs, against libcap's own libpsx and glibc's setresuid().
//
// All three run in one process, on the same threads, in turn, so that noise hits them alike; each
// sets the user IDs that the process has already. Idle threads sleep in a futex, busy ones spin.
// Printed are medians in microseconds, and ours divided by theirs (below 1: we are faster).
//   psx_bench [seconds per row, default 1]
#include <linux/futex.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "psx/psx.h"

#ifdef HAVE_PSX_OF_LIBCAP
extern "C" long psx_syscall3(long nr, long a1, long a2, long a3);
#endif

namespace {

enum class Kind { kIdle, kBusy };

std::atomic<int> stop{0};
std::atomic<int> ready{0};

void* idle(void*) {
  ready++;
  while (stop == 0) syscall(SYS_futex, &stop, FUTEX_WAIT_PRIVATE, 0, nullptr);
  return nullptr;
}

void* busy(void*) {
  ready++;
  while (stop.load(std::memory_order_relaxed) == 0) {
  }
  return nullptr;
}

double now_us() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
}

void require(bool good) {
  if (good) return;
  perror("psx_bench: a call failed");
  exit(1);
}

void ours() {
  const uid_t uid = getuid();
  require(caisson::psx::syscall3(SYS_setresuid, uid, uid, uid).ok());
}

void glibc() {
  const uid_t uid = getuid();
  require(setresuid(uid, uid, uid) == 0);
}

void libcap() {
#ifdef HAVE_PSX_OF_LIBCAP
  const uid_t uid = getuid();
  require(psx_syscall3(SYS_setresuid, uid, uid, uid) == 0);
#endif
}

double median(std::vector<double>& samples) {
  if (samples.empty()) return 0;
  std::sort(samples.begin(), samples.end());
  return samples[samples.size() / 2];
}

void row(int threads, Kind kind, double seconds) {
  stop = 0;
  ready = 0;
  std::vector<pthread_t> all(static_cast<size_t>(threads) - 1);
  pthread_attr_t small;
  pthread_attr_init(&small);
  pthread_attr_setstacksize(&small, 64 * 1024);
  for (auto& each : all) {
    require(pthread_create(&each, &small, kind == Kind::kIdle ? idle : busy, nullptr) == 0);
  }
  while (ready != threads - 1) usleep(1000);
  usleep(20000);
  void (*const ways[])() = {ours, libcap, glibc};
  std::vector<double> samples[3];
  const double end = now_us() + seconds * 1e6;
  for (int round = 0; now_us() < end || round < 3; round++) {
    const int batch = threads == 1 ? 100 : 1;
    for (int way = 0; way < 3; way++) {
      const double start = now_us();
      for (int i = 0; i < batch; i++) ways[way]();
      if (round > 0) samples[way].push_back((now_us() - start) / batch);
    }
  }
  stop = 1;
  syscall(SYS_futex, &stop, FUTEX_WAKE_PRIVATE, 1 << 30);
  for (auto& each : all) pthread_join(each, nullptr);
  const double us[3] = {median(samples[0]), median(samples[1]), median(samples[2])};
  printf("%7d  %-4s  %10.2f  %10.2f  %10.2f  %8.2f  %8.2f\n", threads,
         kind == Kind::kIdle ? "idle" : "busy", us[0], us[1], us[2], us[1] == 0 ? 0 : us[0] / us[1],
         us[0] / us[2]);
  fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? atof(argv[1]) : 1;
  printf("threads  kind    caisson     libcap      glibc   /libcap    /glibc   (us, median)\n");
  for (const int threads : {1, 2, 8, 64, 512}) {
    row(threads, Kind::kIdle, seconds);
    if (threads > 1) row(threads, Kind::kBusy, seconds);
  }
  return 0;
}
