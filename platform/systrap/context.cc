#include "platform/systrap/context.h"

#include <linux/audit.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstring>

#include "host/raw_syscall.h"
#include "platform/systrap/stub_image.h"
#include "platform/systrap/systrap.h"

namespace caisson::systrap {
namespace {

using platform::EventKind;

// Linux: struct sigcontext_64 and struct ucontext (arch/x86/include/uapi/asm).
struct HostSigcontext {
  uint64_t r8, r9, r10, r11, r12, r13, r14, r15;
  uint64_t rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip;
  uint64_t flags;
  uint16_t cs, gs, fs, ss;
  uint64_t error, trapno, oldmask, cr2;
  uint64_t fpstate;
  uint64_t reserved[8];
};
struct HostUcontext {
  uint64_t flags;
  uint64_t link;
  uint64_t stack_sp;
  uint32_t stack_flags;
  uint32_t pad;
  uint64_t stack_size;
  HostSigcontext mcontext;
  uint64_t sigmask;
};
static_assert(sizeof(HostUcontext) == 304);

struct HostSiginfo {
  int32_t signo, error, code, pad;
  union {
    uint64_t address;
    struct {
      uint64_t call_address;
      int32_t syscall;
      uint32_t arch;
    } sys;
  };
};

constexpr uint64_t kUcFpXstate = 1;
constexpr uint64_t kUcSigcontextSs = 2;
constexpr uint64_t kUcStrictRestoreSs = 4;
constexpr int kSysSeccomp = 1;

GateRegisters gate_registers(const Registers& r) {
  return {0,    r.rbx, 0, r.rdx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8,
          r.r9, r.r10, 0, r.r12, r.r13, r.r14, r.r15, r.rip, r.eflags};
}

// A base address that wrfsbase/wrgsbase accept; anything else would fault inside the stub.
uint64_t canonical(uint64_t address) {
  uint64_t upper = address >> 47;
  return upper == 0 || upper == 0x1ffff ? address : 0;
}

}  // namespace

SystrapContext::SystrapContext(Systrap& systrap) : systrap_(systrap) {}

SystrapContext::~SystrapContext() { attach(nullptr); }

void SystrapContext::release_thread() {
  if (!space_) return;
  if (StubThread* thread = thread_.exchange(nullptr)) {
    space_->process().return_thread(*thread);
  } else {
    space_->process().forget(*this);
    // It may have been found a thread just now.
    if (StubThread* late = thread_.exchange(nullptr)) space_->process().return_thread(*late);
  }
}

void SystrapContext::attach(RefOrNull<platform::AddressSpace> space) {
  if (thread_.load() != nullptr && !vector_dirty_ && has_vector_state()) {
    vector_.resize(systrap_.vector_state().size());
    read_vector_state(vector_);
  }
  vector_dirty_ = true;
  give_back_protects();
  call_count_ = 0;
  release_thread();
  is_fresh_ = true;
  RefOrNull<SystrapAddressSpace> old = std::move(space_);
  space_ = RefOrNull<SystrapAddressSpace>::adopt(static_cast<SystrapAddressSpace*>(space.leak()));
  if (!space_) return;
  if (StubThread* thread = space_->process().take_thread(*this)) thread_.store(thread);
}

void SystrapContext::resume() {
  if (!space_) {
    post(EventKind::kDied);
    return;
  }
  StubProcess& process = space_->process();
  if (thread_.load() != nullptr && process.quiet()) {
    go();
  } else {
    process.hold(*this);
  }
}

void SystrapContext::park() {
  StubThread* thread = thread_.load();
  if (thread == nullptr) return;
  systrap_.workers().remove_running(*thread);
  uint32_t expected = SLOT_STATE_REQUEST;
  thread->slot().state.compare_exchange_strong(expected, SLOT_STATE_PARKED);
}

void SystrapContext::wake_private(GuestAddr word, int count, uint32_t mask) {
  if (!systrap_.stub_answers() || word >= STUB_USER_END || !has_room_for_calls(1)) return;
  add_call({CALL_PRIVATE_WAKE, {word, static_cast<uint32_t>(count), mask}});
}

bool SystrapContext::is_waiting() const {
  StubThread* thread = thread_.load();
  return thread != nullptr && StubThread::phase_of(thread->phase().load()) == Phase::kGuest &&
         thread->slot().waiting.load() != 0;
}

void SystrapContext::post(EventKind kind) {
  event_ = kind;
  systrap_.workers().post(*this);
}

void SystrapContext::write_gate(StubThread& thread) {
  Slot& slot = thread.slot();
  slot.rax = regs_.rax;
  GateRegisters g = gate_registers(regs_);
  // Usually nothing else has changed: what is not written stays in the other CPU's cache.
  if (memcmp(&g, &gate_, sizeof g) != 0) memcpy(&slot.regs, &g, sizeof g);
  slot.resume = SLOT_RESUME_BY_GATE;
}

// Lays a host signal frame for the first resume of a thread, or for one that waits in the gate.
void SystrapContext::write_frame(StubThread& thread) {
  Slot& slot = thread.slot();
  auto* bytes = reinterpret_cast<std::byte*>(&slot);
  const VectorState& vector = systrap_.vector_state();
  const bool anew = !thread.has_frame;
  if (anew) {
    thread.vector_offset = static_cast<uint32_t>((SLOT_SIZE - vector.size() - 64) & ~size_t{63});
    thread.frame_offset = static_cast<uint32_t>(thread.vector_offset - 1024);
    auto* frame = reinterpret_cast<HostUcontext*>(bytes + thread.frame_offset);
    memset(frame, 0, sizeof *frame);
    frame->flags = kUcFpXstate | kUcSigcontextSs | kUcStrictRestoreSs;
    frame->stack_sp = thread.address() + SLOT_STACK;
    frame->stack_size = SLOT_SIZE - SLOT_STACK;
    frame->mcontext.fpstate = thread.address() + thread.vector_offset;
    thread.has_frame = true;
    CHECK(vector_dirty_);
  }
  if (vector_dirty_) {
    std::span<const std::byte> image = vector_.empty() ? vector.initial() : std::span(vector_);
    memcpy(bytes + thread.vector_offset, image.data(), image.size());
    vector_dirty_ = false;
    vector_ = {};
  }
  auto* frame = reinterpret_cast<HostUcontext*>(bytes + thread.frame_offset);
  frame->sigmask = 0;
  HostSigcontext& m = frame->mcontext;
  m.r8 = regs_.r8, m.r9 = regs_.r9, m.r10 = regs_.r10, m.r11 = regs_.r11;
  m.r12 = regs_.r12, m.r13 = regs_.r13, m.r14 = regs_.r14, m.r15 = regs_.r15;
  m.rdi = regs_.rdi, m.rsi = regs_.rsi, m.rbp = regs_.rbp, m.rbx = regs_.rbx;
  m.rdx = regs_.rdx, m.rax = regs_.rax, m.rcx = regs_.rcx, m.rsp = regs_.rsp;
  m.rip = regs_.rip;
  m.flags = regs_.eflags;
  m.cs = regs_.cs == kUserCs32 ? kUserCs32 : kUserCs;
  m.ss = kUserSs;
  m.gs = m.fs = 0;
  slot.resume_frame = thread.frame_offset;
  slot.resume = anew ? SLOT_RESUME_ANEW : SLOT_RESUME_BY_FRAME;
}

// The thread will not make its calls soon: the mapper shall.
void SystrapContext::give_back_protects() {
  StubThread* thread = thread_.load();
  if (thread == nullptr || call_count_ == 0) return;
  space_->process().take_back_calls(*thread, std::span(calls_, call_count_));
  auto* end = std::remove_if(calls_, calls_ + call_count_,
                             [](const CallerCall& call) { return call.kind == CALL_PROTECT; });
  call_count_ = static_cast<uint32_t>(end - calls_);
}

bool SystrapContext::take_interrupt() {
  // Not while the vector state is fetched: the task needs it before it can act on the interrupt.
  if (fetching_ || !interrupt_requested_.load() || !interrupt_requested_.exchange(false))
    return false;
  give_back_protects();
  post(EventKind::kInterrupt);
  return true;
}

void SystrapContext::go(bool wake) {
  if (wake && take_interrupt()) return;
  StubThread& thread = *thread_.load();
  if (thread.scheduling_id != scheduling_id_.load()) apply_scheduling(thread);
  Ref<StubProcess> process(space_->process());
  Workers& workers = systrap_.workers();
  Slot& slot = thread.slot();
  slot.resume_fs = canonical(regs_.fs_base);
  slot.resume_gs = regs_.gs_base == 0 ? thread.address() : canonical(regs_.gs_base);
  slot.waiting.store(0, std::memory_order_relaxed);
  for (uint32_t i = 0; i < call_count_; ++i) slot.call[i] = calls_[i];
  // Somebody may wait for them already.
  uint32_t seen = slot.calls.load(std::memory_order_relaxed);
  while (seen != call_count_ &&
         !slot.calls.compare_exchange_weak(seen, call_count_ | (seen & CALLS_AWAITED))) {
  }
  if (fetching_) {
    slot.resume = SLOT_RESUME_TRAP;
  } else if (thread.at_gate && !vector_dirty_ && regs_.fs_base == gate_fs_ && regs_.gs_base == 0) {
    write_gate(thread);
  } else {
    write_frame(thread);
  }
  thread.context = this;
  is_fresh_ = false;
  workers.add_running(thread);
  // The old request must be out of the slot before a worker may take what it finds there for a new
  // one; a request that comes before the phase is set is seen by this worker's next look.
  uint32_t before = slot.state.exchange(wake ? SLOT_STATE_RUN : SLOT_STATE_PARKED);
  uint64_t word = thread.start_generation(Phase::kGuest);
  // From here on this context may be somebody else's; the thread and its process stay.
  if (wake && before != SLOT_STATE_REQUEST)
    host::raw_syscall(SYS_futex, host::raw_arg(&slot.state), FUTEX_WAKE, 1).ignore();
  if (thread.interrupt_flag.load() && thread.interrupt_flag.exchange(false))
    process->interrupt_thread(thread, word);
  // kill() may have looked at this thread before it was the guest's.
  if (process->dead() && thread.claim(word, Phase::kOwned)) {
    post(EventKind::kDied);
  }
  workers.ring_if_foreign();
}

void SystrapContext::set_scheduling(const platform::Scheduling& scheduling) {
  static std::atomic<uint64_t> last_id{0};
  MutexLock lock(scheduling_mu_);
  scheduling_ = scheduling;
  scheduling_id_.store(++last_id);
}

void SystrapContext::apply_scheduling(StubThread& thread) {
  platform::Scheduling wanted{systrap_.cpus(), 0};
  MutexLock lock(scheduling_mu_);
  thread.scheduling_id = scheduling_id_.load();
  if (thread.scheduling_id != 0) wanted = scheduling_;
  host::raw_syscall(SYS_sched_setaffinity, thread.tid, sizeof wanted.cpus,
                    host::raw_arg(&wanted.cpus))
      .ignore();
  if (wanted.nice != thread.nice &&
      host::raw_syscall(SYS_setpriority, PRIO_PROCESS, thread.tid, wanted.nice).ok())
    thread.nice = wanted.nice;
}

void SystrapContext::interrupt() {
  interrupt_requested_.store(true);
  if (held.exchange(false)) {
    if (space_) space_->process().forget(*this);
    interrupt_requested_.store(false);
    post(EventKind::kInterrupt);
    return;
  }
  StubThread* thread = thread_.load();
  if (thread == nullptr) return;
  thread->interrupt_flag.store(true);
  uint64_t word = thread->phase().load();
  if (StubThread::phase_of(word) != Phase::kGuest || thread->process == nullptr) return;
  thread->process->interrupt_thread(*thread, word);
}

void SystrapContext::kill() {
  RefOrNull<SystrapAddressSpace> space = space_;
  if (space) space->process().kill("the kernel ends it");
}

bool SystrapContext::has_vector_state() const {
  StubThread* thread = thread_.load();
  return vector_dirty_ || (thread != nullptr && thread->has_frame && !thread->at_gate);
}

void SystrapContext::fetch_vector_state() {
  fetching_ = true;
  resume();
}

void SystrapContext::read_vector_state(std::span<std::byte> out) const {
  const VectorState& vector = systrap_.vector_state();
  CHECK(out.size() >= vector.size());
  if (vector_dirty_) {
    std::span<const std::byte> image = vector_.empty() ? vector.initial() : std::span(vector_);
    memcpy(out.data(), image.data(), image.size());
    return;
  }
  StubThread* thread = thread_.load();
  auto* bytes = reinterpret_cast<const std::byte*>(&thread->slot());
  memcpy(out.data(), bytes + thread->vector_offset, vector.size());
  vector.sanitize(out.first(vector.size()));
}

void SystrapContext::write_vector_state(std::span<const std::byte> in) {
  const VectorState& vector = systrap_.vector_state();
  CHECK(in.size() >= vector.size());
  vector_.assign(in.begin(), in.begin() + static_cast<long>(vector.size()));
  vector.sanitize(vector_);
  vector_dirty_ = true;
}

void SystrapContext::reset_vector_state() {
  vector_ = {};
  vector_dirty_ = true;
}

uint64_t SystrapContext::cpu_time_ns() const {
  StubThread* thread = thread_.load();
  if (thread == nullptr) return 0;
  uint64_t now = thread->host_cpu_ns();
  return now > thread->cpu_base_ns ? now - thread->cpu_base_ns : 0;
}

bool SystrapContext::read_frame(StubThread& thread, bool keep_registers) {
  Slot& slot = thread.slot();
  auto* bytes = reinterpret_cast<const std::byte*>(&slot);
  uint32_t frame_offset = slot.frame;
  uint32_t info_offset = slot.info;
  if (frame_offset < SLOT_STACK || frame_offset > SLOT_SIZE - sizeof(HostUcontext) ||
      frame_offset % 8 != 0)
    return false;
  if (info_offset < SLOT_STACK || info_offset > SLOT_SIZE - sizeof(HostSiginfo) ||
      info_offset % 8 != 0)
    return false;
  HostSigcontext m;
  memcpy(&m, bytes + frame_offset + offsetof(HostUcontext, mcontext), sizeof m);
  HostSiginfo info;
  memcpy(&info, bytes + info_offset, sizeof info);
  uint64_t vector = m.fpstate - thread.address();
  if (vector < SLOT_STACK || vector > SLOT_SIZE - systrap_.vector_state().size() ||
      vector % 64 != 0)
    return false;
  thread.frame_offset = frame_offset;
  thread.vector_offset = static_cast<uint32_t>(vector);
  thread.has_frame = true;
  thread.at_gate = false;
  if (keep_registers) return true;

  regs_.r8 = m.r8, regs_.r9 = m.r9, regs_.r10 = m.r10, regs_.r11 = m.r11;
  regs_.r12 = m.r12, regs_.r13 = m.r13, regs_.r14 = m.r14, regs_.r15 = m.r15;
  regs_.rdi = m.rdi, regs_.rsi = m.rsi, regs_.rbp = m.rbp, regs_.rbx = m.rbx;
  regs_.rdx = m.rdx, regs_.rax = m.rax, regs_.rcx = m.rcx, regs_.rsp = m.rsp;
  regs_.rip = m.rip;
  regs_.eflags = m.flags;
  regs_.cs = m.cs == kUserCs32 ? kUserCs32 : kUserCs;
  regs_.ss = kUserSs;
  uint64_t fs = slot.fs;
  uint64_t gs = slot.gs;
  regs_.fs_base = canonical(fs);
  regs_.gs_base = gs == thread.address() ? 0 : canonical(gs);

  uint32_t signo = slot.signo;
  switch (signo) {
    case SIGSYS:
      if (info.code != kSysSeccomp) return false;
      event_ = EventKind::kSyscall;
      syscall_arch_ = info.sys.arch;
      regs_.orig_rax = regs_.rax;
      return true;
    case SIGUSR1:
      event_ = EventKind::kInterrupt;
      regs_.orig_rax = ~uint64_t{0};
      return true;
    case SIGSEGV:
    case SIGBUS:
    case SIGFPE:
    case SIGILL:
    case SIGTRAP:
      event_ = EventKind::kFault;
      regs_.orig_rax = ~uint64_t{0};
      fault_ = {static_cast<int>(signo), info.code, info.address, m.trapno, m.error};
      return true;
    default:
      return false;
  }
}

void SystrapContext::read_gate(StubThread& thread) {
  uint64_t rax = thread.slot().rax;
  GateRegisters g;
  memcpy(&g, &thread.slot().regs, sizeof g);
  uint64_t fs = thread.slot().fs;
  regs_.rax = rax, regs_.rbx = g.rbx, regs_.rdx = g.rdx, regs_.rsi = g.rsi, regs_.rdi = g.rdi;
  regs_.rbp = g.rbp, regs_.rsp = g.rsp, regs_.r8 = g.r8, regs_.r9 = g.r9, regs_.r10 = g.r10;
  regs_.r12 = g.r12, regs_.r13 = g.r13, regs_.r14 = g.r14, regs_.r15 = g.r15;
  regs_.rip = g.rip, regs_.eflags = g.rflags;
  regs_.rcx = g.rip, regs_.r11 = g.rflags;
  regs_.cs = kUserCs, regs_.ss = kUserSs;
  regs_.fs_base = canonical(fs);
  regs_.gs_base = 0;
  regs_.orig_rax = rax;
  gate_ = gate_registers(regs_);
  gate_fs_ = regs_.fs_base;
  event_ = EventKind::kSyscall;
  syscall_arch_ = AUDIT_ARCH_X86_64;
  thread.at_gate = true;
  thread.has_frame = false;
}

void SystrapContext::read_event(StubThread& thread) {
  if (interrupt_requested_.load()) interrupt_requested_.store(false);
  if (thread.interrupt_flag.load()) thread.interrupt_flag.store(false);
  if ((thread.slot().calls.load() & CALLS_COUNT_MASK) == 0) call_count_ = 0;
  give_back_protects();
  uint32_t entry = thread.slot().entry;
  bool keep = fetching_ || entry == SLOT_ENTRY_GATE_BROKEN;
  if (entry == SLOT_ENTRY_GATE && !fetching_) {
    read_gate(thread);
    return;
  }
  if ((entry == SLOT_ENTRY_TRAP || entry == SLOT_ENTRY_GATE_BROKEN) && read_frame(thread, keep)) {
    if (keep) event_ = fetching_ ? EventKind::kFrame : EventKind::kInterrupt;
    fetching_ = false;
    return;
  }
  fetching_ = false;
  space_->process().kill("a stub thread's request makes no sense");
  event_ = EventKind::kDied;
}

}  // namespace caisson::systrap
