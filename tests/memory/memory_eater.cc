// What memory_limit.py runs: a parent that knows what its children should come to, and children
// that use memory in different ways. Prints one word a child: "ended N" or "killed N".
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr size_t kMiB = 1 << 20;

char* reserve(size_t bytes) {
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return at == MAP_FAILED ? nullptr : static_cast<char*>(at);
}

void touch(size_t bytes) {
  char* at = reserve(bytes);
  if (at == nullptr) _exit(10);
  for (size_t i = 0; i < bytes; i += 4096) at[i] = 1;
}

void fill_by_read(size_t bytes) {
  char* at = reserve(bytes);
  int zero = open("/dev/zero", O_RDONLY);
  for (size_t done = 0; done < bytes;) {
    ssize_t got = read(zero, at + done, std::min(bytes - done, kMiB));
    if (got <= 0) _exit(11);  // the limit is no error of the call
    done += static_cast<size_t>(got);
  }
}

volatile int handled = 0;

// Signal frames, each on a stack that nothing has touched yet, until `enough` says so.
template <typename F>
void fill_by_signal_frames(size_t bytes, F enough) {
  constexpr size_t kStack = 16 * 1024;  // more than a frame and its handler
  char* at = reserve(bytes);
  struct sigaction action {};
  action.sa_handler = [](int) { handled = handled + 1; };
  action.sa_flags = SA_ONSTACK;
  sigaction(SIGUSR1, &action, nullptr);
  for (int sent = 0; !enough(); at += kStack) {
    const stack_t stack{at, 0, kStack};
    if (sigaltstack(&stack, nullptr) != 0 || raise(SIGUSR1) != 0) _exit(16);
    if (handled != ++sent) _exit(17);
  }
}

// Calls that have taken something before they write it, each to a page that nothing has touched.
template <typename F>
void fill_by_signal_information(size_t bytes, F enough) {
  char* at = reserve(bytes);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  const timespec patience{2, 0};
  for (; !enough(); at += 4096) {
    if (raise(SIGUSR1) != 0) _exit(18);
    if (sigtimedwait(&set, reinterpret_cast<siginfo_t*>(at), &patience) != SIGUSR1) _exit(19);
  }
}

void set_adjustment(int value) {
  FILE* file = fopen("/proc/self/oom_score_adj", "w");
  if (file == nullptr || fprintf(file, "%d", value) < 0 || fclose(file) != 0) _exit(12);
}

// Small, but the one that is to be chosen.
void be_favourite() {
  set_adjustment(900);
  touch(20 * kMiB);
  pause();
}

template <typename F>
pid_t start(F body) {
  pid_t pid = fork();
  if (pid == 0) {
    body();
    _exit(0);
  }
  return pid;
}

void report(const char* name, pid_t pid) {
  int status = 0;
  waitpid(pid, &status, 0);
  if (WIFSIGNALED(status))
    printf("%s killed %d\n", name, WTERMSIG(status));
  else
    printf("%s ended %d\n", name, WEXITSTATUS(status));
}

constexpr size_t kTooMuch = 1024 * kMiB;

// A neighbour that holds memory and goes on computing until it is told to stop.
struct Neighbour {
  int stop[2];
  pid_t pid;
  explicit Neighbour(size_t bytes) {
    if (pipe(stop) != 0) _exit(13);
    pid = start([&] {
      close(stop[1]);
      char* at = reserve(bytes);
      for (size_t i = 0; i < bytes; i += 4096) at[i] = static_cast<char>(i >> 12);
      char byte;
      while (read(stop[0], &byte, 1) > 0) {
      }
      for (size_t i = 0; i < bytes; i += 4096)
        if (at[i] != static_cast<char>(i >> 12)) _exit(14);
    });
    close(stop[0]);
  }
  // The second has a copy of the first one's end, so both are told before one is waited for.
  void tell() { close(stop[1]); }
  void finish() { report("neighbour", pid); }
};

}  // namespace

