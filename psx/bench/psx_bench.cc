// psx_bench: what a broadcast costs, against libcap's own libpsx and glibc's setresuid().
//
// All three run in one process, on the same threads, in short turns, so that noise hits them alike;
// each sets the user IDs that the process has already. Printed are medians in microseconds, and
// ours divided by theirs (below 1: we are faster). Kinds of rows:
//   idle   threads sleep in a futex; some calls one after another
//   woken  the same, but before each call all threads have run for a moment
//   busy   threads spin
//   trust  a lone thread after trust_libc(true); comes first, while libc has made no thread
// `limit` is what no broadcast can do without: the call once, and one signal to each other thread,
// with a handler that counts.
//   psx_bench [SECONDS [THREADS...]]    seconds per row, default 1; rows, default 1 2 8 64 512
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
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

enum class Kind { kIdle, kWoken, kBusy, kTrusted };
constexpr const char* kKindNames[] = {"idle", "woken", "busy", "trust"};

std::atomic<int> stop{0};
std::atomic<int> spin{0};  // busy threads may begin: all are made
std::atomic<int> ready{0};

std::vector<pid_t> others;  // the threads of the row but the first
std::atomic<int> uncounted{0};

void enter() { others[static_cast<size_t>(ready++)] = static_cast<pid_t>(syscall(SYS_gettid)); }

void* idle(void*) {
  enter();
  while (stop == 0) syscall(SYS_futex, &stop, FUTEX_WAIT_PRIVATE, 0, nullptr);
  return nullptr;
}

void* busy(void*) {
  enter();
  while (spin == 0) syscall(SYS_futex, &spin, FUTEX_WAIT_PRIVATE, 0, nullptr);
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

const uid_t uid = getuid();

void ours() { require(caisson::psx::syscall3(SYS_setresuid, uid, uid, uid).ok()); }

void glibc() { require(setresuid(uid, uid, uid) == 0); }

void libcap() {
#ifdef HAVE_PSX_OF_LIBCAP
  require(psx_syscall3(SYS_setresuid, uid, uid, uid) == 0);
#endif
}

void count_down(int) {
  if (--uncounted == 0) syscall(SYS_futex, &uncounted, FUTEX_WAKE_PRIVATE, 1);
}

void limit() {
  require(syscall(SYS_setresuid, uid, uid, uid) == 0);
  uncounted = static_cast<int>(others.size());
  for (const pid_t tid : others) require(syscall(SYS_tgkill, getpid(), tid, SIGUSR1) == 0);
  for (int left; (left = uncounted) != 0;) {
    syscall(SYS_futex, &uncounted, FUTEX_WAIT_PRIVATE, left, nullptr);
  }
}

// Every idle thread runs for a moment and sleeps again, so that the next call finds them where they
// went by themselves.
void wake_all() {
  syscall(SYS_futex, &stop, FUTEX_WAKE_PRIVATE, 1 << 30);
  usleep(static_cast<useconds_t>(500 + 10 * others.size()));
}

// Some calls one after another, as a program makes them that knows but one way. The first find
// the threads where another way has left them (on which processor, how warm), so they do not count.
void take_turn(void (*way)(), int batch, std::vector<double>& samples) {
  constexpr int kCalls = 12;
  constexpr int kUncounted = 4;
  constexpr double kLongUs = 100'000;
  const double turn = now_us();
  for (int call = 0; call < kCalls; call++) {
    const double start = now_us();
    for (int i = 0; i < batch; i++) way();
    const double end = now_us();
    const bool is_long = end - turn > kLongUs;
    if (call >= kUncounted || is_long) samples.push_back((end - start) / batch);
    if (is_long) return;
  }
}

double median(std::vector<double>& samples) {
  if (samples.empty()) return 0;
  std::sort(samples.begin(), samples.end());
  return samples[samples.size() / 2];
}

void row(int threads, Kind kind, double seconds) {
  stop = 0;
  spin = 0;
  ready = 0;
  others.assign(static_cast<size_t>(threads) - 1, 0);
  std::vector<pthread_t> all(static_cast<size_t>(threads) - 1);
  pthread_attr_t small;
  pthread_attr_init(&small);
  pthread_attr_setstacksize(&small, 64 * 1024);
  for (auto& each : all) {
    require(pthread_create(&each, &small, kind == Kind::kBusy ? busy : idle, nullptr) == 0);
  }
  while (ready != threads - 1) usleep(1000);
  spin = 1;
  syscall(SYS_futex, &spin, FUTEX_WAKE_PRIVATE, 1 << 30);
  usleep(20000);
  if (kind == Kind::kTrusted) require(caisson::psx::trust_libc(true) == 0);
  void (*const ways[])() = {ours, libcap, glibc, limit};
  std::vector<double> samples[4];
  const double end = now_us() + seconds * 1e6;
  for (int round = 0; now_us() < end || round == 0; round++) {
    for (int way = 0; way < 4; way++) {
      if (kind == Kind::kWoken) {
        wake_all();
        const double start = now_us();
        ways[way]();
        samples[way].push_back(now_us() - start);
      } else {
        take_turn(ways[way], threads == 1 ? 100 : 1, samples[way]);
      }
    }
  }
  require(caisson::psx::trust_libc(false) == 0);
  stop = 1;
  syscall(SYS_futex, &stop, FUTEX_WAKE_PRIVATE, 1 << 30);
  for (auto& each : all) pthread_join(each, nullptr);
  double us[4];
  for (int way = 0; way < 4; way++) us[way] = median(samples[way]);
  printf("%7d  %-5s  %10.2f  %10.2f  %10.2f  %10.2f  %8.2f  %8.2f  %8.2f\n", threads,
         kKindNames[static_cast<int>(kind)], us[0], us[1], us[2], us[3],
         us[1] == 0 ? 0 : us[0] / us[1], us[0] / us[2], us[0] / us[3]);
  fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? atof(argv[1]) : 1;
  struct sigaction action = {};
  action.sa_handler = count_down;
  action.sa_flags = SA_RESTART;
  sigaction(SIGUSR1, &action, nullptr);
  printf(
      "threads  kind      caisson      libcap       glibc       limit   /libcap    /glibc    /limit"
      "   (us, median)\n");
  std::vector<int> rows = {1, 2, 8, 64, 512};
  if (argc > 2) rows.clear();
  for (int i = 2; i < argc; i++) rows.push_back(std::max(1, atoi(argv[i])));
  for (const int threads : rows) {
    row(threads, Kind::kIdle, seconds);
    if (threads == 1) row(threads, Kind::kTrusted, seconds);
    if (threads == 1) continue;
    row(threads, Kind::kWoken, seconds);
    row(threads, Kind::kBusy, seconds);
  }
  return 0;
}
