// Platform: the interface to what runs guest code. Nothing above this room knows which platform it
// is.
//
// A Platform makes AddressSpaces (one per guest address space) and Contexts (one per guest task).
// Kernel workers call next_event() to receive tasks that need the kernel. No call of this interface
// waits for guest code or for a stub: memory orders are queued, a resume that depends on them is
// held back by the platform, and what was freed may be used again only when the platform says so
// (AddressSpace::defer). Everything here may be called by any worker.
#pragma once

#include <linux/audit.h>
#include <sched.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "abi/registers.h"
#include "abi/user_ptr.h"
#include "base/ref.h"
#include "base/result.h"

namespace caisson::platform {

class AddressSpace;
class Context;

// Work to be done when all memory orders posted before it are acknowledged (or their stub process
// is gone).
class Deferred {
 public:
  virtual ~Deferred() = default;
  virtual void run() = 0;
};

// A host file that stubs can map, always read-only and shared. Dropping the last reference lets the
// platform close it when no order names it any more.
class MappableFile : public RefCounted<MappableFile> {
 public:
  virtual ~MappableFile() = default;
};

enum class Backing : uint8_t {
  kMemory,          // the guest memory file, writable: the guest may mprotect(2) it to anything
  kMemoryReadOnly,  // the guest memory file through a read-only descriptor: can never be opened for
                    // writing
  kFile,            // a MappableFile
  kPatched,         // a PatchedImage
};

struct MapOrder {
  GuestAddr addr = 0;   // multiple of kPageSize
  uint64_t length = 0;  // bytes, multiple of kPageSize
  int prot = 0;         // PROT_*
  Backing backing = Backing::kMemory;
  MappableFile* file = nullptr;  // for kFile; the address space takes a reference
  // In the memory file, the host file or among the patched images, multiple of kPageSize.
  uint64_t offset = 0;
  bool populate = false;  // MAP_POPULATE
  bool huge = false;      // the host may use huge pages
  // Tasks of the address space do not run before it is carried out. Otherwise they may find nothing
  // there for a moment, which is a fault like any other.
  bool is_awaited = true;
  // It was ordered before, and a task has found nothing there: may be carried out already.
  bool is_repeated = false;
};

// The platform's mapping target: one guest address space. Orders are carried out in the order in
// which they are posted and cannot fail for a correct caller; if the host refuses one, the platform
// reports kDied to every context in here.
class AddressSpace : public RefCounted<AddressSpace> {
 public:
  virtual ~AddressSpace() = default;
  // Replaces whatever was mapped in the range.
  virtual void map(const MapOrder& order) = 0;
  virtual void unmap(GuestAddr addr, uint64_t length) = 0;
  virtual void protect(GuestAddr addr, uint64_t length, int prot) = 0;
  // Tasks do not run before everything posted so far is carried out, awaited or not.
  virtual void await_orders() = 0;
  // Runs `work` once everything posted so far is acknowledged; on any worker, with no lock held.
  virtual void defer(std::unique_ptr<Deferred> work) = 0;
  // Private futex waits in the kernel, now more (1) or fewer (-1): while there are any, wake-ups
  // come to the kernel instead of being answered by the platform. Ordered before what the caller
  // reads next.
  virtual void count_private_waiters(int delta) = 0;
  // From now on every private futex call of this address space comes to the kernel. How many tasks
  // still wait without its knowledge; they have been interrupted and come with their call.
  virtual size_t recall_private_waiters() = 0;
  // Host mappings that the orders so far have left at most; the host's limit is vm.max_map_count.
  virtual size_t mapping_count() const = 0;
  // Says that the file of a PatchedImage has its first byte at `base`. False: it is somewhere else
  // already, and the image may not be mapped for this one.
  virtual bool claim_image(uint32_t /*image*/, uint64_t /*base*/) { return false; }
};

enum class EventKind : uint8_t {
  kSyscall,    // regs().orig_rax and arguments; rip is after the instruction
  kFault,      // a synchronous exception: see fault()
  kInterrupt,  // answer to Context::interrupt(), possibly late or spurious
  kFrame,      // answer to fetch_vector_state()
  kDied,       // the stub is gone or broke its protocol: end the guest process
};

struct Fault {
  int signo = 0;        // SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP
  int code = 0;         // si_code
  uint64_t addr = 0;    // si_addr
  uint64_t trapno = 0;  // as in ucontext's REG_TRAPNO
  uint64_t error_code =
      0;  // as in ucontext's REG_ERR: for page faults bit 1 is a write, bit 4 an instruction fetch
};

// Where, and how eagerly, the host runs a task's thread.
struct Scheduling {
  cpu_set_t cpus;
  int nice = 0;
};

// rseq(2): where a task's host thread keeps the struct rseq up to date; length 0: nowhere.
struct RseqArea {
  GuestAddr addr = 0;
  uint32_t length = 0;
  uint32_t signature = 0;
  bool operator==(const RseqArea&) const = default;
};
// AT_RSEQ_FEATURE_SIZE and AT_RSEQ_ALIGN; 0 where the host knows rseq(2) but not these.
struct RseqSupport {
  uint32_t feature_size = 0;
  uint32_t alignment = 0;
};

// One guest task's execution state. The kernel owns it except between resume() and the event that
// follows.
class Context {
 public:
  virtual ~Context() = default;

