#include "platform/systrap/context.h"

#include <linux/audit.h>
#include <linux/futex.h>
#include <linux/rseq.h>
#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstring>
#include <utility>

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

// A program's start, or what a fork's child does first.
constexpr uint32_t kYoungRequests = 100;

constexpr uint64_t kOtherFlags = 0x202;  // what a guest at the gate has besides arithmetic ones

CallRegisters call_registers(const Registers& r, uint64_t fs, uint64_t gs) {
  return {r.rbx, r.rdx, r.rsi, r.rdi, r.rbp, r.rsp,    r.r8, r.r9,
          r.r10, r.r12, r.r13, r.r14, r.r15, r.eflags, fs,   gs};
}

// A field of the host's struct sigcontext in the thread's frame, read once.
uint64_t frame_word(StubThread& thread, size_t field) {
  uint64_t word;
  memcpy(&word,
         reinterpret_cast<const std::byte*>(&thread.slot()) + thread.frame_offset +
             offsetof(HostUcontext, mcontext) + field,
         sizeof word);
  return word;
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
  if (has_vector_state())
    take_vector_state();
  else
    reset_vector_state();
  give_back_protects();
  call_count_ = 0;
  rseq_ = {};
  release_thread();
  is_fresh_ = true;
  RefOrNull<SystrapAddressSpace> old = std::move(space_);
  space_ = RefOrNull<SystrapAddressSpace>::adopt(static_cast<SystrapAddressSpace*>(space.leak()));
  if (!space_) return;
  if (StubThread* thread = space_->process().take_thread(*this)) thread_.store(thread);
}

void SystrapContext::leave_soon() {
  StubThread* thread = thread_.load();
  if (thread == nullptr || call_count_ != 0 || held.load()) return;
  if (thread->rseq.length != 0) space_->process().leave_soon(*thread);
  park();  // it has nothing to poll for
}

