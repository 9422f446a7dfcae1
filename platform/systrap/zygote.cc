#include "platform/systrap/zygote.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/socket.h>

#include <cstdio>
#include <cstring>
#include <vector>

#include "base/log.h"
#include "host/raw_syscall.h"
#include "platform/systrap/call_patches.h"
#include "platform/systrap/filters.h"
#include "platform/systrap/stub_image.h"

namespace caisson::systrap {
namespace {

using host::raw_arg;
using host::raw_syscall;

struct VdsoPart {
  uint64_t begin;
  uint64_t end;
};

// The host's [vvar], [vvar_vclock] and [vdso], in address order; empty if they are not found side
// by side.
std::vector<VdsoPart> find_vdso() {
  std::vector<VdsoPart> parts;
  FILE* maps = fopen("/proc/self/maps", "re");
  if (maps == nullptr) return parts;
  char line[512];
  bool has_vdso = false;
  while (fgets(line, sizeof line, maps) != nullptr) {
    if (strstr(line, "[vvar") == nullptr && strstr(line, "[vdso]") == nullptr) continue;
    unsigned long begin = 0;
    unsigned long end = 0;
    if (sscanf(line, "%lx-%lx", &begin, &end) != 2) continue;
    if (!parts.empty() && parts.back().end != begin) {
      parts.clear();
      break;
    }
    parts.push_back({begin, end});
    if (strstr(line, "[vdso]") != nullptr) has_vdso = true;
  }
  fclose(maps);
  if (!has_vdso || parts.back().end - parts.front().begin > STUB_ZYGOTE_STACK - STUB_VDSO)
    parts.clear();
  return parts;
}

struct KernelSigaction {
  uint64_t handler;
  uint64_t flags;
  uint64_t restorer;
  uint64_t mask;
};

constexpr uint64_t kSaRestorer = 0x04000000;
constexpr int kHandledSignals[] = {SIGSYS, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGUSR1};

// What the child does until it jumps into the stub image. Runs on a copy of the kernel process'
// memory.
struct Child {
  SharedMemory& memory;
  Zygote::Start start;
  int socket;
  const std::vector<VdsoPart>& vdso;
  const std::vector<sock_filter>& filter;

  [[noreturn]] static void fail() {
    raw_syscall(SYS_exit_group, 1).ignore(), __builtin_unreachable();
  }
  static void must(bool ok) {
    if (!ok) fail();
  }

  void arrange_descriptors() {
    // Out of the way first, so that no target number is still a source.
    constexpr int kHigh = 200;
    int sources[] = {
        start.memory_fd, start.memory_ro_fd,        memory.control_fd(), memory.control_ro_fd(),
        socket,          start.calls.read_only_fd()};
    constexpr int kCount = 6;
    int text = kHigh + kCount;
    must(raw_syscall(SYS_dup3, memory.text_fd(), text, 0).ok());
    for (int i = 0; i < kCount; ++i) must(raw_syscall(SYS_dup3, sources[i], kHigh + i, 0).ok());
    for (int i = 0; i < kCount; ++i) must(raw_syscall(SYS_dup3, kHigh + i, i, 0).ok());
    must(raw_syscall(SYS_dup3, text, kCount, 0).ok());
    must(raw_syscall(SYS_close_range, kCount + 1, ~0u, 0).ok());
    // A table that is large from the start: growing it while it is shared costs an RCU wait each
    // time.
    raw_syscall(SYS_dup3, 0, 4000, 0).ignore();
    raw_syscall(SYS_close, 4000).ignore();
  }

