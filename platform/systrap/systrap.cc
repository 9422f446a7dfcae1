#include "platform/systrap/systrap.h"

#include <sched.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <algorithm>

#include "base/log.h"
#include "host/raw_syscall.h"
#include "platform/systrap/context.h"

namespace caisson::systrap {
namespace {

constexpr uint64_t kHwcap2Fsgsbase = 2;
constexpr size_t kPoolTarget = 2;  // empty stubs kept ready
constexpr size_t kPoolLimit = 32;  // used stubs kept for reuse

// A random place for the stub region: above every guest address and the gap, below the host's
// stack.
uint64_t random_stub_base() {
  uint64_t random = 0;
  if (getrandom(&random, sizeof random, 0) != sizeof random) return 0;
  constexpr uint64_t kLast = 0x7ff000000000;
  constexpr uint64_t kFirst = Systrap::kMaxUserAddress + STUB_GAP;
  constexpr uint64_t kSteps = (kLast - kFirst) / 0x100000;
  return kFirst + random % kSteps * 0x100000;
}

std::optional<platform::RseqSupport> host_rseq() {
  constexpr unsigned kAtRseqFeatureSize = 27, kAtRseqAlign = 28;
  auto refused = host::raw_syscall(SYS_rseq, static_cast<long>(RSEQ_NOWHERE), 0, 0, 0);
  if (refused.ok() || refused.error() == Errno(ENOSYS)) return std::nullopt;
  return platform::RseqSupport{static_cast<uint32_t>(getauxval(kAtRseqFeatureSize)),
                               static_cast<uint32_t>(getauxval(kAtRseqAlign))};
}

}  // namespace

Result<std::unique_ptr<Systrap>> Systrap::create(const Options& options) {
  if ((getauxval(AT_HWCAP2) & kHwcap2Fsgsbase) == 0) return Errno(ENOTSUP);
  signal(SIGCHLD, SIG_IGN);  // stubs are reaped by the host; their deaths are seen by pidfd
  std::unique_ptr<Systrap> systrap(new Systrap(TRY(VectorState::learn())));
  systrap->event_loop_ = options.event_loop;
  systrap->on_fatal_ = options.on_fatal;
  CPU_ZERO(&systrap->cpus_);
  if (sched_getaffinity(0, sizeof systrap->cpus_, &systrap->cpus_) < 0) return Errno(errno);
  systrap->nice_ = getpriority(PRIO_PROCESS, 0);
  systrap->stub_calls_ = options.stub_calls;
  if (options.stub_calls) systrap->rseq_ = host_rseq();
  systrap->stub_answers_ = options.stub_answers && options.stub_calls;

  constexpr int kTries = 16;
  for (int i = 0; i < kTries; ++i) {
    uint64_t base = random_stub_base();
    if (base == 0) return Errno(EIO);
    systrap->memory_ = TRY(SharedMemory::create(base, options.stub_calls));
    systrap->calls_ = TRY(CallPatches::create(base, options.patch_calls));
    systrap->workers_ = std::make_unique<Workers>(*systrap->memory_);
    auto zygote = Zygote::start(*systrap->memory_,
                                {options.memory_fd, options.memory_ro_fd, *systrap->calls_});
    if (!zygote.ok()) {
      if (zygote.error() == Errno(EEXIST) && i + 1 < kTries) continue;
      return zygote.error();
    }
    systrap->zygote_ = std::move(zygote).value().or_null();
    break;
  }
  Systrap* raw = systrap.get();
  TRY(systrap->zygote_->attach(*options.event_loop, [raw] { raw->fatal("the zygote died"); }));
  systrap->refill();
  return systrap;
}

Systrap::~Systrap() = default;

std::vector<seccomp::Rule> Systrap::syscall_filters() {
  return {
      {SYS_pidfd_open, "watch a new stub thread", {}},
      {SYS_pidfd_send_signal, "interrupt or end a stub thread", {}},
      {SYS_sendmsg, "commands to the zygote", {}},
      {SYS_recvfrom, "answers of the zygote", {}},
      {SYS_memfd_create, "acknowledgement file of a new stub", {}},
      {SYS_ftruncate, "acknowledgement file of a new stub", {}},
      {SYS_lseek, "a new stub thread's id", {}},
      {SYS_sched_yield, "a worker that polls for long", {}},
      {SYS_sched_setaffinity, "workers are pinned, guests pin themselves", {}},
      {SYS_setpriority, "guests' nice values", {}},
  };
}

void Systrap::refill() {
  int wanted = 0;
  {
    MutexLock lock(mu_);
    size_t have = pool_.size() + static_cast<size_t>(starting_);
    if (have < kPoolTarget) wanted = static_cast<int>(kPoolTarget - have);
    starting_ += wanted;
  }
  for (; wanted > 0; --wanted) {
    auto process = StubProcess::start(*this);
    MutexLock lock(mu_);
    --starting_;
    if (process.ok()) pool_.push_back(std::move(process).value());
  }
}

Result<Ref<platform::AddressSpace>> Systrap::new_address_space(uint64_t trust_domain) {
  RefOrNull<StubProcess> chosen;
  {
    MutexLock lock(mu_);
    // The last one given back first: its memory is warm.
    auto it = std::find_if(pool_.rbegin(), pool_.rend(), [&](const Ref<StubProcess>& candidate) {
      return candidate->is_for(trust_domain);
    });
    if (it != pool_.rend()) {
      chosen = it->or_null();
      pool_.erase(std::next(it).base());
    }
  }
  if (!chosen || chosen->dead()) chosen = TRY(StubProcess::start(*this)).or_null();
  chosen->reuse(trust_domain);
  refill();
  return Ref<platform::AddressSpace>(
      make_ref<SystrapAddressSpace>(Ref<StubProcess>::from(std::move(chosen))));
}

bool Systrap::give_back(Ref<StubProcess> process) {
  MutexLock lock(mu_);
  if (pool_.size() >= kPoolLimit) return false;
  pool_.push_back(std::move(process));
  return true;
}

Result<std::unique_ptr<platform::Context>> Systrap::new_context() {
  return std::unique_ptr<platform::Context>(std::make_unique<SystrapContext>(*this));
}

Result<Ref<platform::MappableFile>> Systrap::new_mappable_file(int host_fd) {
  uint32_t number = allocate_number();
  auto file = make_ref<SystrapFile>(*this, number);
  file->ref();
  SystrapFile* raw = file.get();
  zygote_->send(CommandKind::kInstall, number, 0, host_fd, [raw](int32_t result) {
    raw->installed(result == 0);
    raw->unref();
  });
  return Ref<platform::MappableFile>(std::move(file));
}

StubThread* Systrap::allocate_thread() {
  MutexLock lock(mu_);
  if (!free_threads_.empty()) {
    StubThread* thread = free_threads_.back();
    free_threads_.pop_back();
    return thread;
  }
  if (threads_.size() >= SLOT_COUNT) return nullptr;
  auto id = static_cast<uint32_t>(threads_.size());
  threads_.push_back(
      std::make_unique<StubThread>(id, memory_->slot(id), memory_->slot_address(id)));
  return threads_.back().get();
}

void Systrap::free_thread(StubThread& thread) {
  MutexLock lock(mu_);
  thread.process = nullptr;
  free_threads_.push_back(&thread);
}

uint32_t Systrap::allocate_index() {
  MutexLock lock(mu_);
  if (!free_indexes_.empty()) return free_indexes_.extract(free_indexes_.begin()).value();
  CHECK(next_index_ < kMaxStubs);
  return next_index_++;
}
void Systrap::free_index(uint32_t index) {
  MutexLock lock(mu_);
  free_indexes_.insert(index);
}
uint32_t Systrap::allocate_number() {
  MutexLock lock(mu_);
  if (!free_numbers_.empty()) return free_numbers_.extract(free_numbers_.begin()).value();
  return next_number_++;
}
void Systrap::free_number(uint32_t number) {
  MutexLock lock(mu_);
  free_numbers_.insert(number);
}

}  // namespace caisson::systrap
