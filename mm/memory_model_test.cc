// Random memory calls against a model that knows every page. After each step the kernel's view
// (copies) and the guest's view (the stub model plus faults) must agree with it.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstdlib>
#include <optional>
#include <random>

#include "mm/host_file_mappable.h"
#include "mm/memory_manager.h"
#include "mm/testing/fake_platform.h"

namespace caisson {
namespace {

using testing::FakeAddressSpace;
using testing::FakePlatform;
using testing::make_host_file;
using testing::make_memory_file;

constexpr GuestAddr kArena = 0x10'0000'0000;
constexpr uint64_t kArenaPages = 96;
constexpr uint64_t kFilePages = 24;

// Shared anonymous memory of the model; forks point to the same pages.
struct SharedPages {
  std::vector<uint8_t> bytes;
};

struct ModelPage {
  bool mapped = false;
  int prot = 0;
  std::shared_ptr<SharedPages> shared;
  uint64_t shared_index = 0;
  bool file = false;  // private file page
  uint64_t file_page = 0;
  std::optional<uint8_t> own;  // content of a private page that was written
  bool wipe = false;
  bool dont_fork = false;

  int value() const {
    if (shared) return shared->bytes[shared_index];
    if (own) return *own;
    if (file) return static_cast<int>('A' + file_page);
    return 0;
  }
  void set(uint8_t value) {
    if (shared)
      shared->bytes[shared_index] = value;
    else
      own = value;
  }
};

class Machine {
 public:
  Machine(FakePlatform& platform, MemoryFile& memory)
      : memory_(memory), mm_(MUST(MemoryManager::create(platform, memory, {}))) {}

  FakeAddressSpace& space() { return static_cast<FakeAddressSpace&>(mm_->address_space()); }
  MemoryManager& mm() { return *mm_; }
  ModelPage& page(uint64_t index) { return pages_[index]; }

  // Parent and child both live on, what one writes is never seen by the other; which of them the
  // next steps are about is chosen.
  void forked(std::mt19937_64& random) {
    if (others_.size() >= 3) others_.erase(others_.begin() + static_cast<long>(random() % 3));
    auto child = MUST(mm_->fork());
    std::vector<ModelPage> copy = pages_;
    for (ModelPage& page : copy) {
      if (page.dont_fork) page = {};
      if (page.wipe) page.own.reset();
    }
    others_.emplace_back(child, copy);
    if (random() % 2 == 0) swap(others_.size() - 1);
  }
  void swap(size_t other) {
    std::swap(mm_, others_[other].first);
    std::swap(pages_, others_[other].second);
  }
  void swap_any(std::mt19937_64& random) {
    if (!others_.empty()) swap(random() % others_.size());
  }
  void check_all() {
    check();
    for (size_t i = 0; i < others_.size() && !::testing::Test::HasFailure(); ++i) {
      swap(i);
      check();
      swap(i);
    }
  }

  // Does what the guest would: an access, faults as often as needed.
  int guest_load(GuestAddr addr) {
    for (int i = 0; i < 4; ++i) {
      int value = space().load(memory_, addr);
      if (value >= 0) return value;
      if (mm_->handle_fault(addr, Access::kRead, SIGSEGV).kind != FaultOutcome::Kind::kHandled)
        return -1;
    }
    ADD_FAILURE() << "fault does not end";
    return -1;
  }
  bool guest_store(GuestAddr addr, uint8_t value) {
    for (int i = 0; i < 4; ++i) {
      if (space().store(memory_, addr, value)) return true;
      if (mm_->handle_fault(addr, Access::kWrite, SIGSEGV).kind != FaultOutcome::Kind::kHandled)
        return false;
    }
    ADD_FAILURE() << "fault does not end";
    return false;
  }