  // The kernel's Task; set once before start.
  void set_owner(void* owner) { owner_ = owner; }
  void* owner() const { return owner_; }

  Registers& regs() { return regs_; }
  const Registers& regs() const { return regs_; }
  EventKind event() const { return event_; }
  const Fault& fault() const { return fault_; }
  // Whether a kSyscall event came by a trap and not by a patched call site.
  bool is_trapped() const { return is_trapped_; }
  // A fault turned out to be the call in rax, which returns to `next`: the event becomes a kSyscall
  // event, and the registers those that a `syscall` instruction leaves.
  void take_call(GuestAddr next) {
    event_ = EventKind::kSyscall;
    syscall_arch_ = AUDIT_ARCH_X86_64;
    is_trapped_ = false;
    regs_.orig_rax = regs_.rax;
    regs_.rip = regs_.rcx = next;
    regs_.eflags &= ~kResumeFlag;
    regs_.r11 = regs_.eflags;
  }
  // AUDIT_ARCH_* of a kSyscall event; anything but AUDIT_ARCH_X86_64 came by int 0x80.
  uint32_t syscall_arch() const { return syscall_arch_; }

  // Moves the task into `space` (fork, clone: before the first resume; exec: between events). A
  // null space gives the stub thread back: the task ends or is between address spaces.
  virtual void attach(RefOrNull<AddressSpace> space) = 0;
  // The task, which the kernel has, will not be resumed before the next attach(). Only a hint.
  virtual void leave_soon() {}
  // Hands the task to its stub thread as soon as its address space has carried out what was posted.
  virtual void resume() = 0;
  // Says that the task's call will not be answered soon: its stub thread stops polling. Only a
  // hint.
  virtual void park() {}
  // On its way back to the guest the task wakes at most `count` waiters that match `mask` and wait
  // for the private futex `word` without the kernel's knowledge; regs().rax grows by their number.
  virtual void wake_private(GuestAddr, int /*count*/, uint32_t /*mask*/) {}
  // Whether the task, which is in the guest, waits there for a private futex. Only a hint.
  virtual bool is_waiting() const { return false; }
  // Makes the task come back soon with an event (kInterrupt unless another comes first). Sticky:
  // one that races with resume() and comes just before it makes that resume() come back. Otherwise
  // harmless when the task is not in the guest. If it does not come back by the platform's
  // deadline, the event is kDied.
  virtual void interrupt() = 0;
  // Forces the end of a task that is in the guest without waiting for its cooperation; kDied
  // follows.
  virtual void kill() = 0;

  // Vector and x87 state in the XSAVE layout of a signal frame (Linux: struct _fpstate),
  // vector_state_size() bytes. It is at hand after kFault, kInterrupt, kFrame and trapped system
  // calls; otherwise fetch it: the task is then in the guest until a kFrame (or kDied) event comes.
  virtual bool has_vector_state() const = 0;
  virtual void fetch_vector_state() = 0;
  virtual void read_vector_state(std::span<std::byte> out) const = 0;
  // Untrusted input is allowed: the platform makes it loadable. Works before the first resume too.
  virtual void write_vector_state(std::span<const std::byte> in) = 0;
  // The state that exec(2) starts with.
  virtual void reset_vector_state() = 0;

  // Takes effect at the next resume(). What the host refuses (less nice than before) stays as it
  // is. From any thread.
  virtual void set_scheduling(const Scheduling& scheduling) = 0;

  // From the next resume() on, which then ends the stub if the host refuses. attach() ends it.
  virtual void set_rseq(const RseqArea&) {}

  // Host thread CPU time that this task has used, in nanoseconds.
  virtual uint64_t cpu_time_ns() const = 0;