int main(int argc, char** argv) {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  std::string mode = argc > 1 ? argv[1] : "";
  if (mode == "alone") {
    touch(kTooMuch);
    return 0;
  }
  Neighbour first(8 * kMiB), second(8 * kMiB);
  if (mode == "touch") {
    report("eater", start([] { touch(kTooMuch); }));
  } else if (mode == "read") {
    report("eater", start([] { fill_by_read(kTooMuch); }));
  } else if (mode == "threads") {
    report("eater", start([] {
             std::vector<std::thread> all;
             for (int i = 0; i < 4; ++i) all.emplace_back([] { touch(kTooMuch / 4); });
             for (std::thread& each : all) each.join();
           }));
  } else if (mode == "protected") {
    // The larger process is not to be chosen, a smaller one is.
    int ready[2], gone[2];
    char byte;
    if (pipe(ready) != 0 || pipe(gone) != 0) return 1;
    pid_t favourite = start([] { be_favourite(); });
    pid_t big = start([&] {
      set_adjustment(-1000);
      close(gone[1]);
      touch(40 * kMiB);
      if (write(ready[1], "", 1) != 1) _exit(1);
      touch(30 * kMiB);
      // Where touches are counted afterwards the other one may end a moment later.
      pollfd end{gone[0], POLLIN, 0};
      if (poll(&end, 1, 5000) != 1) _exit(20);
    });
    close(gone[1]);
    if (read(ready[0], &byte, 1) != 1) return 1;
    report("favourite", favourite);
    report("big", big);
  } else if (mode == "fork") {
    // What parent and child share fits; the child's own copy of it does not.
    report("eater", start([] {
             char* at = reserve(50 * kMiB);
             for (size_t i = 0; i < 50 * kMiB; i += 4096) at[i] = 3;
             pid_t child = start([at] {
               set_adjustment(500);
               for (size_t i = 0; i < 50 * kMiB; i += 4096) at[i] = 4;
             });
             report("child", child);
             for (size_t i = 0; i < 50 * kMiB; i += 4096)
               if (at[i] != 3) _exit(15);
           }));
  } else if (mode == "frames") {
    report("eater", start([] { fill_by_signal_frames(kTooMuch, [] { return false; }); }));
  } else if (mode == "protected_frames" || mode == "protected_calls") {
    int gone[2];
    if (pipe2(gone, O_NONBLOCK) != 0) return 1;
    pid_t favourite = start([] { be_favourite(); });
    pid_t big = start([&] {
      set_adjustment(-1000);
      close(gone[1]);
      char byte;
      auto enough = [&] { return read(gone[0], &byte, 1) == 0; };
      if (mode == "protected_frames")
        fill_by_signal_frames(kTooMuch, enough);
      else
        fill_by_signal_information(kTooMuch, enough);
    });
    close(gone[1]);
    report("favourite", favourite);
    report("big", big);
  } else if (mode == "parked") {
    // What unmapped memory leaves behind for the next mapping goes before any process does.
    int ready[2];
    char byte;
    if (pipe(ready) != 0) return 1;
    std::vector<pid_t> all;
    for (int i = 0; i < 16; ++i) {
      all.push_back(start([&] {
        char* at[] = {reserve(kMiB), reserve(kMiB)};
        for (char* each : at) memset(each, 1, kMiB);
        for (char* each : at) munmap(each, kMiB);
        if (write(ready[1], "", 1) != 1) _exit(1);
        pause();
      }));
      if (read(ready[0], &byte, 1) != 1) return 1;
    }
    report("eater", start([] { touch(60 * kMiB); }));
    for (pid_t each : all) kill(each, SIGKILL);
    for (pid_t each : all) waitpid(each, nullptr, 0);
  } else if (mode == "again") {
    for (int i = 0; i < 5; ++i) report("eater", start([] { touch(kTooMuch); }));
  }
  first.tell();
  second.tell();
  first.finish();
  second.finish();
  FILE* file = fopen("/proc/vmstat", "r");
  char line[128];
  while (file != nullptr && fgets(line, sizeof line, file) != nullptr)
    if (strncmp(line, "oom_kill ", 9) == 0) fputs(line, stdout);
  return 0;
}