  void check() {
    for (uint64_t i = 0; i < kArenaPages; ++i) {
      GuestAddr addr = kArena + i * kPageSize;
      const ModelPage& page = pages_[i];
      bool readable = page.mapped && page.prot != 0;
      ASSERT_EQ(mm_->is_mapped(addr), page.mapped) << i;
      uint8_t byte = 0;
      CopyResult copied = mm_->copy_in(&byte, addr, 1);
      ASSERT_EQ(copied.ok(), readable) << i << " prot " << page.prot;
      int direct = space().load(memory_, addr);
      if (!readable) {
        ASSERT_EQ(direct, -1) << i;
        ASSERT_EQ(guest_load(addr), -1) << i;
        continue;
      }
      ASSERT_EQ(byte, page.value()) << i << " file " << page.file;
      if (direct >= 0) {
        ASSERT_EQ(direct, page.value()) << i;
      }
      ASSERT_EQ(guest_load(addr), page.value()) << i;
      GuestAddr start;
      const auto* mapping = space().find(addr, &start);
      ASSERT_NE(mapping, nullptr);
      ASSERT_EQ(mapping->prot & ~page.prot & (PROT_WRITE | PROT_EXEC), 0) << i;
    }
  }

 private:
  MemoryFile& memory_;
  Ref<MemoryManager> mm_;
  std::vector<ModelPage> pages_ = std::vector<ModelPage>(kArenaPages);
  std::vector<std::pair<Ref<MemoryManager>, std::vector<ModelPage>>> others_;
};

class MemoryModel : public ::testing::TestWithParam<uint64_t> {};

TEST_P(MemoryModel, RandomCalls) {
  FakePlatform platform;
  auto memory = make_memory_file();
  std::string content;
  for (uint64_t i = 0; i < kFilePages; ++i)
    content += std::string(kPageSize, static_cast<char>('A' + i));
  Ref<Mappable> file = adopt_ref<Mappable>(
      new HostFileMappable(platform, make_host_file(content), {1, 2, 3, "/file"}));
  std::mt19937_64 random(GetParam());
  {
    Machine machine(platform, *memory);
    // Most seeds never copy at fork.
    if (GetParam() % 3 != 0) machine.mm().set_fork_copy_limit(0);
    const int kProts[] = {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_EXEC,
                          PROT_READ | PROT_WRITE};
    for (int step = 0; step < 1500; ++step) {
      uint64_t first = random() % kArenaPages;
      uint64_t count = 1 + random() % std::min<uint64_t>(kArenaPages - first, 12);
      GuestAddr addr = kArena + first * kPageSize;
      uint64_t length = count * kPageSize;
      int prot = kProts[random() % 5];
      auto each = [&](auto&& change) {
        for (uint64_t i = first; i < first + count; ++i) change(machine.page(i), i - first);
      };
      uint64_t mapped = 0;
      each([&](ModelPage& page, uint64_t) { mapped += page.mapped; });
      switch (random() % 14) {
        case 0:
        case 1: {
          MmapRequest request{addr, length, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, {}};
          ASSERT_EQ(machine.mm().mmap(request).value(), addr);
          each([&](ModelPage& page, uint64_t) {
            page = {};
            page.mapped = true;
            page.prot = prot;
          });
          break;
        }
        case 2: {
          MmapRequest request{addr, length, prot, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, {}};
          ASSERT_EQ(machine.mm().mmap(request).value(), addr);
          auto shared = std::make_shared<SharedPages>();
          shared->bytes.resize(count);
          each([&](ModelPage& page, uint64_t i) {
            page = {};
            page.mapped = true;
            page.prot = prot;
            page.shared = shared;
            page.shared_index = i;
          });
          break;
        }
        case 3: {
          uint64_t file_page = random() % (kFilePages - count + 1);
          MmapRequest request{
              addr, length, prot, MAP_PRIVATE | MAP_FIXED, file.or_null(), file_page * kPageSize};
          ASSERT_EQ(machine.mm().mmap(request).value(), addr);
          each([&](ModelPage& page, uint64_t i) {
            page = {};
            page.mapped = true;
            page.prot = prot;
            page.file = true;
            page.file_page = file_page + i;
          });
          break;
        }
        case 4:
          ASSERT_TRUE(machine.mm().munmap(addr, length).ok());
          each([](ModelPage& page, uint64_t) { page = {}; });
          break;
        case 5:
        case 6: {
          Result<void> result = machine.mm().mprotect(addr, length, prot);
          ASSERT_EQ(result.ok(), mapped == count);
          bool hole = false;
          each([&](ModelPage& page, uint64_t) {
            hole = hole || !page.mapped;
            if (!hole) page.prot = prot;
          });
          break;
        }
        case 7:
        case 8: {
          uint8_t value = static_cast<uint8_t>(1 + random() % 60);
          each([&](ModelPage& page, uint64_t i) {
            bool writable = page.mapped && (page.prot & PROT_WRITE) != 0;
            GuestAddr at = addr + i * kPageSize;
            bool done = random() % 2 == 0 ? machine.mm().copy_out(at, &value, 1).ok()
                                          : machine.guest_store(at, value);
            EXPECT_EQ(done, writable) << i;
            if (writable) page.set(value);
          });
          break;
        }
        case 9: {
          Result<void> result = machine.mm().madvise(addr, length, MADV_DONTNEED);
          ASSERT_EQ(result.ok(), mapped == count);
          each([](ModelPage& page, uint64_t) { page.own.reset(); });
          break;
        }
        case 10: {
          bool wipe = random() % 2 == 0;
          bool possible = true;
          each([&](ModelPage& page, uint64_t) {
            possible = possible && page.mapped && !page.shared && !page.file;
          });
          if (!possible) break;
          int advice = wipe ? (random() % 2 == 0 ? MADV_WIPEONFORK : MADV_KEEPONFORK)
                            : (random() % 2 == 0 ? MADV_DONTFORK : MADV_DOFORK);
          ASSERT_TRUE(machine.mm().madvise(addr, length, advice).ok());
          each([&](ModelPage& page, uint64_t) {
            if (wipe)
              page.wipe = advice == MADV_WIPEONFORK;
            else
              page.dont_fork = advice == MADV_DONTFORK;
          });
          break;
        }
        case 11: {
          // Moves to a random place that does not overlap.
          uint64_t target = random() % (kArenaPages - count + 1);
          if (target < first + count && first < target + count) break;
          std::vector<ModelPage> source;
          each([&](ModelPage& page, uint64_t) { source.push_back(page); });
          Result<GuestAddr> moved = machine.mm().mremap(
              addr, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, kArena + target * kPageSize);
          // All mappings of the range move; what lies where a hole comes to stays.
          ASSERT_EQ(moved.ok(), source[0].mapped);
          if (!moved.ok()) break;
          for (uint64_t i = 0; i < count; ++i) {
            if (source[i].mapped) machine.page(target + i) = source[i];
            machine.page(first + i) = {};
          }
          break;
        }
        case 12:
          if (random() % 2 == 0)
            machine.forked(random);
          else
            machine.swap_any(random);
          break;
        default:
          // A hostile or hasty guest; nothing that we know changes. Half of the seeds are without.
          if (GetParam() % 2 == 0) machine.space().tamper_unmap(addr, length);
          break;
      }
      if (step % 7 == 0) machine.check_all();
      if (::testing::Test::HasFatalFailure() || ::testing::Test::HasFailure()) {
        ADD_FAILURE() << "step " << step;
        return;
      }
    }
    machine.check_all();
  }
  EXPECT_EQ(memory->allocated_bytes(), 0u);
  memory->trim();
  EXPECT_EQ(memory->resident_bytes(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Seeds, MemoryModel, ::testing::Range<uint64_t>(1, 25));

}  // namespace
}  // namespace caisson
