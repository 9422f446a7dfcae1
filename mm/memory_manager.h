// MemoryManager: one guest address space. Linux: struct mm_struct.
//
// Shared by the tasks of a process and by CLONE_VM and vfork children (Ref). Owns the platform's
// AddressSpace, the vmas and pmas and through them the guest's memory. The kernel reads and writes
// guest memory through its own mapping of the memory file, never through the stub. Nothing here
// waits for a stub: changes are posted as orders, and memory is given back when the platform says
// that no stub can reach it any more. Guests may unmap or protect their own memory behind our back:
// only these structures count, a fault puts the stub's mapping right.
//
// Locks: mappings_ (rank kMmMappings), shared for copies, exclusive for changes. All methods may be
// called by any worker and take addresses and lengths straight from the guest.
#pragma once

#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "abi/user_ptr.h"
#include "base/ref.h"
#include "base/result.h"
#include "base/shared_mutex.h"
#include "mm/futex_key.h"
#include "mm/mappable.h"
#include "mm/memory_file.h"
#include "mm/vma.h"
#include "platform/platform.h"

namespace caisson {

inline constexpr uint64_t kNoLimit = ~uint64_t{0};

// Tuned: docs/design.md has the figures.
inline constexpr uint64_t kForkCopyLimit = 1024 * 1024;

// The rlimits that memory calls obey. RLIM_INFINITY is kNoLimit.
struct MemoryLimits {
  uint64_t address_space = kNoLimit;  // RLIMIT_AS
  uint64_t data = kNoLimit;           // RLIMIT_DATA
  uint64_t stack = 8 * 1024 * 1024;   // RLIMIT_STACK
  uint64_t locked = 8 * 1024 * 1024;  // RLIMIT_MEMLOCK
};

// Who maps: for files' patched text (kVmaPatchable).
enum class MmapOrigin : uint8_t {
  kCall,  // mmap(2); `caller` tells more
  kExecProgram,
  kExecInterpreter,
};

struct MmapRequest {
  GuestAddr addr = 0;
  uint64_t length = 0;
  int prot = 0;
  int flags = 0;              // MAP_*
  RefOrNull<Mappable> file;   // null with MAP_ANONYMOUS
  uint64_t offset = 0;        // bytes
  bool file_readable = true;  // how the descriptor was opened
  bool file_writable = false;
  bool no_exec = false;          // the file is on a noexec mount
  bool may_lock = false;         // CAP_IPC_LOCK
  bool file_is_written = false;  // somebody has it open for writing
  MmapOrigin origin = MmapOrigin::kCall;
  GuestAddr caller = 0;  // where the call returns to
};

// How far a copy came. error is 0 when all of it was done.
struct [[nodiscard]] CopyResult {
  size_t done = 0;
  Errno error{0};
  bool ok() const { return error.value() == 0; }
  Result<void> result() const {
    if (!ok()) return error;
    return {};
  }
};

enum class Access : uint8_t { kRead, kWrite, kExecute };

// What to do about a fault of a guest task.
struct FaultOutcome {
  enum class Kind : uint8_t {
    kHandled,      // resume the task
    kSignal,       // send `signo` with `code` and the fault's address
    kOutOfMemory,  // the memory limit is reached: someone must be killed
  };
  Kind kind = Kind::kHandled;
  int signo = 0;
  int code = 0;
};

// By what holds them: private pages, shared ones of the memory file, the host's page cache.
struct ResidentBytes {
  uint64_t own = 0;
  uint64_t shared = 0;
  uint64_t host_file = 0;
  uint64_t all() const { return own + shared + host_file; }
};

// Bytes, for /proc/PID/status and statm.
struct MemoryUse {
  uint64_t total = 0;
  uint64_t peak_total = 0;
  uint64_t resident = 0;
  uint64_t peak_resident = 0;
  uint64_t guest_memory = 0;  // resident, without the host's page cache
  uint64_t data = 0;
  uint64_t stack = 0;
  uint64_t text = 0;
  uint64_t library = 0;
  uint64_t locked = 0;
  uint64_t shared = 0;
};

// Where exec put the program: /proc/PID/stat, cmdline, environ, auxv.
struct ProgramLayout {
  GuestAddr code_start = 0, code_end = 0;
  GuestAddr data_start = 0, data_end = 0;
  GuestAddr brk_start = 0;
  GuestAddr stack_start = 0;
  GuestAddr arguments_start = 0, arguments_end = 0;
  GuestAddr environment_start = 0, environment_end = 0;
  std::vector<uint64_t> auxv;  // type, value pairs with AT_NULL
};

class MemoryManager final : public RefCounted<MemoryManager> {
 public:
  // `trust_domain`: see Platform::new_address_space(); a fork stays in it.
  // Reads the host's limits and installs the fault guards: once, while /proc can still be read.
  static void prepare_process();
  static Result<Ref<MemoryManager>> create(platform::Platform& platform, MemoryFile& memory,
                                           const MemoryLimits& limits, uint64_t trust_domain = 0,
                                           bool randomize = true);
  // fork(2): a copy in an address space of its own. Its tasks may run when run_when_settled() says
  // so: some of its memory may still be written by this one. `stack` is where the caller writes.
  Result<Ref<MemoryManager>> fork(GuestAddr stack = 0);
  void run_when_settled(std::unique_ptr<platform::Deferred> work);
  // Bytes of private memory that a fork copies at most; a larger process shares its memory.
  void set_fork_copy_limit(uint64_t bytes);
  ~MemoryManager();

