#include "syscalls/testing/scripted_platform.h"

#include <sys/mman.h>
#include <sys/syscall.h>

#include "syscalls/table.h"
#include "vfs/mount.h"

namespace caisson::testing {
namespace {

constexpr uint64_t kReturnTo = 0x30'0000;
constexpr uint64_t kScratchSize = 1 << 20;
constexpr uint64_t kStackTop = Guest::kMemory + kScratchSize;

class NoFile final : public ExecutableFile {
 public:
  uint64_t size() const override { return 0; }
  Result<size_t> pread(uint64_t, std::span<std::byte>) override { return size_t{0}; }
  Result<Ref<Mappable>> mappable() override { return Errno(ENODEV); }
};

}  // namespace

ScriptedContext::~ScriptedContext() {
  {
    std::lock_guard lock(mu_);
    ended_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

void ScriptedContext::attach(RefOrNull<platform::AddressSpace> space) {
  std::lock_guard lock(mu_);
  if (space) new_program_ = true;
}

void ScriptedContext::resume() {
  std::lock_guard lock(mu_);
  CHECK(!running_);
  running_ = true;
  has_vector_ = false;
  if (!thread_.joinable())
    thread_ = std::thread([this] { run(); });
  else
    changed_.notify_all();
}

void ScriptedContext::interrupt() {
  std::lock_guard lock(mu_);
  interrupted_ = true;
  changed_.notify_all();
}

void ScriptedContext::fetch_vector_state() {
  has_vector_ = true;
  event_ = platform::EventKind::kFrame;
  platform_.push(*this);
}

void ScriptedContext::read_vector_state(std::span<std::byte> out) const {
  CHECK(out.size() == vector_.size());
  std::copy(vector_.begin(), vector_.end(), out.begin());
}

void ScriptedContext::write_vector_state(std::span<const std::byte> in) {
  std::copy(in.begin(), in.end(), vector_.begin());
}

void ScriptedContext::post(platform::EventKind kind) {
  {
    std::lock_guard lock(mu_);
    running_ = false;
    event_ = kind;
  }
  platform_.push(*this);
}

void ScriptedContext::wait_until_resumed() {
  std::unique_lock lock(mu_);
  changed_.wait(lock, [this] { return running_ || ended_; });
  if (ended_ && !running_) throw Ended{};
  if (new_program_) throw NewProgram{};
}

void ScriptedContext::run() {
  Guest guest(*this, platform_);
  for (;;) {
    try {
      {
        std::unique_lock lock(mu_);
        changed_.wait(lock, [this] { return running_ || ended_; });
        if (!running_) return;
        new_program_ = false;
      }
      GuestCode* code = platform_.code_at(regs_.rip);
      CHECK(code != nullptr);
      GuestCode copy = *code;
      copy(guest);
      guest.exit_group(0);
    } catch (const Ended&) {
      return;
    } catch (const NewProgram&) {
    }
  }
}

platform::Context* ScriptedPlatform::next_event(int, const platform::WorkSource& source) {
  std::unique_lock lock(mu_);
  changed_.wait(lock, [&] { return !events_.empty() || source.has_work(); });
  if (events_.empty()) return nullptr;
  platform::Context* context = events_.front();
  events_.pop_front();
  return context;
}

void ScriptedPlatform::ring() {
  std::lock_guard lock(mu_);
  changed_.notify_all();
}

void ScriptedPlatform::push(platform::Context& context) {
  std::lock_guard lock(mu_);
  events_.push_back(&context);
  changed_.notify_all();
}

uint64_t ScriptedPlatform::add_code(GuestCode code) {
  std::lock_guard lock(mu_);
  code_.push_back(std::move(code));
  return kFirstCode + (code_.size() - 1) * kCodeStep;
}

GuestCode* ScriptedPlatform::code_at(uint64_t address) {
  std::lock_guard lock(mu_);
  if (address < kFirstCode || (address - kFirstCode) % kCodeStep != 0) return nullptr;
  size_t index = (address - kFirstCode) / kCodeStep;
  return index < code_.size() ? &code_[index] : nullptr;
}

void Guest::settle(uint64_t expected) {
  for (;;) {
    context_.wait_until_resumed();
    Registers& regs = context_.regs();
    if (regs.rip == expected) return;
    if (regs.rip == expected - 2) {  // the call begins again
      regs.orig_rax = regs.rax;
      regs.rip = expected;
      context_.post(platform::EventKind::kSyscall);
      continue;
    }
    GuestCode* handler = platform_.code_at(regs.rip);
    CHECK(handler != nullptr);
    Registers at_entry = regs;
    (*handler)(*this);
    context_.regs() = at_entry;
    context_.regs().rsp += 8;  // its `ret` takes the restorer's address
    context_.regs().orig_rax = context_.regs().rax = SYS_rt_sigreturn;
    context_.regs().rip = kReturnTo;
    context_.post(platform::EventKind::kSyscall);
  }
}

int64_t Guest::sys(int number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e,
                   uint64_t f) {
  Registers& regs = context_.regs();
  regs.rax = regs.orig_rax = static_cast<uint64_t>(number);
  regs.rdi = a;
  regs.rsi = b;
  regs.rdx = c;
  regs.r10 = d;
  regs.r8 = e;
  regs.r9 = f;
  // A different place each time tells nested calls (in handlers) from outer ones.
  static std::atomic<uint64_t> next{kReturnTo + 16};
  uint64_t expected = regs.rip = next.fetch_add(16) & ~0x8000'0000'0000ull;
  if (expected >= ScriptedPlatform::kFirstCode) expected = regs.rip = expected + 0x1'0000'0000;
  context_.post(platform::EventKind::kSyscall);
  settle(expected);
  return static_cast<int64_t>(context_.regs().rax);
}

int64_t Guest::clone(uint64_t flags, GuestCode code, uint64_t parent_tid, uint64_t child_tid) {
  Registers& regs = context_.regs();
  uint64_t address = platform_.add_code(std::move(code));
  regs.rax = regs.orig_rax = SYS_clone;
  regs.rdi = flags;
  // Threads need stacks of their own for signal frames.
  static std::atomic<uint64_t> threads{0};
  regs.rsi = (flags & CLONE_VM) != 0 ? kStackTop - 0x4000 * (1 + threads.fetch_add(1) % 16) : 0;
  regs.rdx = parent_tid;
  regs.r10 = child_tid;
  regs.r8 = 0;
  regs.rip = address;
  context_.post(platform::EventKind::kSyscall);
  settle(address);
  return static_cast<int64_t>(context_.regs().rax);
}

void Guest::exit_group(int status) {
  sys(SYS_exit_group, static_cast<uint64_t>(status));
  CHECK(false);
}

void Guest::exit(int status) {
  sys(SYS_exit, static_cast<uint64_t>(status));
  CHECK(false);
}

void Guest::spin() {
  {
    std::unique_lock lock(context_.mu_);
    context_.changed_.wait(lock, [this] { return context_.interrupted_ || context_.ended_; });
    context_.interrupted_ = false;
    context_.has_vector_ = true;
  }
  uint64_t here = context_.regs().rip = kReturnTo + 8;
  context_.post(platform::EventKind::kInterrupt);
  settle(here);
}

void Guest::fault(uint64_t address) {
  uint64_t here = context_.regs().rip = kReturnTo + 4;
  context_.fault_ = platform::Fault{SIGSEGV, 1, address, 14, 4};
  context_.post(platform::EventKind::kFault);
  settle(here);
}

int64_t Guest::set_action(int signo, uint64_t handler, uint64_t flags, uint64_t mask) {
  SigAction action{handler, flags | kSaRestorer, kReturnTo, mask};
  store(scratch() + 0x1800, action);
  return sys(SYS_rt_sigaction, static_cast<uint64_t>(signo), scratch() + 0x1800, 0, 8);
}

int64_t Guest::handle(int signo, GuestCode code, uint64_t flags, uint64_t mask) {
  return set_action(signo, platform_.add_code(std::move(code)), flags, mask);
}

KernelHarness::KernelHarness()
    : memory(make_memory_file(uint64_t{1} << 34)),
      events(MUST(host::EventLoop::create())),
      table(amd64_syscalls()) {
  MUST(events->start());
  KernelConfig config{.platform = platform,
                      .memory = *memory,
                      .events = *events,
                      .syscalls = table,
                      .observer = nullptr};
  kernel = MUST(Kernel::create(config));
}

KernelHarness::~KernelHarness() {
  kernel.reset();
  events->stop();
}

int KernelHarness::run(GuestCode program) {
  uint64_t entry = platform.add_code(std::move(program));
  Path root = make_anonymous_path("root", 040755);
  Ref<FsContext> fs = FsContext::create(MountNamespace::create(root.mount), root, root);
  Ref<MemoryManager> mm = MUST(MemoryManager::create(platform, *memory, MemoryLimits{}));
  MmapRequest request;
  request.addr = Guest::kMemory;
  request.length = kScratchSize;
  request.prot = PROT_READ | PROT_WRITE;
  request.flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
  MUST(mm->mmap(request));
  Ref<ExecutableFile> file = adopt_ref<ExecutableFile>(new NoFile());
  LoadedProgram loaded{mm, entry, kStackTop, file, "test"};
  Ref<Credentials> credentials = Credentials::root();
  ExecImage image{std::move(loaded), {credentials->data(), false, false}, "test", true};
  ProgramSpec spec{.path = "test",
                   .arguments = {},
                   .environment = {},
                   .credentials = credentials,
                   .files = FdTable::create(),
                   .fs = fs};
  MUST(kernel->start_image(std::move(image), std::move(spec)));
  kernel->start_workers();
  int status = kernel->wait_finished();
  kernel->shutdown();
  return status;
}

}  // namespace caisson::testing