 protected:
  Registers regs_{};
  Fault fault_{};
  EventKind event_ = EventKind::kSyscall;
  uint32_t syscall_arch_ = 0;
  bool is_trapped_ = false;
  void* owner_ = nullptr;
};

// A copy of a file's text whose system calls reach the kernel without a trap: the first kPatchSize
// bytes of certain sequences of instructions are replaced by a jump. Where such text may be, and
// what may be replaced, is for the caller to know. Lives as long as the platform.
enum class CallShape : uint8_t {
  kMov,      // mov $number, %eax; syscall
  kMovWide,  // mov $number, %rax; syscall: 9 bytes. The `syscall` stays.
  // syscall; cmp $value, %rax: 8 bytes, whatever the number is. The last stays and is skipped.
  kCompare,
};
inline constexpr size_t kPatchSize = 7;
// Where things are in the sequence, from its first byte on.
struct CallLayout {
  uint8_t call;   // `syscall`
  uint8_t after;  // where it returns to
  uint8_t end;    // of the sequence
};
constexpr CallLayout layout_of(CallShape shape) {
  switch (shape) {
    case CallShape::kMov:
      return {5, 7, 7};
    case CallShape::kMovWide:
      return {7, 9, 9};
    case CallShape::kCompare:
      return {0, 2, 8};
  }
  return {};
}
struct PatchedImage {
  uint32_t id = 0;
  uint64_t offset = 0;         // for MapOrder::offset
  std::span<std::byte> bytes;  // whole pages, to be filled before the image is mapped
};

// What a worker asks before it goes to sleep, so that no work is missed. Called often: must be
// cheap and lock-free.
class WorkSource {
 public:
  virtual ~WorkSource() = default;
  virtual bool has_work() const = 0;
};

class Platform {
 public:
  virtual ~Platform() = default;

  virtual uint64_t map_unit()
      const = 0;  // granularity that mappings should be aligned to for speed; 0 if none
  virtual GuestAddr min_user_address() const = 0;  // lowest address that guests may map
  virtual GuestAddr max_user_address() const = 0;  // first address that guests may not use
  virtual bool cooperatively_schedules_address_space() const = 0;
  virtual bool supports_address_space_io() const = 0;
  virtual bool detects_cpu_preemption() const = 0;
  virtual bool has_host_global_memory_barrier() const = 0;
  virtual bool owns_page_tables() const = 0;

  // Stub threads pass on only between address spaces of the same trust domain (a number for the
  // credentials).
  virtual Result<Ref<AddressSpace>> new_address_space(uint64_t trust_domain) = 0;
  virtual Result<std::unique_ptr<Context>> new_context() = 0;
  // Duplicates `host_fd` (opened for reading) into the stubs' descriptor table.
  virtual Result<Ref<MappableFile>> new_mappable_file(int host_fd) = 0;
  virtual size_t vector_state_size() const = 0;
  // Address of the vDSO image that every address space holds above max_user_address(), for
  // AT_SYSINFO_EHDR; 0 if none.
  virtual GuestAddr vdso_address() const = 0;

  // None: tasks can't have a struct rseq.
  virtual std::optional<RseqSupport> rseq_support() const { return std::nullopt; }

  // `length` is a multiple of the page size. ENOSYS: this platform does not patch; ENOSPC: no room
  // for more.
  virtual Result<PatchedImage> new_patched_image(uint64_t /*length*/) { return Errno(ENOSYS); }
  // The bytes that replace a call in `image`, `offset` bytes into its file. `value`: the number;
  // for kCompare what the result is compared with, sign-extended. ENOTSUP: it stays as it is.
  virtual Result<std::array<std::byte, kPatchSize>> new_patched_call(const PatchedImage& /*image*/,
                                                                     CallShape /*shape*/,
                                                                     uint32_t /*value*/,
                                                                     uint64_t /*offset*/) {
    return Errno(ENOSYS);
  }

  // Number of workers that the kernel shall start; worker i calls bind_worker(i) first, which pins
  // it to its CPU.
  virtual int worker_count() const = 0;
  virtual void bind_worker(int worker) = 0;
  // Waits for a context with an event; returns nullptr when `source` has work instead. Polls or
  // sleeps as it pays.
  virtual Context* next_event(int worker, const WorkSource& source) = 0;
  // Kernel work was added: makes a sleeping worker return from next_event(). From any thread.
  virtual void ring() = 0;
};

}  // namespace caisson::platform