void SystrapContext::resume() {
  if (!space_) {
    post(EventKind::kDied);
    return;
  }
  StubProcess& process = space_->process();
  if (thread_.load() != nullptr && process.becomes_quiet()) {
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

bool SystrapContext::only_result_changed() const {
  constexpr size_t kWords = sizeof(Registers) / 8;
  constexpr size_t kRax = offsetof(Registers, rax) / 8,
                   kOrigRax = offsetof(Registers, orig_rax) / 8;
  auto* now = reinterpret_cast<const uint64_t*>(&regs_);
  auto* then = reinterpret_cast<const uint64_t*>(&call_regs_);
  uint64_t changed = 0;
  for (size_t i = 0; i < kRax; ++i) changed |= now[i] ^ then[i];
  for (size_t i = kRax + 1; i < kOrigRax; ++i) changed |= now[i] ^ then[i];
  for (size_t i = kOrigRax + 1; i < kWords; ++i) changed |= now[i] ^ then[i];
  return changed == 0;
}

// The gate does not restore rcx and r11: only what keeps to the rules of a call may go back through
// it.
void SystrapContext::write_gate(StubThread& thread) {
  Slot& slot = thread.slot();
  slot.rax = regs_.rax;
  // What is not written stays in the other CPU's cache.
  if (only_result_changed()) {
    slot.resume = SLOT_RESUME_BY_GATE;
    return;
  }
  uint64_t gs = regs_.gs_base == 0 ? thread.address() : canonical(regs_.gs_base);
  slot.rip = regs_.rip;
  slot.regs = call_registers(regs_, canonical(regs_.fs_base), gs);
  slot.regs.rflags = pack_arithmetic_flags(regs_.eflags);
  slot.resume = SLOT_RESUME_BY_GATE_BASES;
}

// Changes the host signal frame that the thread waits in, or lays one: for its first resume, or
// where it waits in the gate.
void SystrapContext::write_frame(StubThread& thread) {
  Slot& slot = thread.slot();
  auto* bytes = reinterpret_cast<std::byte*>(&slot);
  const VectorState& vector = systrap_.vector_state();
  // What the stub's own way does not do, or the CPU would refuse while it runs stub code.
  const bool by_host = thread.is_blocked || regs_.rip >= STUB_USER_END || regs_.cs == kUserCs32;
  const bool anew = by_host || !thread.has_frame;
  if (by_host && vector_at_ != VectorAt::kHere) take_vector_state();
  if (anew) {
    auto* frame = reinterpret_cast<HostUcontext*>(bytes + SLOT_LAID);
    memset(frame, 0, sizeof *frame);
    frame->flags = kUcFpXstate | kUcSigcontextSs | kUcStrictRestoreSs;
    frame->stack_sp = thread.address() + SLOT_STACK;
    frame->stack_size = SLOT_SIZE - SLOT_STACK;
    thread.frame_offset = SLOT_LAID;
    thread.has_frame = true;
    CHECK(vector_at_ == VectorAt::kHere);
  }
  auto* frame = reinterpret_cast<HostUcontext*>(bytes + thread.frame_offset);
  if (anew) frame->sigmask = 0;
  HostSigcontext& m = frame->mcontext;
  if (vector_at_ == VectorAt::kHere) {
    std::span<const std::byte> image = vector_;
    if (image.empty() && by_host) image = vector.initial();
    if (!image.empty()) memcpy(bytes + SLOT_LAID_VECTOR, image.data(), image.size());
    m.fpstate = image.empty() ? systrap_.memory().stub_base() + stub_header().initial_vector_state
                              : thread.address() + SLOT_LAID_VECTOR;
    vector_at_ = VectorAt::kLaid;
  }
  m.r8 = regs_.r8, m.r9 = regs_.r9, m.r10 = regs_.r10, m.r11 = regs_.r11;
  m.r12 = regs_.r12, m.r13 = regs_.r13, m.r14 = regs_.r14, m.r15 = regs_.r15;
  m.rdi = regs_.rdi, m.rsi = regs_.rsi, m.rbp = regs_.rbp, m.rbx = regs_.rbx;
  m.rdx = regs_.rdx, m.rax = regs_.rax, m.rcx = regs_.rcx, m.rsp = regs_.rsp;
  m.rip = regs_.rip;
  m.flags = regs_.eflags;
  m.cs = regs_.cs == kUserCs32 ? kUserCs32 : kUserCs;
  m.ss = kUserSs;
  m.gs = m.fs = 0;
  slot.resume_fs = canonical(regs_.fs_base);
  slot.resume_gs = regs_.gs_base == 0 ? thread.address() : canonical(regs_.gs_base);
  slot.resume_frame = thread.frame_offset;
  slot.resume = by_host ? SLOT_RESUME_BY_HOST : SLOT_RESUME_BY_FRAME;
  thread.is_blocked = thread.in_call = false;
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

// A new task's thread proves that an earlier guest has left nothing, in one way or the other.
void SystrapContext::add_rseq_calls(StubThread& thread) {
  if (thread.rseq == rseq_) {
    constexpr platform::RseqArea kNowhere{RSEQ_NOWHERE, 32, 0};
    if (is_fresh_ && rseq_.length == 0 && systrap_.rseq_support())
      add_call(rseq_call(kNowhere, 0, EFAULT));
    return;
  }
  if (thread.rseq.length != 0) add_call(rseq_call(thread.rseq, RSEQ_FLAG_UNREGISTER, EINVAL));
  if (rseq_.length != 0) add_call(rseq_call(rseq_, 0, EBUSY));
  thread.rseq = rseq_;
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
  if (!std::exchange(thread.is_placed, false) && thread.scheduling_id != scheduling_id_.load())
    apply_scheduling(thread);
  Ref<StubProcess> process(space_->process());
  Workers& workers = systrap_.workers();
  Slot& slot = thread.slot();
  if (slot.waiting.load(std::memory_order_relaxed) != 0)
    slot.waiting.store(0, std::memory_order_relaxed);
  add_rseq_calls(thread);
  for (uint32_t i = 0; i < call_count_; ++i) slot.call[i] = calls_[i];
  if (slot.calls.load(std::memory_order_relaxed) != call_count_) {
    // Somebody may wait for them already.
    uint32_t seen = slot.calls.exchange(call_count_);
    if ((seen & CALLS_AWAITED) != 0) slot.calls.fetch_or(CALLS_AWAITED);
  }
  if (fetching_) {
    slot.resume = SLOT_RESUME_SAVE;
  } else if (thread.at_gate && vector_at_ != VectorAt::kHere) {
    write_gate(thread);
    vector_at_ = VectorAt::kThread;
  } else if (thread.in_call && !thread.is_blocked && vector_at_ != VectorAt::kHere &&
             only_result_changed()) {
    slot.rax = regs_.rax;
    slot.resume = SLOT_RESUME_RESULT;
  } else {
    write_frame(thread);
  }
  thread.context = this;
  const bool begins = std::exchange(is_fresh_, false);
  if (begins) thread.young = kYoungRequests;
  workers.add_running(thread);
  // The old request must be out of the slot before a worker may take what it finds there for a new
  // one; a request that comes before the phase is set is seen by this worker's next look.
  uint32_t before = slot.state.exchange(wake ? SLOT_STATE_RUN : SLOT_STATE_PARKED);
  uint64_t word = thread.start_generation(Phase::kGuest);
  // From here on this context may be somebody else's; the thread and its process stay.
  if (begins || !wake || before != SLOT_STATE_REQUEST) Workers::lets_go(begins, !wake);
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

bool SystrapContext::place(const cpu_set_t& cpus) {
  StubThread& thread = *thread_.load();
  if (scheduling_id_.load() != 0) return false;
  if (!host::raw_syscall(SYS_sched_setaffinity, thread.tid, sizeof cpus, host::raw_arg(&cpus)).ok())
    return false;
  thread.scheduling_id = UINT64_MAX;
  thread.is_placed = true;
  return true;
}

void SystrapContext::apply_scheduling(StubThread& thread) {
  platform::Scheduling wanted{systrap_.cpus(), systrap_.nice()};
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
  return vector_at_ != VectorAt::kThread ||
         (thread != nullptr && thread->has_frame && !thread->at_gate);
}

void SystrapContext::fetch_vector_state() {
  fetching_ = true;
  resume();
}

// Precondition: has_vector_state().
void SystrapContext::take_vector_state() {
  if (vector_at_ == VectorAt::kThread) {
    std::vector<std::byte> image(systrap_.vector_state().size());
    read_vector_state(image);
    vector_ = std::move(image);
  }
  vector_at_ = VectorAt::kHere;
}

void SystrapContext::read_vector_state(std::span<std::byte> out) const {
  const VectorState& vector = systrap_.vector_state();
  CHECK(out.size() >= vector.size());
  if (vector_at_ != VectorAt::kThread) {
    std::span<const std::byte> image = vector_.empty() ? vector.initial() : std::span(vector_);
    memcpy(out.data(), image.data(), image.size());
    return;
  }
  const std::byte* state = vector_state_of(*thread_.load());
  if (state == nullptr) state = vector.initial().data();
  memcpy(out.data(), state, vector.size());
  vector.sanitize(out.first(vector.size()));
}

void SystrapContext::write_vector_state(std::span<const std::byte> in) {
  const VectorState& vector = systrap_.vector_state();
  CHECK(in.size() >= vector.size());
  vector_.assign(in.begin(), in.begin() + static_cast<long>(vector.size()));
  vector.sanitize(vector_);
  vector_at_ = VectorAt::kHere;
}

void SystrapContext::reset_vector_state() {
  vector_.clear();
  vector_at_ = VectorAt::kHere;
}

// The thread has saved it at SLOT_LAID_VECTOR, and flags that the gate does not pass.
void SystrapContext::read_saved_state(StubThread& thread) {
  constexpr uint64_t kSticky = kDirectionFlag | kNestedTaskFlag | kAlignmentFlag | kIdFlag;
  uint64_t sticky = thread.slot().flags & kSticky;
  for (Registers* regs : {&regs_, &call_regs_})
    regs->eflags = regs->r11 = (regs->eflags & ~kSticky) | sticky;
  const VectorState& vector = systrap_.vector_state();
  auto* state = reinterpret_cast<const std::byte*>(&thread.slot()) + SLOT_LAID_VECTOR;
  vector_.assign(state, state + vector.size());
  vector.sanitize(vector_);
  vector_at_ = VectorAt::kBoth;
}

uint64_t SystrapContext::cpu_time_ns() const {
  StubThread* thread = thread_.load();
  if (thread == nullptr) return 0;
  uint64_t now = thread->host_cpu_ns();
  return now > thread->cpu_base_ns ? now - thread->cpu_base_ns : 0;
}

bool SystrapContext::find_frame(StubThread& thread) const {
  uint32_t offset = thread.slot().frame;
  if (offset < SLOT_STACK || offset > SLOT_SIZE - sizeof(HostUcontext) || offset % 8 != 0)
    return false;
  thread.frame_offset = offset;
  thread.vector_offset = 0;
  thread.has_frame = true;
  thread.at_gate = thread.in_call = false;
  return true;
}

bool SystrapContext::find_vector_state(StubThread& thread) const {
  uint64_t offset = frame_word(thread, offsetof(HostSigcontext, fpstate)) - thread.address();
  if (offset < SLOT_STACK || offset > SLOT_SIZE - systrap_.vector_state().size() ||
      offset % 64 != 0)
    return false;
  thread.vector_offset = static_cast<uint32_t>(offset);
  return true;
}

// The XSAVE image of the frame that the thread waits in. Null, and the process ends, if the frame
// makes no sense.
std::byte* SystrapContext::vector_state_of(StubThread& thread) const {
  if (thread.vector_offset == 0 && !find_vector_state(thread)) {
    space_->process().kill("a stub thread's frame makes no sense");
    return nullptr;
  }
  return reinterpret_cast<std::byte*>(&thread.slot()) + thread.vector_offset;
}

// Where the guest believes to be that runs a patched call's code.
uint64_t SystrapContext::guest_address(uint64_t rip) const {
  return systrap_.calls().guest_address(rip, space_->process().images());
}

// The way back from the gate was interrupted: the registers are those that the thread was to have.
bool SystrapContext::read_broken(StubThread& thread) {
  const bool by_gate = thread.at_gate && vector_at_ == VectorAt::kThread;
  if (!find_frame(thread) || !find_vector_state(thread)) return false;
  if (by_gate) {
    // The flags that the gate leaves in the CPU.
    uint64_t flags = frame_word(thread, offsetof(HostSigcontext, flags));
    regs_.eflags = (regs_.eflags & kArithmeticFlags) | (flags & ~kArithmeticFlags);
  }
  return true;
}

bool SystrapContext::read_frame(StubThread& thread) {
  Slot& slot = thread.slot();
  auto* bytes = reinterpret_cast<const std::byte*>(&slot);
  if (!find_frame(thread) || !find_vector_state(thread)) return false;
  uint32_t info_offset = slot.info;
  if (info_offset < SLOT_STACK || info_offset > SLOT_SIZE - sizeof(HostSiginfo) ||
      info_offset % 8 != 0)
    return false;
  HostSigcontext m;
  memcpy(&m, bytes + thread.frame_offset + offsetof(HostUcontext, mcontext), sizeof m);
  HostSiginfo info;
  memcpy(&info, bytes + info_offset, sizeof info);

  regs_.r8 = m.r8, regs_.r9 = m.r9, regs_.r10 = m.r10, regs_.r11 = m.r11;
  regs_.r12 = m.r12, regs_.r13 = m.r13, regs_.r14 = m.r14, regs_.r15 = m.r15;
  regs_.rdi = m.rdi, regs_.rsi = m.rsi, regs_.rbp = m.rbp, regs_.rbx = m.rbx;
  regs_.rdx = m.rdx, regs_.rax = m.rax, regs_.rcx = m.rcx, regs_.rsp = m.rsp;
  regs_.rip = m.rip;
  regs_.eflags = m.flags;
  regs_.cs = m.cs == kUserCs32 ? kUserCs32 : kUserCs;
  regs_.ss = kUserSs;
  uint64_t fs = slot.regs.fs;
  uint64_t gs = slot.regs.gs;
  regs_.fs_base = canonical(fs);
  regs_.gs_base = gs == thread.address() ? 0 : canonical(gs);

  uint32_t signo = slot.signo;
  if (systrap_.calls().is_code(m.rip)) {
    if (signo == SIGILL) {
      // A patched call of a guest with a GS base of its own. The return address is in rcx.
      take_call(regs_.rcx);
      return true;
    }
    CallPatches::Step step = CallPatches::Step::kNone;
    if (signo == SIGTRAP)
      step = systrap_.calls().finish_step(m.rip, space_->process().images(), regs_);
    if (step == CallPatches::Step::kCall) {
      take_call(regs_.rip);
      return true;
    }
    if (step == CallPatches::Step::kNone) regs_.rip = guest_address(m.rip);
    info.address = regs_.rip;
  }
  switch (signo) {
    case SIGSYS:
      if (info.code != kSysSeccomp) return false;
      event_ = EventKind::kSyscall;
      syscall_arch_ = info.sys.arch;
      regs_.orig_rax = regs_.rax;
      is_trapped_ = true;
      return true;
    case SIGUSR1:
      thread.is_blocked = true;
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

bool SystrapContext::read_call(StubThread& thread, bool by_gate) {
  const Slot& slot = thread.slot();
  CallRegisters r;
  memcpy(&r, &slot.regs, sizeof r);
  uint64_t rax = slot.rax;
  uint64_t rip = slot.rip;
  if (by_gate) {
    thread.has_frame = thread.in_call = false;
  } else {
    if (!find_frame(thread)) return false;
    thread.in_call = true;
  }
  thread.at_gate = by_gate;
  regs_.rax = regs_.orig_rax = rax;
  regs_.rbx = r.rbx, regs_.rdx = r.rdx, regs_.rsi = r.rsi, regs_.rdi = r.rdi;
  regs_.rbp = r.rbp, regs_.rsp = r.rsp, regs_.r8 = r.r8, regs_.r9 = r.r9, regs_.r10 = r.r10;
  regs_.r12 = r.r12, regs_.r13 = r.r13, regs_.r14 = r.r14, regs_.r15 = r.r15;
  if (systrap_.calls().is_code(rip)) rip = guest_address(rip);
  regs_.rip = regs_.rcx = rip;
  regs_.eflags = regs_.r11 = by_gate ? unpack_arithmetic_flags(r.rflags) | kOtherFlags : r.rflags;
  regs_.cs = kUserCs, regs_.ss = kUserSs;
  regs_.fs_base = canonical(r.fs);
  regs_.gs_base = by_gate || r.gs == thread.address() ? 0 : canonical(r.gs);
  call_regs_ = regs_;
  event_ = EventKind::kSyscall;
  syscall_arch_ = AUDIT_ARCH_X86_64;
  is_trapped_ = !by_gate;
  return true;
}

void SystrapContext::read_event(StubThread& thread) {
  if (interrupt_requested_.load()) interrupt_requested_.store(false);
  if (thread.interrupt_flag.load()) thread.interrupt_flag.store(false);
  if ((thread.slot().calls.load() & CALLS_COUNT_MASK) == 0) call_count_ = 0;
  give_back_protects();
  uint32_t entry = thread.slot().entry;
  const bool broken = entry == SLOT_ENTRY_GATE_BROKEN || entry == SLOT_ENTRY_BROKEN;
  thread.is_blocked = broken;
  // An interrupt may have come before the thread loaded it: what its frame shows then is older.
  if (vector_at_ == VectorAt::kLaid) vector_at_ = broken ? VectorAt::kHere : VectorAt::kThread;
  bool ok = false;
  if (fetching_ && entry == SLOT_ENTRY_SAVED) {
    ok = thread.at_gate;
    if (ok) read_saved_state(thread);
    event_ = EventKind::kFrame;
  } else if (entry == SLOT_ENTRY_GATE_BROKEN) {
    ok = read_broken(thread);
    event_ = fetching_ ? EventKind::kFrame : EventKind::kInterrupt;
  } else if (entry == SLOT_ENTRY_BROKEN) {
    ok = thread.has_frame && !fetching_;
    event_ = EventKind::kInterrupt;
  } else if (fetching_) {
    ok = false;
  } else if (entry == SLOT_ENTRY_CALL || entry == SLOT_ENTRY_GATE) {
    ok = read_call(thread, entry == SLOT_ENTRY_GATE);
  } else if (entry == SLOT_ENTRY_TRAP) {
    ok = read_frame(thread);
  }
  fetching_ = false;
  if (ok) return;
  space_->process().kill("a stub thread's request makes no sense");
  event_ = EventKind::kDied;
}

}  // namespace caisson::systrap