  void map_region() {
    uint64_t base = memory.stub_base();
    auto map = [](uint64_t at, uint64_t size, int prot, int flags, int fd, uint64_t offset) {
      auto result = raw_syscall(SYS_mmap, static_cast<long>(at), static_cast<long>(size), prot,
                                flags | MAP_FIXED, fd, static_cast<long>(offset));
      must(result.ok());
    };
    uint64_t text_size = (stub_image().size() + 4095) / 4096 * 4096;
    constexpr int kText = FD_CALLS_RO + 1;
    map(base + STUB_TEXT, text_size, PROT_READ | PROT_EXEC, MAP_SHARED, kText, 0);
    if (start.calls.enabled()) {
      map(CALL_TABLE, CALL_TABLE_END - CALL_TABLE, PROT_READ, MAP_SHARED, FD_CALLS_RO, 0);
      map(base + STUB_CALLS, STUB_CALLS_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, FD_CALLS_RO,
          CALL_TABLE_END - CALL_TABLE);
    }
    map(base + STUB_CONTROL, STUB_CONTROL_SIZE, PROT_READ, MAP_SHARED, FD_CONTROL_RO, 0);
    map(base + STUB_ZYGOTE_STACK, STUB_ZYGOTE_STACK_SIZE, PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (const VdsoPart& part : vdso) {
      uint64_t to = base + STUB_VDSO + (part.begin - vdso.front().begin);
      uint64_t size = part.end - part.begin;
      must(raw_syscall(SYS_mremap, static_cast<long>(part.begin), static_cast<long>(size),
                       static_cast<long>(size), MREMAP_MAYMOVE | MREMAP_FIXED,
                       static_cast<long>(to))
               .ok());
    }
    raw_syscall(SYS_close, kText).ignore();
  }

  // Nothing of libc's per-thread registrations may stay: their memory is about to go.
  static void drop_libc_registrations() {
    if (__rseq_size != 0) {
      auto* area = static_cast<char*>(__builtin_thread_pointer()) + __rseq_offset;
      raw_syscall(SYS_rseq, raw_arg(area), 32, RSEQ_FLAG_UNREGISTER, RSEQ_SIG).ignore();
    }
    raw_syscall(SYS_set_robust_list, 0, 24).ignore();
    raw_syscall(SYS_set_tid_address, 0).ignore();
  }

  // Stubs need none; and the kernel process, which gives up its own, may then still schedule them.
  static void drop_capabilities() {
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct none[2] = {};
    must(raw_syscall(SYS_capset, raw_arg(&header), raw_arg(none)).ok());
  }

  void install_handlers() {
    uint64_t base = memory.stub_base();
    for (int signal = 1; signal < 65; ++signal) {
      if (signal == SIGKILL || signal == SIGSTOP) continue;
      KernelSigaction action{};  // SIG_DFL
      for (int handled : kHandledSignals) {
        if (signal != handled) continue;
        action.handler = base + stub_header().signal_entry;
        // Handlers are left without rt_sigreturn(2) (stub/stub.S), but for the interrupt's: as many
        // as come would fill the stack.
        action.flags = SA_SIGINFO | SA_ONSTACK | kSaRestorer;
        if (signal != SIGUSR1) action.flags |= SA_NODEFER;
        action.restorer = base + stub_header().restorer;
      }
      must(raw_syscall(SYS_rt_sigaction, signal, raw_arg(&action), 0, 8).ok());
    }
  }

  [[noreturn]] void run() {
    uint64_t all = ~uint64_t{0};
    must(raw_syscall(SYS_rt_sigprocmask, SIG_SETMASK, raw_arg(&all), 0, 8).ok());
    drop_capabilities();
    must(raw_syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0).ok());
    if (raw_syscall(SYS_getppid).value() != memory.control().parent) fail();
    raw_syscall(SYS_setsid)
        .ignore();  // a terminal's signals are for the guest kernel, not for stubs
    struct rlimit none {};
    raw_syscall(SYS_setrlimit, RLIMIT_CORE, raw_arg(&none)).ignore();
    arrange_descriptors();
    drop_libc_registrations();
    map_region();
    install_handlers();
    must(raw_syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).ok());
    sock_fprog program{static_cast<unsigned short>(filter.size()),
                       const_cast<sock_filter*>(filter.data())};
    must(raw_syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, raw_arg(&program)).ok());
    uint64_t base = memory.stub_base();
    uint64_t stack = base + STUB_ZYGOTE_STACK + STUB_ZYGOTE_STACK_SIZE;
    uint64_t entry = base + stub_header().zygote_entry;
    __asm__ volatile("mov %0, %%rsp\n jmp *%1" : : "r"(stack), "r"(entry) : "memory");
    __builtin_unreachable();
  }
};

}  // namespace

