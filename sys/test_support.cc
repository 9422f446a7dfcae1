#include "sys/test_support.h"

#include <dirent.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cstddef>
#include <thread>

namespace caisson::sys::test {

bool with_denied(const std::vector<Denied>& denied, const std::function<void()>& function) {
  std::vector<sock_filter> code;
  const auto add = [&code](uint16_t op, uint32_t k, uint8_t jump_true = 0, uint8_t jump_false = 0) {
    code.push_back({op, jump_true, jump_false, k});
  };
  for (const Denied& rule : denied) {
    const bool by_argument = rule.argument >= 0;
    add(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr));
    add(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(rule.nr), 0, by_argument ? 4 : 1);
    if (by_argument) {
      add(BPF_LD | BPF_W | BPF_ABS,
          static_cast<uint32_t>(offsetof(seccomp_data, args) + 8 * rule.argument));
      add(BPF_ALU | BPF_AND | BPF_K, rule.mask);
      add(BPF_JMP | BPF_JEQ | BPF_K, rule.value, 0, 1);
    }
    add(BPF_RET | BPF_K, rule.error == kKill
                             ? SECCOMP_RET_KILL_PROCESS
                             : SECCOMP_RET_ERRNO | static_cast<uint32_t>(rule.error));
  }
  add(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  const sock_fprog program{static_cast<unsigned short>(code.size()), code.data()};
  bool installed = false;
  std::thread([&] {
    installed = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
                syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0;
    if (installed) function();
  }).join();
  return installed;
}

bool refuses_user_namespaces() {
  static const bool refused = [] {
    const pid_t pid = fork();
    if (pid == 0) {
      const bool refused_now =
          ::unshare(CLONE_NEWUSER) != 0 && (errno == EPERM || errno == ENOSPC || errno == EINVAL);
      _exit(refused_now ? 1 : 0);
    }
    int status = 0;
    return pid > 0 && ::waitpid(pid, &status, 0) == pid && WIFEXITED(status) &&
           WEXITSTATUS(status) == 1;
  }();
  return refused;
}

const char* helper_path() {
  const char* given = ::getenv("SYS_TEST_HELPER");
  return given != nullptr ? given : CAISSON_SYS_TEST_HELPER;
}

std::string file_line(int place, int fd) {
  struct ::stat file {};
  EXPECT_EQ(fstat(fd, &file), 0);
  char line[80];
  snprintf(line, sizeof(line), "%d:%lx:%lx\n", place, static_cast<unsigned long>(file.st_dev),
           static_cast<unsigned long>(file.st_ino));
  return line;
}

int open_descriptors() {
  int count = 0;
  DIR* dir = opendir("/proc/self/fd");
  while (readdir(dir) != nullptr) ++count;
  closedir(dir);
  return count;
}

bool no_children() { return wait4(-1, WNOHANG | __WALL).error() == Errno(ECHILD); }

}  // namespace caisson::sys::test