  platform::AddressSpace& address_space() const { return *space_; }
  MemoryFile& memory_file() const { return memory_; }
  void set_limits(const MemoryLimits& limits);

  // --- Copies. Each checks the guest's protection; EFAULT after partial progress as Linux.
  CopyResult copy_in(void* to, GuestAddr from, size_t length);
  CopyResult copy_out(GuestAddr to, const void* from, size_t length);
  CopyResult zero_out(GuestAddr to, size_t length);
  // All of the range is about to be written by copies: where a touch would bring huge pages, they
  // come now, many at once.
  void expect_copy_out(GuestAddr to, uint64_t length);

  // From now on the stub can always write [addr, addr + length), as far as the guest allows: the
  // host does so for rseq(2), and takes no for an answer. EFAULT: the guest does not allow it;
  // EAGAIN: a fork is not settled.
  Result<void> keep_writable(GuestAddr addr, uint64_t length);
  void stop_keeping_writable(GuestAddr addr);
  // Whether the guest still allows it for all such memory.
  bool kept_is_writable() const;
  // As a debugger (ptrace, /proc/PID/mem): ignores protection, copies private pages when it writes.
  CopyResult copy_in_forced(void* to, GuestAddr from, size_t length);
  CopyResult copy_out_forced(GuestAddr to, const void* from, size_t length);
  // A string of at most `max` bytes with its NUL; ENAMETOOLONG if there is no NUL within them.
  Result<std::string> copy_in_string(GuestAddr from, size_t max);
  Result<std::string> copy_in_string(UserCString from, size_t max) {
    return copy_in_string(from.addr(), max);
  }
  template <typename T>
  Result<T> copy_in(UserIn<T> from) {
    return copy_in_value<T>(from.addr());
  }
  template <typename T>
  Result<T> copy_in(UserInOut<T> from) {
    return copy_in_value<T>(from.addr());
  }
  template <typename T>
  Result<void> copy_out(UserOut<T> to, const T& value) {
    return copy_out(to.addr(), &value, sizeof(T)).result();
  }
  template <typename T>
  Result<void> copy_out(UserInOut<T> to, const T& value) {
    return copy_out(to.addr(), &value, sizeof(T)).result();
  }

