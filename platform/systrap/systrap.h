// Systrap: the platform that runs guest code in stub processes and traps its system calls with
// seccomp.
//
// One per sandbox, created by the runtime while the kernel process is still single-threaded.
// README.md explains it.
#pragma once

#include <functional>
#include <memory>
#include <set>
#include <vector>

#include "base/mutex.h"
#include "host/event_loop.h"
#include "platform/platform.h"
#include "platform/systrap/call_patches.h"
#include "platform/systrap/shared_memory.h"
#include "platform/systrap/stub_process.h"
#include "platform/systrap/vector_state.h"
#include "platform/systrap/workers.h"
#include "platform/systrap/zygote.h"
#include "seccomp/program.h"

namespace caisson::systrap {

struct Options {
  host::EventLoop* event_loop = nullptr;  // not started yet
  int memory_fd = -1;                     // guest memory file, read-write; not owned
  int memory_ro_fd = -1;                  // the same file, read-only; not owned
  // Guest threads may make the host calls that concern their own memory only (mprotect, private
  // futexes).
  bool stub_calls = true;
  // Stub threads answer what they can by themselves; off when every call must be seen. Needs
  // stub_calls.
  bool stub_answers = true;
  // System calls in the text of host files are patched where that can be done.
  bool patch_calls = true;
  // Called on the event loop's thread when the platform can't go on (the zygote is gone).
  std::function<void(const char* why)> on_fatal;
};

class Systrap : public platform::Platform {
 public:
  // Learns the CPU's state layout, sets up shared memory and forks the zygote. Precondition:
  // single-threaded.
  static Result<std::unique_ptr<Systrap>> create(const Options& options);
  ~Systrap() override;

  uint64_t map_unit() const override { return 0; }
  GuestAddr min_user_address() const override {
    return calls_->enabled() ? CALL_TABLE_END : 0x10000;
  }
  GuestAddr max_user_address() const override { return kMaxUserAddress; }
  bool cooperatively_schedules_address_space() const override { return false; }
  bool supports_address_space_io() const override { return false; }
  bool detects_cpu_preemption() const override { return true; }
  bool has_host_global_memory_barrier() const override { return true; }
  bool owns_page_tables() const override { return false; }

  Result<Ref<platform::AddressSpace>> new_address_space(uint64_t trust_domain) override;
  Result<std::unique_ptr<platform::Context>> new_context() override;
  Result<Ref<platform::MappableFile>> new_mappable_file(int host_fd) override;
  size_t vector_state_size() const override { return vector_state_.size(); }
  GuestAddr vdso_address() const override { return zygote_->vdso_address(); }
  std::optional<platform::RseqSupport> rseq_support() const override { return rseq_; }
  Result<platform::PatchedImage> new_patched_image(uint64_t length) override {
    return calls_->new_image(length);
  }
  Result<std::array<std::byte, platform::kPatchSize>> new_patched_call(
      const platform::PatchedImage& image, platform::CallShape shape, uint32_t value,
      uint64_t offset) override {
    return calls_->new_call(image, shape, value, offset);
  }
  int worker_count() const override { return workers_->count(); }
  void bind_worker(int worker) override { workers_->bind(worker); }
  platform::Context* next_event(int worker, const platform::WorkSource& source) override {
    return workers_->next_event(worker, source);
  }
  void ring() override { workers_->ring(); }

  // The host calls that the kernel process makes only for this platform, for its own filter.
  static std::vector<seccomp::Rule> syscall_filters();

  // ---- For this room.
  SharedMemory& memory() { return *memory_; }
  Workers& workers() { return *workers_; }
  const CallPatches& calls() const { return *calls_; }
  Zygote& zygote() { return *zygote_; }
  host::EventLoop& event_loop() { return *event_loop_; }
  const VectorState& vector_state() const { return vector_state_; }
  // Where stub threads run unless told otherwise.
  const cpu_set_t& cpus() const { return cpus_; }
  // How eagerly: as this process.
  int nice() const { return nice_; }
  bool stub_calls() const { return stub_calls_; }
  bool stub_answers() const { return stub_answers_; }
  StubThread* allocate_thread() EXCLUDES(mu_);
  void free_thread(StubThread& thread) EXCLUDES(mu_);
  uint32_t allocate_index() EXCLUDES(mu_);
  void free_index(uint32_t index) EXCLUDES(mu_);
  uint32_t allocate_number() EXCLUDES(mu_);
  void free_number(uint32_t number) EXCLUDES(mu_);
  // A stub that is empty again. False: the pool is full.
  bool give_back(Ref<StubProcess> process) EXCLUDES(mu_);
  void fatal(const char* why) { on_fatal_(why); }

  static constexpr GuestAddr kMaxUserAddress = STUB_USER_END;

 private:
  explicit Systrap(VectorState vector_state) : vector_state_(std::move(vector_state)) {}
  void refill();

  const VectorState vector_state_;
  cpu_set_t cpus_;                         // set once before start
  int nice_ = 0;                           // set once before start
  host::EventLoop* event_loop_ = nullptr;  // set once before start
  std::function<void(const char*)> on_fatal_;
  bool stub_calls_ = true;                     // set once before start
  bool stub_answers_ = true;                   // set once before start
  std::optional<platform::RseqSupport> rseq_;  // set once before start
  std::unique_ptr<SharedMemory> memory_;
  std::unique_ptr<CallPatches> calls_;
  std::unique_ptr<Workers> workers_;
  RefOrNull<Zygote> zygote_;

  Mutex<LockRank::kPlatform> mu_;
  std::vector<Ref<StubProcess>> pool_ GUARDED_BY(mu_);
  int starting_ GUARDED_BY(mu_) = 0;
  std::vector<std::unique_ptr<StubThread>> threads_ GUARDED_BY(mu_);
  std::vector<StubThread*> free_threads_ GUARDED_BY(mu_);
  std::set<uint32_t> free_indexes_ GUARDED_BY(mu_);
  uint32_t next_index_ GUARDED_BY(mu_) = 0;
  std::set<uint32_t> free_numbers_ GUARDED_BY(mu_);
  uint32_t next_number_ GUARDED_BY(mu_) = FD_FIRST_DYNAMIC;
};

}  // namespace caisson::systrap