Result<Ref<Zygote>> Zygote::start(SharedMemory& memory, const Start& start) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) return Errno(errno);
  UniqueFd ours(ends[0]);
  UniqueFd theirs(ends[1]);
  if (fcntl(ours.get(), F_SETFL, O_NONBLOCK) < 0) return Errno(errno);

  auto zygote = make_ref<Zygote>();
  auto vdso = find_vdso();
  auto filter = stub_process_filter(memory.stub_base());
  memory.control().parent = static_cast<uint32_t>(raw_syscall(SYS_getpid).value());

  // The region is reserved in this process across the fork, so that nothing of ours lies where
  // stubs map theirs.
  auto reserved =
      raw_syscall(SYS_mmap, static_cast<long>(memory.stub_base()), STUB_REGION_SIZE, PROT_NONE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
  if (!reserved.ok()) return reserved.error();
  Child child{memory, start, theirs.get(), vdso, filter};
  auto pid = raw_syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
  if (pid.ok() && pid.value() == 0) child.run();
  munmap(reinterpret_cast<void*>(memory.stub_base()), STUB_REGION_SIZE);
  if (!pid.ok()) return pid.error();
  zygote->pid_ = static_cast<int>(pid.value());
  zygote->socket_ = std::move(ours);
  if (!vdso.empty())
    zygote->vdso_address_ =
        memory.stub_base() + STUB_VDSO + (vdso.back().begin - vdso.front().begin);
  return zygote;
}

// Stubs share its descriptors, so its end of the socket stays open when it dies.
class Zygote::DeathWatch : public host::FdWatcher {
 public:
  explicit DeathWatch(Zygote& zygote) : zygote_(zygote) {}
  void ready(uint32_t) override { zygote_->on_death_(); }

 private:
  Ref<Zygote> zygote_;
};

Result<void> Zygote::attach(host::EventLoop& loop, std::function<void()> on_death) {
  on_death_ = std::move(on_death);
  auto pidfd = raw_syscall(SYS_pidfd_open, pid_, 0);
  if (!pidfd.ok()) return pidfd.error();
  pidfd_.reset(static_cast<int>(pidfd.value()));
  TRY(loop.watch(pidfd_.get(), EPOLLIN, Ref<host::FdWatcher>(make_ref<DeathWatch>(*this))));
  return loop.watch(socket_.get(), EPOLLIN | EPOLLOUT | EPOLLRDHUP, Ref<host::FdWatcher>(*this));
}

bool Zygote::send_now(const Command& command, int descriptor) {
  iovec vector{const_cast<Command*>(&command), sizeof command};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  alignas(cmsghdr) unsigned char control[CMSG_SPACE(sizeof(int))] = {};
  if (descriptor >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &descriptor, sizeof descriptor);
  }
  return sendmsg(socket_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT) ==
         static_cast<ssize_t>(sizeof command);
}

void Zygote::send(CommandKind kind, uint32_t fd, uint32_t index, int descriptor, Done done) {
  MutexLock lock(mu_);
  Command command{kind, fd, index, next_serial_++};
  waiting_.emplace(command.serial, std::move(done));
  if (backlog_.empty() && send_now(command, descriptor)) return;
  UniqueFd copy(descriptor >= 0 ? fcntl(descriptor, F_DUPFD_CLOEXEC, 0) : -1);
  backlog_.push({command, std::move(copy)});
}

void Zygote::flush_locked() {
  while (!backlog_.empty()) {
    if (!send_now(backlog_.front().command, backlog_.front().descriptor.get())) return;
    backlog_.pop();
  }
}

void Zygote::ready(uint32_t epoll_events) {
  for (;;) {
    Answer answer;
    ssize_t got = recv(socket_.get(), &answer, sizeof answer, MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) break;
    if (got != static_cast<ssize_t>(sizeof answer)) {
      on_death_();
      return;
    }
    Done done;
    {
      MutexLock lock(mu_);
      auto it = waiting_.find(answer.serial);
      if (it == waiting_.end()) continue;
      done = std::move(it->second);
      waiting_.erase(it);
    }
    if (done) done(answer.result);
  }
  MutexLock lock(mu_);
  flush_locked();
}

}  // namespace caisson::systrap