  // --- Futex words. `addr` must be a multiple of 4 (callers give EINVAL before).
  Result<uint32_t> load_u32(GuestAddr addr);
  // What was there before; the exchange happened if that equals `expected`.
  Result<uint32_t> compare_exchange_u32(GuestAddr addr, uint32_t expected, uint32_t desired);
  // `shared` is false for FUTEX_PRIVATE_FLAG. EFAULT if nothing readable is mapped.
  Result<FutexKey> futex_key(GuestAddr addr, bool shared);

  // --- System calls. Errors are Linux's.
  Result<GuestAddr> mmap(const MmapRequest& request);
  Result<void> munmap(GuestAddr addr, uint64_t length);
  // shmdt(2): unmaps what is left of the attachment at `addr`; its file. EINVAL: there is none.
  Result<Ref<Mappable>> detach(GuestAddr addr);
  // `read_implies_exec`: what becomes readable becomes executable too, where it may.
  Result<void> mprotect(GuestAddr addr, uint64_t length, int prot, bool read_implies_exec = false);
  Result<GuestAddr> mremap(GuestAddr old_addr, uint64_t old_length, uint64_t new_length, int flags,
                           GuestAddr new_addr);
  Result<void> madvise(GuestAddr addr, uint64_t length, int advice);
  // The new break, or the old one when it can't be moved.
  GuestAddr brk(GuestAddr addr, bool executable = false);
  Result<void> msync(GuestAddr addr, uint64_t length, int flags);
  // Writes one byte a page to `vector`, bit 0: resident.
  Result<void> mincore(GuestAddr addr, uint64_t length, GuestAddr vector);
  Result<void> mlock(GuestAddr addr, uint64_t length, bool on_fault, bool may_lock);
  Result<void> munlock(GuestAddr addr, uint64_t length);
  Result<void> mlockall(int flags, bool may_lock);
  Result<void> munlockall();
  // prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME).
  Result<void> set_anonymous_name(GuestAddr addr, uint64_t length, std::string name);

  // A synchronous fault of a guest task. `host_signo` is the signal that the host gave the stub
  // (SIGSEGV or SIGBUS).
  FaultOutcome handle_fault(GuestAddr addr, Access access, int host_signo);

  // --- Patched system calls (kernel/call_patcher.h).
  struct HostText {
    Ref<Mappable> file;
    uint64_t offset = 0;      // in the file
    bool is_patched = false;  // what is mapped is the file's patched text
  };
  // What lies at `addr`, if it is a private mapping of a host file.
  std::optional<HostText> host_text_at(GuestAddr addr) const;
  // If the patched text of `file` can be mapped at `addr`: maps it wherever the file's own is
  // mapped for execution.
  void map_text_again(const Mappable& file, GuestAddr addr);
  // What the guest wants whose instruction at `addr` faults, if a patch has made it so.
  struct PatchedPlace {
    enum class Kind : uint8_t {
      kNone,
      kCall,     // the `syscall` instruction; its return address is `next`
      kCompare,  // `cmp $compared, %rax`, which ends at `next`
    };
    Kind kind = Kind::kNone;
    GuestAddr next = 0;
    int32_t compared = 0;
  };
  PatchedPlace patched_place(GuestAddr addr) const;

  // Called by the file (MappingRegistry::drop_pages), with locks of the file held.
  void drop_file_pages(const Mappable& file, uint64_t offset, uint64_t end, bool copies);

  // Gives back the pages that are kept although the guest has unmapped them.
  void drop_parked_pages();
  uint64_t parked_bytes() const;

  // --- exec. The loader maps segments with mmap().
  // Where a position-independent program goes: below two thirds of the address space, as Linux.
  GuestAddr random_program_base();
  void set_brk_start(GuestAddr addr);
  void map_heap_ahead();
  void map_libraries_ahead(GuestAddr interpreter);
  // Makes the stack and returns its end (the first address above it).
  Result<GuestAddr> make_stack(bool executable);
  void set_program(ProgramLayout layout);
  ProgramLayout program() const;

