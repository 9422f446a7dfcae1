#include "host/fault_handler.h"

#include <signal.h>
#include <ucontext.h>

#include "base/check.h"

namespace caisson::host {

namespace {

// Set once before the handlers are installed.
FaultFixup g_fixup;
struct sigaction g_old_segv;
struct sigaction g_old_bus;

void on_fault(int signo, siginfo_t* info, void* context) {
  auto* user = static_cast<ucontext_t*>(context);
  greg_t& rip = user->uc_mcontext.gregs[REG_RIP];
  // si_code <= 0: somebody sent it.
  if (uint64_t target = info->si_code > 0 ? g_fixup(static_cast<uint64_t>(rip)) : 0; target != 0) {
    rip = static_cast<greg_t>(target);
    return;
  }
  struct sigaction& old = signo == SIGBUS ? g_old_bus : g_old_segv;
  if ((old.sa_flags & SA_SIGINFO) != 0 && old.sa_sigaction != nullptr) {
    old.sa_sigaction(signo, info, context);
  } else if (old.sa_handler != SIG_DFL && old.sa_handler != SIG_IGN) {
    old.sa_handler(signo);
  } else {
    // Ours to die of: the instruction faults again, this time without a handler.
    signal(signo, SIG_DFL);
    if (info->si_code <= 0) raise(signo);
  }
}

}  // namespace

void install_fault_handler(FaultFixup fixup) {
  CHECK(g_fixup == nullptr);
  g_fixup = fixup;
  struct sigaction action = {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  sigemptyset(&action.sa_mask);
  CHECK(sigaction(SIGSEGV, &action, &g_old_segv) == 0);
  CHECK(sigaction(SIGBUS, &action, &g_old_bus) == 0);
}

}  // namespace caisson::host
