// A program without tests: reports how it was started, for exec_test. Built static and static-PIE.
//   exec_probe args      prints argc, argv, envp, each on a line
//   exec_probe auxv      exits 0 if the auxiliary vector is what it must be
//   exec_probe ids       exits with bits: 1 gained a user id, 2 a group id, 4 AT_SECURE
//   exec_probe signals   exits with bits: 1 USR1 is default, 2 USR2 is ignored, 4 TERM is blocked,
//   8 TERM is pending exec_probe exit N
#include <elf.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

extern char** environ;
extern const char __ehdr_start[];
extern "C" void _start();

namespace {

int wrong(const char* what) {
  std::fprintf(stderr, "auxv: %s\n", what);
  return 1;
}

int check_auxv() {
  if (getauxval(AT_PAGESZ) != 4096) return wrong("AT_PAGESZ");
  if (getauxval(AT_UID) != getuid() || getauxval(AT_EUID) != geteuid()) return wrong("AT_UID");
  if (getauxval(AT_GID) != getgid() || getauxval(AT_EGID) != getegid()) return wrong("AT_GID");
  if (getauxval(AT_SECURE) != 0) return wrong("AT_SECURE");
  if (getauxval(AT_CLKTCK) != 100) return wrong("AT_CLKTCK");
  if (getauxval(AT_BASE) != 0) return wrong("AT_BASE");
  if (getauxval(AT_ENTRY) != reinterpret_cast<uintptr_t>(&_start)) return wrong("AT_ENTRY");
  if (getauxval(AT_HWCAP) == 0) return wrong("AT_HWCAP");
  if (getauxval(AT_MINSIGSTKSZ) < 1024) return wrong("AT_MINSIGSTKSZ");
  const auto* header = reinterpret_cast<const Elf64_Ehdr*>(__ehdr_start);
  if (getauxval(AT_PHDR) != reinterpret_cast<uintptr_t>(__ehdr_start) + header->e_phoff) {
    return wrong("AT_PHDR");
  }
  if (getauxval(AT_PHNUM) != header->e_phnum) return wrong("AT_PHNUM");
  if (getauxval(AT_PHENT) != sizeof(Elf64_Phdr)) return wrong("AT_PHENT");
  const auto* platform = reinterpret_cast<const char*>(getauxval(AT_PLATFORM));
  if (platform == nullptr || std::strcmp(platform, "x86_64") != 0) return wrong("AT_PLATFORM");
  const auto* random = reinterpret_cast<const uint64_t*>(getauxval(AT_RANDOM));
  if (random == nullptr || (random[0] == 0 && random[1] == 0)) return wrong("AT_RANDOM");
  const auto* name = reinterpret_cast<const char*>(getauxval(AT_EXECFN));
  if (name == nullptr || std::strstr(name, "exec_probe") == nullptr) return wrong("AT_EXECFN");
  const auto* vdso = reinterpret_cast<const char*>(getauxval(AT_SYSINFO_EHDR));
  if (vdso != nullptr && std::memcmp(vdso, ELFMAG, 4) != 0) return wrong("AT_SYSINFO_EHDR");
  return 0;
}

int report_signals() {
  struct sigaction usr1, usr2;
  sigset_t mask, pending;
  sigaction(SIGUSR1, nullptr, &usr1);
  sigaction(SIGUSR2, nullptr, &usr2);
  sigprocmask(SIG_SETMASK, nullptr, &mask);
  sigpending(&pending);
  return (usr1.sa_handler == SIG_DFL) | (usr2.sa_handler == SIG_IGN) << 1 |
         sigismember(&mask, SIGTERM) << 2 | sigismember(&pending, SIGTERM) << 3;
}

}  // namespace

int main(int argc, char** argv) {
  // The stack pointer's neighbourhood: argv lies where the ABI says, envp right behind it.
  if (argv + argc + 1 != environ) return wrong("environ");
  const char* verb = argc > 1 ? argv[1] : "args";
  if (std::strcmp(verb, "auxv") == 0) return check_auxv();
  if (std::strcmp(verb, "signals") == 0) return report_signals();
  if (std::strcmp(verb, "ids") == 0) {
    return (getuid() != geteuid()) | (getgid() != getegid()) << 1 |
           (getauxval(AT_SECURE) != 0) << 2;
  }
  if (std::strcmp(verb, "exit") == 0) return std::atoi(argv[2]);
  std::printf("%d\n", argc);
  for (int i = 0; i < argc; ++i) std::printf("%s\n", argv[i]);
  for (char** entry = environ; *entry != nullptr; ++entry) std::printf("%s\n", *entry);
  return 0;
}