  // --- /proc.
  std::string maps_text() const;
  std::string smaps_text() const;
  std::string smaps_rollup_text() const;
  // /proc/PID/pagemap, an entry a page.
  void read_pagemap(GuestAddr start, std::span<uint64_t> entries);
  MemoryUse usage() const;
  // In bytes. Counts what is resident, unless that was done in the last `max_age_ns`.
  uint64_t peak_resident(uint64_t max_age_ns) const;
  bool is_mapped(GuestAddr addr) const;
  // How much from `addr` on, at most `length`, is in mappings with PROT_READ. A copy asks only what
  // the processor does, which reads what is mapped for writing or execution alone.
  uint64_t readable_length(GuestAddr addr, uint64_t length) const;

  // Linux's access_ok(): does the range lie among guest addresses at all?
  bool is_guest_range(GuestAddr addr, uint64_t length) const {
    return length <= max_addr_ && addr <= max_addr_ - length;
  }

 private:
  template <typename T>
  Result<T> copy_in_value(GuestAddr from) {
    static_assert(std::is_trivially_copyable_v<T>);
    alignas(T) std::byte bytes[sizeof(T)];
    CopyResult copied = copy_in(bytes, from, sizeof(T));
    if (!copied.ok()) return copied.error;
    return __builtin_bit_cast(T, bytes);
  }

  // What a change leaves behind; declared before the lock is taken, so that files are let go after
  // it. Memory is released when the platform has acknowledged the orders.
  struct Garbage {
    explicit Garbage(MemoryManager& mm) : mm(mm) {}
    ~Garbage();
    Garbage(const Garbage&) = delete;
    Garbage& operator=(const Garbage&) = delete;
    MemoryManager& mm;
    std::vector<MemoryRange> ranges;
    std::vector<RefOrNull<Mappable>> files;
  };
  // A private copy of file pages, made without the lock, for [start, end).
  struct PreparedCopy {
    GuestAddr start = 0;
    GuestAddr end = 0;
    RefOrNull<Mappable> file;
    uint64_t offset = 0;
    MemoryRange range;
  };

  MemoryManager(platform::Platform& platform, MemoryFile& memory, Ref<platform::AddressSpace> space,
                uint64_t trust_domain);

  // memory_layout.cc
  void choose_layout(bool randomize);
  Result<GuestAddr> find_free_locked(GuestAddr hint, uint64_t length, int flags, uint64_t alignment)
      REQUIRES(mappings_);
  bool is_free_locked(GuestAddr start, uint64_t length) const REQUIRES(mappings_);
  void forget_gaps_locked() REQUIRES(mappings_) { search_tops_.fill(mmap_base_); }
  void note_gap_locked(GuestAddr start, GuestAddr end) REQUIRES(mappings_);
  GuestAddr top_gap_locked(GuestAddr low, uint64_t length, uint64_t alignment) REQUIRES(mappings_);
  GuestAddr bottom_gap_locked(GuestAddr low, GuestAddr high, uint64_t length) REQUIRES(mappings_);

  // memory_manager.cc
  void account_locked(const Vma& vma, bool add) REQUIRES(mappings_);
  VmaSet::iterator insert_vma_locked(Vma vma) REQUIRES(mappings_);
  VmaSet::iterator merge_vma_locked(VmaSet::iterator it) REQUIRES(mappings_);
  void merge_vmas_locked(GuestAddr start, GuestAddr end) REQUIRES(mappings_);
  void remove_locked(GuestAddr start, GuestAddr end, Garbage& garbage) REQUIRES(mappings_);
  enum class Unmap : uint8_t {
    kNoOrder,  // something else is mapped there at once
    kOrder,
    kPark,  // if it suits; the caller's task alone waits for that
  };
  void drop_pmas_locked(GuestAddr start, GuestAddr end, Garbage& garbage, Unmap unmap)
      REQUIRES(mappings_);
  PmaSet::iterator insert_pma_locked(const Pma& pma) REQUIRES(mappings_);
  // Orders the mapping, and notes in `pma` what became of it.
  // Whether the guest goes on only when it is mapped; otherwise a touch waits for that. For where
  // nothing was accessible before.
  enum class Wait : uint8_t { kNow, kAtTouch };
  void post_map_locked(const Vma& vma, Pma& pma, Wait wait, bool is_repeated = false)
      REQUIRES(mappings_);
  void post_map_locked(const Vma& vma, Pma& pma) REQUIRES(mappings_) {
    post_map_locked(vma, pma, Wait::kNow);
  }
  const PatchedText* claim_text_locked(const Vma& vma, const Pma& pma) const
      REQUIRES_SHARED(mappings_);
  bool wants_huge_locked(const Vma& vma, const Pma& pma) const REQUIRES_SHARED(mappings_);
  bool fits_limits_locked(uint64_t added, bool is_data) const REQUIRES(mappings_);
  bool near_mapping_limit() const REQUIRES_SHARED(mappings_);
  uint64_t locked_bytes_locked(GuestAddr start, GuestAddr end) const REQUIRES(mappings_);

  // memory_fork.cc
  struct ForkPart;
  class ForkSettled;
  // The stub may still write memory that is shared: the fork's child has not begun.
  bool is_unsettled_locked(const Pma& pma) const REQUIRES_SHARED(mappings_) {
    return pma.is_cow() && pma.shared_by > forks_settled_;
  }
  Result<void> copy_for_fork_locked(MemoryManager& child, const Vma& vma, const Pma& pma,
                                    std::span<const MemoryRange> data)
      REQUIRES(mappings_, child.mappings_);
  void share_for_fork_locked(MemoryManager& child, const Vma& vma, GuestAddr start, GuestAddr end)
      REQUIRES(mappings_, child.mappings_);
  Result<void> split_for_fork_locked(MemoryManager& child, const Vma& vma, const Pma& pma,
                                     std::span<const MemoryRange> data, GuestAddr stack)
      REQUIRES(mappings_, child.mappings_);
  std::vector<std::pair<GuestAddr, GuestAddr>> own_at_fork_locked(const Pma& pma,
                                                                  GuestAddr stack) const
      REQUIRES_SHARED(mappings_);
  Result<void> break_cow_locked(const Vma& vma, GuestAddr addr, Garbage& garbage)
      REQUIRES(mappings_);
  void give_back_spare_locked(Pma& pma) REQUIRES(mappings_);
  void replace_broken_locked(PmaSet::iterator it, const Vma& vma, uint64_t offset)
      REQUIRES(mappings_);
  void settle_fork();

  // memory_map.cc, memory_protect.cc, memory_remap.cc
  bool is_patchable_locked(const MmapRequest& request) const REQUIRES_SHARED(mappings_);
  void populate_locked(GuestAddr start, GuestAddr end) REQUIRES(mappings_);
  Result<void> protect_locked(GuestAddr addr, GuestAddr end, int prot, int implied, int grows)
      REQUIRES(mappings_);
  Result<void> protect_vma_locked(VmaSet::iterator it, GuestAddr addr, GuestAddr stop, int prot)
      REQUIRES(mappings_);
  Result<GuestAddr> move_all_locked(GuestAddr old_addr, uint64_t length, int flags,
                                    GuestAddr new_addr, Garbage& garbage) REQUIRES(mappings_);
  Result<GuestAddr> remap_locked(GuestAddr old_addr, uint64_t old_length, uint64_t new_length,
                                 int flags, GuestAddr new_addr, Garbage& garbage)
      REQUIRES(mappings_);
  Result<void> move_locked(GuestAddr old_addr, uint64_t old_length, GuestAddr new_addr,
                           uint64_t new_length, bool keep_old, Garbage& garbage)
      REQUIRES(mappings_);

  // memory_backing.cc
  Result<MemoryRange> allocate_private_locked(GuestAddr start, uint64_t length,
                                              bool* is_warm = nullptr) REQUIRES(mappings_);
  Result<void> back_locked(const Vma& vma, GuestAddr start, GuestAddr end, Wait wait)
      REQUIRES(mappings_);
  Result<void> back_run_locked(const Vma& vma, GuestAddr start, GuestAddr end, Wait wait)
      REQUIRES(mappings_);
  // Nothing stands behind what private mappings and host files show until it is touched: a program
  // maps its libraries segment by segment, and each would wait for the mapper.
  static bool is_backed_at_touch(const Vma& vma);
  // Whether private pages of `vma`, `length` bytes, are copied when the first is touched; otherwise
  // piece by piece when they are written.
  static bool is_copied_whole(const Vma& vma, uint64_t length);
  static constexpr uint64_t kWholeCopyLimit = 1024 * 1024;
  Result<void> back_around_locked(VmaSet::iterator it, std::vector<PreparedCopy>& wanted)
      REQUIRES(mappings_);
  // `closed_too`: also what has no protection.
  void back_files_locked(GuestAddr start, GuestAddr end, bool closed_too) REQUIRES(mappings_);
  Result<PreparedCopy> prepare_copy(Ref<Mappable> file, uint64_t offset, GuestAddr start,
                                    GuestAddr end);
  Result<void> back_anonymous_locked(const Vma& vma, GuestAddr start, GuestAddr end, Wait wait)
      REQUIRES(mappings_);

  // memory_parking.cc
  bool park_locked(GuestAddr start, GuestAddr end) REQUIRES(mappings_);
  MemoryRange unpark_locked(GuestAddr start, GuestAddr end) REQUIRES(mappings_);
  void evict_parked_locked(GuestAddr start, GuestAddr end, std::vector<MemoryRange>& released)
      REQUIRES(mappings_);
  void map_ahead_locked(GuestAddr start, uint64_t length) REQUIRES(mappings_);
  void map_parked_locked(GuestAddr start, GuestAddr end, uint64_t offset) REQUIRES(mappings_);
  uint64_t ahead_below_locked(GuestAddr start) const REQUIRES_SHARED(mappings_);
  uint64_t ahead_above_locked(const Vma& vma, GuestAddr end) const REQUIRES_SHARED(mappings_);

  void install_copy_locked(const Vma& vma, PreparedCopy& copy, Garbage& garbage)
      REQUIRES(mappings_);
  bool find_copies_locked(GuestAddr start, GuestAddr end, std::vector<PreparedCopy>& wanted) const
      REQUIRES_SHARED(mappings_);
  FaultOutcome make_accessible(GuestAddr addr, Access access, bool forced, bool repost);
  bool grow_stack_locked(GuestAddr addr) REQUIRES(mappings_);

  // memory_advise.cc, memory_report.cc
  Result<void> advise_vma_locked(VmaSet::iterator it, GuestAddr start, GuestAddr end, int advice,
                                 Garbage& garbage) REQUIRES(mappings_);
  void discard_locked(const Vma& vma, GuestAddr start, GuestAddr end, Garbage& garbage)
      REQUIRES(mappings_);
  Result<void> collapse_advice(GuestAddr start, GuestAddr end);
  Result<void> populate_advice(GuestAddr start, GuestAddr end, bool for_write);
  Result<void> lock_range_locked(GuestAddr addr, GuestAddr end, uint32_t flags) REQUIRES(mappings_);
  void lock_all_locked(uint32_t flags) REQUIRES(mappings_);
  bool can_touch_all_locked(GuestAddr start, GuestAddr end) const REQUIRES_SHARED(mappings_);
  std::string name_of_locked(const Vma& vma, const MappedFileInfo& info) const
      REQUIRES_SHARED(mappings_);
  void append_vdso_locked(std::string& text) const REQUIRES_SHARED(mappings_);
  struct SmapsBytes;
  using FileUse = std::map<const Mappable*, uint32_t>;  // how many vmas map a host file
  FileUse host_file_use_locked() const REQUIRES_SHARED(mappings_);
  void add_resident_locked(const Vma& vma, const FileUse& files, SmapsBytes& sums) const
      REQUIRES_SHARED(mappings_);
  static void append_resident(std::string& text, const SmapsBytes& sums);
  // 1 for every page that is resident, as mincore(2); 0 also where nothing is mapped.
  void residency_locked(GuestAddr start, std::span<uint8_t> pages) REQUIRES_SHARED(mappings_);
  template <typename F>
  void for_each_resident_locked(GuestAddr start, GuestAddr end, F&& visit) const
      REQUIRES_SHARED(mappings_);
  ResidentBytes resident_locked(GuestAddr start, GuestAddr end) const REQUIRES_SHARED(mappings_);
  void note_peak(uint64_t resident) const;
  void note_peak_before_locked(uint64_t length) const REQUIRES_SHARED(mappings_);

  // memory_access.cc
  template <typename F>
  CopyResult access_run(GuestAddr addr, size_t length, Access access, bool forced, F&& copy);
  std::byte* translate_locked(GuestAddr addr, Access access, bool forced, uint64_t* length)
      REQUIRES_SHARED(mappings_);
  template <typename F>
  Result<uint32_t> access_word(GuestAddr addr, Access access, F&& operation);

  platform::Platform& platform_;
  MemoryFile& memory_;
  const Ref<platform::AddressSpace> space_;
  const uint64_t trust_domain_;

  mutable SharedMutex<LockRank::kMmMappings> mappings_;
  VmaSet vmas_ GUARDED_BY(mappings_);
  PmaSet pmas_ GUARDED_BY(mappings_);
  uint64_t generation_ GUARDED_BY(mappings_) = 0;  // counts changes of vmas and pmas
  MemoryLimits limits_ GUARDED_BY(mappings_);
  ProgramLayout program_ GUARDED_BY(mappings_);
  std::multimap<GuestAddr, uint64_t> kept_writable_ GUARDED_BY(mappings_);  // lengths
  GuestAddr brk_start_ GUARDED_BY(mappings_) = 0;
  GuestAddr brk_end_ GUARDED_BY(mappings_) = 0;
  int lock_future_ GUARDED_BY(mappings_) = 0;  // MCL_FUTURE and MCL_ONFAULT as set
  MemoryUse use_ GUARDED_BY(mappings_);        // resident is counted when asked
  // Of the moments when it was counted: when asked, and before much goes.
  mutable std::atomic<uint64_t> peak_resident_ = 0;
  mutable std::atomic<uint64_t> resident_counted_ns_ = 0;  // when peak_resident() did
  // Highest gap search: below mmap_base_ no gap of 2^n pages or more lies above the n-th.
  static constexpr size_t kGapClasses = 36;
  std::array<GuestAddr, kGapClasses> search_tops_ GUARDED_BY(mappings_) = {};
  // Unused offsets: private memory is carved from the top of this, so that mappings which grow
  // downwards are contiguous in the file too and the host can merge them.
  MemoryRange carve_ GUARDED_BY(mappings_);
  // The same for the heap, which grows upwards from the bottom.
  MemoryRange heap_carve_ GUARDED_BY(mappings_);

  // Forks that shared memory: begun, and those whose orders the stub has carried out.
  uint64_t forks_begun_ GUARDED_BY(mappings_) = 0;
  uint64_t forks_settled_ GUARDED_BY(mappings_) = 0;

  uint64_t fork_copy_limit_ GUARDED_BY(mappings_) = kForkCopyLimit;

  std::atomic<GuestAddr> expected_page_ = 1;  // where expect_copy_out() looked last

  IntervalMap<Parked> parked_ GUARDED_BY(mappings_);
  uint64_t parked_used_ GUARDED_BY(mappings_) = 0;  // bytes of those that may hold pages

  // Set once before start.
  GuestAddr min_addr_ = 0;
  GuestAddr max_addr_ = 0;
  GuestAddr mmap_base_ = 0;
  GuestAddr stack_top_ = 0;
  bool randomize_ = true;
};

}  // namespace caisson
