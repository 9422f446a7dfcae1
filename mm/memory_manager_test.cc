#include "mm/memory_manager.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include "mm/host_file_mappable.h"
#include "mm/testing/fake_platform.h"
#include "mm/user_buffer.h"

namespace caisson {
namespace {

using testing::FakeAddressSpace;
using testing::FakePlatform;
using testing::make_host_file;
using testing::make_memory_file;

constexpr int kRw = PROT_READ | PROT_WRITE;
constexpr int kAnon = MAP_PRIVATE | MAP_ANONYMOUS;
constexpr uint64_t kMiB = 1024 * 1024;

class MemoryManagerTest : public ::testing::Test {
 protected:
  FakeAddressSpace& space() { return static_cast<FakeAddressSpace&>(mm_->address_space()); }
  GuestAddr map(uint64_t length, int prot = kRw, int flags = kAnon, GuestAddr addr = 0) {
    return mm_->mmap({addr, length, prot, flags, {}}).value();
  }
  Errno map_error(MmapRequest request) {
    Result<GuestAddr> result = mm_->mmap(request);
    return result.ok() ? Errno(0) : result.error();
  }
  Ref<Mappable> host_file(const std::string& content) {
    return adopt_ref<Mappable>(
        new HostFileMappable(platform_, make_host_file(content), {8, 1, 77, "/bin/file"}));
  }
  int count_lines(const std::string& text) {
    return static_cast<int>(std::count(text.begin(), text.end(), '\n'));
  }

  FakePlatform platform_;
  std::unique_ptr<MemoryFile> memory_ = make_memory_file();
  Ref<MemoryManager> mm_ = MemoryManager::create(platform_, *memory_, {}).value();
};

// The first mapping and what is mapped ahead need the mapper; what follows opens and closes it.
TEST_F(MemoryManagerTest, TheMapperIsWokenRarely) {
  GuestAddr addr = map(64 * 1024);
  EXPECT_EQ(space().mapper_orders, 2u);
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(mm_->munmap(addr, 64 * 1024).ok());
    EXPECT_EQ(space().load(*memory_, addr), -1);
    EXPECT_EQ(map(64 * 1024), addr);
    EXPECT_EQ(space().load(*memory_, addr), 0);
    EXPECT_TRUE(space().store(*memory_, addr, 7));
  }
  for (int i = 1; i < 10; ++i)
    EXPECT_EQ(map(64 * 1024), addr - static_cast<uint64_t>(i) * 64 * 1024);
  EXPECT_EQ(space().mapper_orders, 2u);
  mm_->set_brk_start(0x500000);
  GuestAddr start = mm_->brk(0);
  EXPECT_EQ(mm_->brk(start + 0x21000), start + 0x21000);
  EXPECT_EQ(space().mapper_orders, 4u);
  EXPECT_EQ(mm_->brk(start + 0x42000), start + 0x42000);
  EXPECT_EQ(mm_->brk(start), start);
  EXPECT_EQ(mm_->brk(start + 0x63000), start + 0x63000);
  EXPECT_EQ(space().mapper_orders, 4u);
  GuestAddr reserved = map(64 * kMiB, PROT_NONE, kAnon | MAP_NORESERVE);
  for (uint64_t i = 0; i < 8; ++i)
    ASSERT_TRUE(mm_->mprotect(reserved + i * 0x20000, 0x20000, kRw).ok());
  EXPECT_EQ(space().mapper_orders, 6u);
  EXPECT_TRUE(space().store(*memory_, reserved + 0xfffff, 7));
}

TEST_F(MemoryManagerTest, AHeapIsMappedAhead) {
  mm_->set_brk_start(0x500000);
  mm_->map_heap_ahead();
  EXPECT_EQ(space().mapper_orders, 1u);
  GuestAddr start = mm_->brk(0);
  EXPECT_EQ(space().load(*memory_, start), -1);
  EXPECT_EQ(mm_->handle_fault(start, Access::kRead, SIGSEGV).code, SEGV_MAPERR);
  EXPECT_EQ(mm_->brk(start + 0x21000), start + 0x21000);
  EXPECT_EQ(space().mapper_orders, 1u);
  EXPECT_EQ(space().load(*memory_, start), 0);
  EXPECT_TRUE(space().store(*memory_, start, 7));
  EXPECT_EQ(map(4096, kRw, kAnon | MAP_FIXED, start + 0x80000), start + 0x80000);
  EXPECT_EQ(space().load(*memory_, start + 0x80000), 0);
  EXPECT_EQ(mm_->brk(start + 0x81000), start + 0x21000);
  EXPECT_EQ(mm_->brk(start), start);
  EXPECT_EQ(space().load(*memory_, start), -1);
}

TEST_F(MemoryManagerTest, AHeapIsNotMappedOverOthers) {
  mm_->set_brk_start(0x500000);
  GuestAddr other = map(4096, kRw, kAnon | MAP_FIXED, mm_->brk(0) + 0x10000);
  EXPECT_TRUE(space().store(*memory_, other, 7));
  unsigned orders = space().mapper_orders;
  mm_->map_heap_ahead();
  EXPECT_EQ(space().mapper_orders, orders);
  EXPECT_EQ(space().load(*memory_, other), 7);
}

// What replaces parked memory in the stub gives it back; nothing of it shows anywhere.
TEST_F(MemoryManagerTest, ParkedMemoryIsReplaced) {
  GuestAddr addr = map(64 * 1024);
  EXPECT_TRUE(mm_->copy_out(addr, "secret", 6).ok());
  ASSERT_TRUE(mm_->munmap(addr, 64 * 1024).ok());
  EXPECT_EQ(mm_->handle_fault(addr, Access::kRead, SIGSEGV).code, SEGV_MAPERR);
  Ref<Mappable> file = host_file("file");
  EXPECT_EQ(
      MUST(mm_->mmap({addr + 4096, 8192, PROT_READ, MAP_PRIVATE | MAP_FIXED, file.or_null()})),
      addr + 4096);
  EXPECT_EQ(space().load(*memory_, addr + 4096), -1);
  EXPECT_EQ(mm_->handle_fault(addr + 4096, Access::kRead, SIGSEGV).kind,
            FaultOutcome::Kind::kHandled);
  EXPECT_EQ(space().load(*memory_, addr + 4096), 'f');
  EXPECT_EQ(map(4096, kRw, kAnon | MAP_FIXED, addr), addr);
  EXPECT_EQ(space().load(*memory_, addr), 0);
  ASSERT_TRUE(mm_->munmap(addr, 64 * 1024).ok());
  EXPECT_EQ(map(256 * 1024, kRw, kAnon), addr - 192 * 1024);
  for (uint64_t at = 0; at < 256 * 1024; at += 4096)
    EXPECT_EQ(space().load(*memory_, addr - 192 * 1024 + at), 0);
  ASSERT_TRUE(mm_->munmap(addr - 192 * 1024, 256 * 1024).ok());
  mm_->drop_parked_pages();
  memory_->trim();
  EXPECT_EQ(memory_->resident_bytes(), 0u);
}

// As an interpreter maps a library: all of it first, then its segments over it, then what is zero.
TEST_F(MemoryManagerTest, SegmentsAreBackedTogether) {
  auto file = host_file(std::string(10 * 4096, 'f')).or_null();
  const unsigned before = space().mapper_orders;
  constexpr int kFixed = MAP_PRIVATE | MAP_FIXED;
  GuestAddr base = MUST(mm_->mmap({0, 10 * 4096, PROT_READ, MAP_PRIVATE, file}));
  MUST(mm_->mmap({base + 4096, 2 * 4096, PROT_READ | PROT_EXEC, kFixed, file, 4096}));
  MUST(mm_->mmap({base + 3 * 4096, 4096, PROT_READ, kFixed, file, 3 * 4096}));
  MUST(mm_->mmap({base + 4 * 4096, 2 * 4096, kRw, kFixed, file, 4 * 4096}));
  EXPECT_EQ(space().mapper_orders, before);
  EXPECT_EQ(mm_->handle_fault(base + 5 * 4096, Access::kWrite, SIGSEGV).kind,
            FaultOutcome::Kind::kHandled);
  EXPECT_EQ(space().mapper_orders, before + 4);
  for (uint64_t at = 0; at < 6; ++at)
    EXPECT_EQ(space().load(*memory_, base + at * 4096), 'f') << at;
  EXPECT_TRUE(space().store(*memory_, base + 4 * 4096, 'd'));
  // What is above the data is about to be replaced.
  EXPECT_EQ(space().load(*memory_, base + 6 * 4096), -1);
  map(4 * 4096, kRw, kAnon | MAP_FIXED, base + 6 * 4096);
  EXPECT_EQ(space().load(*memory_, base + 6 * 4096), 0);
}

// The place of a file that is unmapped is closed by the guest's own thread.
TEST_F(MemoryManagerTest, UnmappedFilesAreParked) {
  auto file = host_file("file").or_null();
  std::vector<GuestAddr> places;
  for (int i = 0; i < 40; ++i) {
    places.push_back(MUST(mm_->mmap({0, 4096, PROT_READ, MAP_PRIVATE, file})));
    map(4096, kRw, kAnon);  // not beside the next
    EXPECT_EQ(mm_->handle_fault(places.back(), Access::kRead, SIGSEGV).kind,
              FaultOutcome::Kind::kHandled);
    EXPECT_EQ(space().load(*memory_, places.back()), 'f');
  }
  unsigned orders = space().mapper_orders;
  ASSERT_TRUE(mm_->munmap(places[0], 4096).ok());
  EXPECT_EQ(space().mapper_orders, orders);
  EXPECT_EQ(space().load(*memory_, places[0]), -1);
  EXPECT_EQ(mm_->handle_fault(places[0], Access::kRead, SIGSEGV).code, SEGV_MAPERR);
  // It is nothing that an anonymous mapping could be opened from.
  EXPECT_EQ(map(4096, kRw, kAnon | MAP_FIXED, places[0]), places[0]);
  EXPECT_EQ(space().load(*memory_, places[0]), 0);
  // Not too many.
  orders = space().mapper_orders;
  for (int i = 1; i < 40; ++i) ASSERT_TRUE(mm_->munmap(places[i], 4096).ok());
  EXPECT_GT(space().mapper_orders, orders + 20);
  mm_->drop_parked_pages();
  EXPECT_EQ(mm_->parked_bytes(), 0u);
}

TEST_F(MemoryManagerTest, MmapErrors) {
  Ref<Mappable> file = host_file("x");
  auto f = file.or_null();
  GuestAddr max = FakePlatform::kMax;
  EXPECT_EQ(map_error({0, 0, kRw, kAnon, {}}), Errno(EINVAL));
  EXPECT_EQ(map_error({0, 4096, kRw, kAnon, {}, 5}), Errno(EINVAL));
  EXPECT_EQ(map_error({0, 4096, kRw, MAP_ANONYMOUS, {}}), Errno(EINVAL));
  EXPECT_EQ(map_error({0, ~uint64_t{0}, kRw, kAnon, {}}), Errno(ENOMEM));
  EXPECT_EQ(map_error({0, max + 4096, PROT_NONE, kAnon, {}}), Errno(ENOMEM));
  EXPECT_EQ(map_error({0, 8192, PROT_READ, MAP_PRIVATE, f, ~uint64_t{4095}}), Errno(EOVERFLOW));
  EXPECT_EQ(map_error({123, 4096, kRw, kAnon | MAP_FIXED, {}}), Errno(EINVAL));
  EXPECT_EQ(map_error({0, 4096, kRw, kAnon | MAP_FIXED, {}}), Errno(EPERM));
  EXPECT_EQ(map_error({max - 4096, 8192, kRw, kAnon | MAP_FIXED, {}}), Errno(ENOMEM));
  EXPECT_EQ(map_error({0, 4096, kRw, MAP_SHARED, f}), Errno(EACCES));
  EXPECT_EQ(map_error({0, 4096, PROT_READ, MAP_PRIVATE, f, 0, false}), Errno(EACCES));
  EXPECT_EQ(map_error({0, 4096, PROT_EXEC, MAP_PRIVATE, f, 0, true, false, true}), Errno(EPERM));
  EXPECT_EQ(map_error({0, 4096, PROT_READ, MAP_PRIVATE | MAP_GROWSDOWN, f}), Errno(EINVAL));
  EXPECT_EQ(map_error({0, 4096, PROT_READ, MAP_SHARED_VALIDATE | MAP_SYNC, f}), Errno(EOPNOTSUPP));
  GuestAddr there = map(8192);
  EXPECT_EQ(map_error({there + 4096, 8192, kRw, kAnon | MAP_FIXED_NOREPLACE, {}}), Errno(EEXIST));
  EXPECT_EQ(map(4096, kRw, kAnon | MAP_FIXED_NOREPLACE, there + 8192 * 10), there + 8192 * 10);
}

TEST_F(MemoryManagerTest, HugeRequestsDoNotWrapOrSucceedWrongly) {
  for (uint64_t length : {uint64_t{1} << 47, uint64_t{1} << 63, ~uint64_t{0} - 4094})
    EXPECT_EQ(map_error({0x1000000, length, PROT_NONE, kAnon, {}}), Errno(ENOMEM));
  EXPECT_EQ(mm_->munmap(0x1000, ~uint64_t{0}).error(), Errno(EINVAL));
  EXPECT_EQ(mm_->munmap(0x1001, 4096).error(), Errno(EINVAL));
  EXPECT_EQ(mm_->munmap(0x1000, 0).error(), Errno(EINVAL));
  EXPECT_TRUE(mm_->munmap(0x100000, 4096).ok());
  EXPECT_EQ(mm_->mprotect(~uint64_t{4095}, 8192, PROT_READ).error(), Errno(ENOMEM));
  EXPECT_EQ(mm_->mremap(~uint64_t{4095}, 8192, 4096, 0, 0).error(), Errno(EFAULT));
  EXPECT_EQ(mm_->madvise(0, ~uint64_t{0}, MADV_DONTNEED).error(), Errno(EINVAL));
  char byte = 0;
  EXPECT_FALSE(mm_->copy_in(&byte, ~uint64_t{0}, 1).ok());
  EXPECT_FALSE(mm_->copy_in(&byte, FakePlatform::kMax, 1).ok());
  EXPECT_FALSE(mm_->copy_out(0, &byte, 1).ok());
}

TEST_F(MemoryManagerTest, SparseReservationsCostNothing) {
  GuestAddr addr = map(uint64_t{1} << 40, PROT_NONE, kAnon | MAP_NORESERVE);
  EXPECT_EQ(space().orders, 0u);
  ASSERT_TRUE(mm_->mprotect(addr + 0x1000000, 0x10000, kRw).ok());
  EXPECT_EQ(space().orders, 2u);
  EXPECT_TRUE(mm_->copy_out(addr + 0x1000000, "abc", 3).ok());
  EXPECT_EQ(mm_->copy_out(addr + 0x1000000 - 1, "abc", 3).done, 0u);
  // Accessible and huge: backed when it is touched.
  GuestAddr shadow = map(uint64_t{16} << 40, kRw, kAnon | MAP_NORESERVE);
  EXPECT_TRUE(mm_->copy_out(shadow + (uint64_t{7} << 40) - 1, "abc", 3).ok());
  EXPECT_EQ(mm_->handle_fault(shadow + 5, Access::kWrite, SIGSEGV).kind,
            FaultOutcome::Kind::kHandled);
  EXPECT_TRUE(space().store(*memory_, shadow + 5, 1));
  // Without MAP_NORESERVE the heuristic says no.
  EXPECT_EQ(map_error({0, uint64_t{16} << 40, kRw, kAnon, {}}), Errno(ENOMEM));
}

TEST_F(MemoryManagerTest, NeighboursMergeInKernelAndHost) {
  GuestAddr first = map(0x10000);
  for (int i = 0; i < 50; ++i) EXPECT_EQ(map(0x10000), first -= 0x10000);
  EXPECT_EQ(count_lines(mm_->maps_text()), 2);  // and the vDSO
  // Contiguous in the memory file too, so that the host merges them.
  GuestAddr low = first;
  uint64_t offset = 0;
  for (auto& [start, mapping] : space().mappings) {
    if (start != low) {
      EXPECT_EQ(mapping.offset, offset);
    }
    offset = mapping.offset + (mapping.end - start);
  }
}

TEST_F(MemoryManagerTest, FreeAddressesAreFoundAgain) {
  std::vector<GuestAddr> places;
  for (int i = 0; i < 100; ++i) places.push_back(map(0x3000, i % 2 == 0 ? kRw : PROT_READ));
  for (int i = 10; i < 90; i += 7) {
    ASSERT_TRUE(mm_->munmap(places[i], 0x3000).ok());
    EXPECT_EQ(map(0x4000, kRw) < places[99], true);
    EXPECT_EQ(map(0x3000, kRw), places[i]);
  }
  ASSERT_TRUE(mm_->munmap(places[20], 0x3000).ok());
  ASSERT_TRUE(mm_->munmap(places[21], 0x3000).ok());
  EXPECT_EQ(map(0x6000), places[21]);
}

TEST_F(MemoryManagerTest, MappingLimit) {
  GuestAddr addr = map(64 * 4096);
  space().forced_count = 65530;
  EXPECT_EQ(map_error({0, 4096, kRw, kAnon, {}}), Errno(ENOMEM));
  EXPECT_EQ(mm_->mprotect(addr + 4096, 4096, PROT_READ).error(), Errno(ENOMEM));
  EXPECT_EQ(mm_->munmap(addr + 4096, 4096).error(), Errno(ENOMEM));
  EXPECT_TRUE(mm_->munmap(addr, 64 * 4096).ok());
}

TEST_F(MemoryManagerTest, Limits) {
  mm_->set_limits({.address_space = 10 * kMiB, .data = 4 * kMiB});
  GuestAddr a = map(3 * kMiB);
  EXPECT_EQ(map_error({0, 2 * kMiB, kRw, kAnon, {}}), Errno(ENOMEM));  // RLIMIT_DATA
  GuestAddr b = map(6 * kMiB, PROT_READ);
  EXPECT_EQ(map_error({0, 2 * kMiB, PROT_READ, kAnon, {}}), Errno(ENOMEM));  // RLIMIT_AS
  EXPECT_EQ(mm_->mprotect(b, 6 * kMiB, kRw).error(), Errno(ENOMEM));
  EXPECT_EQ(mm_->mremap(a, 3 * kMiB, 9 * kMiB, MREMAP_MAYMOVE, 0).error(), Errno(ENOMEM));
  EXPECT_EQ(mm_->mmap({a, 3 * kMiB, kRw, kAnon | MAP_FIXED, {}}).value(), a);  // replaces
  EXPECT_EQ(mm_->usage().total, 9 * kMiB);
}

TEST_F(MemoryManagerTest, BrkRules) {
  mm_->set_brk_start(0x400123);
  GuestAddr start = mm_->brk(0);
  EXPECT_TRUE(is_page_aligned(start));
  EXPECT_EQ(mm_->brk(start - 1), start);
  EXPECT_EQ(mm_->brk(start + 10), start + 10);
  EXPECT_TRUE(mm_->copy_out(start + 4095, "x", 1).ok());
  EXPECT_FALSE(mm_->copy_out(start + 4096, "x", 1).ok());
  EXPECT_EQ(mm_->brk(~uint64_t{0}), start + 10);
  EXPECT_EQ(mm_->brk(FakePlatform::kMax - 1), start + 10);
  // Something in the way.
  GuestAddr wall = start + 0x100000;
  map(4096, kRw, kAnon | MAP_FIXED, wall);
  EXPECT_EQ(mm_->brk(wall), start + 10);
  EXPECT_EQ(mm_->brk(wall - 4096), wall - 4096);
  EXPECT_NE(mm_->maps_text().find("[heap]"), std::string::npos);
}

TEST_F(MemoryManagerTest, StackGrowsOnTouchAndStopsAtTheLimit) {
  GuestAddr top = MUST(mm_->make_stack(false));
  EXPECT_TRUE(mm_->copy_out(top - 100, "x", 1).ok());
  EXPECT_EQ(mm_->handle_fault(top - 4 * kMiB, Access::kWrite, SIGSEGV).kind,
            FaultOutcome::Kind::kHandled);
  EXPECT_TRUE(space().store(*memory_, top - 4 * kMiB, 1));
  EXPECT_TRUE(space().store(*memory_, top - 4 * kMiB + 5000, 1));
  EXPECT_TRUE(mm_->copy_out(top - 8 * kMiB, "x", 1).ok());
  FaultOutcome beyond = mm_->handle_fault(top - 8 * kMiB - 1, Access::kWrite, SIGSEGV);
  EXPECT_EQ(beyond.kind, FaultOutcome::Kind::kSignal);
  EXPECT_EQ(beyond.signo, SIGSEGV);
  EXPECT_EQ(beyond.code, SEGV_MAPERR);
  EXPECT_EQ(mm_->usage().stack, 8 * kMiB);
  // A mapping close below stops it too.
  auto other = MUST(MemoryManager::create(platform_, *memory_, {}));
  top = MUST(other->make_stack(false));
  ASSERT_TRUE(other->mmap({top - 4 * kMiB, 4096, kRw, kAnon | MAP_FIXED, {}}).ok());
  EXPECT_TRUE(other->copy_out(top - 2 * kMiB, "x", 1).ok());
  EXPECT_FALSE(other->copy_out(top - 4 * kMiB + 8192, "x", 1).ok());
}

TEST_F(MemoryManagerTest, FaultCodes) {
  GuestAddr addr = map(8192, PROT_READ);
  auto outcome = [&](GuestAddr at, Access access, int signo = SIGSEGV) {
    FaultOutcome result = mm_->handle_fault(at, access, signo);
    return std::tuple(result.kind, result.signo, result.code);
  };
  using Kind = FaultOutcome::Kind;
  EXPECT_EQ(outcome(addr, Access::kRead), std::tuple(Kind::kHandled, 0, 0));
  EXPECT_EQ(outcome(addr, Access::kWrite), std::tuple(Kind::kSignal, SIGSEGV, SEGV_ACCERR));
  EXPECT_EQ(outcome(addr, Access::kExecute), std::tuple(Kind::kSignal, SIGSEGV, SEGV_ACCERR));
  EXPECT_EQ(outcome(0, Access::kRead), std::tuple(Kind::kSignal, SIGSEGV, SEGV_MAPERR));
  EXPECT_EQ(outcome(~uint64_t{0}, Access::kRead), std::tuple(Kind::kSignal, SIGSEGV, SEGV_MAPERR));
  EXPECT_EQ(outcome(addr, Access::kRead, SIGBUS), std::tuple(Kind::kOutOfMemory, 0, 0));
  GuestAddr file =
      MUST(mm_->mmap({0, 3 * 4096, PROT_READ, MAP_PRIVATE, host_file("hello").or_null()}));
  EXPECT_EQ(outcome(file, Access::kRead), std::tuple(Kind::kHandled, 0, 0));
  EXPECT_EQ(outcome(file + 4096, Access::kRead), std::tuple(Kind::kSignal, SIGBUS, BUS_ADRERR));
  EXPECT_EQ(outcome(file, Access::kRead, SIGBUS), std::tuple(Kind::kSignal, SIGBUS, BUS_ADRERR));
}

TEST_F(MemoryManagerTest, FilePagesAreSharedUntilWritten) {
  std::string content(3 * kMiB, 'f');
  auto file = host_file(content).or_null();
  GuestAddr text = MUST(mm_->mmap({0, kMiB, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 4096}));
  memory_->trim();
  EXPECT_EQ(memory_->resident_bytes(), 0u);
  char bytes[3];
  EXPECT_TRUE(mm_->copy_in(bytes, text + 4095, 3).ok());
  EXPECT_EQ(bytes[1], 'f');
  EXPECT_FALSE(mm_->copy_out(text, "x", 1).ok());
  EXPECT_TRUE(mm_->copy_out_forced(text + 10, "x", 1).ok());  // a breakpoint
  EXPECT_EQ(space().load(*memory_, text + 10), 'x');
  EXPECT_EQ(space().load(*memory_, text + 11), 'f');
  // Small data is copied at once, large data where it is written.
  GuestAddr data = MUST(mm_->mmap({0, 8192, kRw, MAP_PRIVATE, file}));
  EXPECT_EQ(mm_->handle_fault(data + 4096, Access::kRead, SIGSEGV).kind,
            FaultOutcome::Kind::kHandled);
  EXPECT_TRUE(space().store(*memory_, data, 'd'));
  GuestAddr large = MUST(mm_->mmap({0, 3 * kMiB, kRw, MAP_PRIVATE, file}));
  EXPECT_FALSE(space().store(*memory_, large + kMiB, 'l'));
  EXPECT_EQ(mm_->handle_fault(large + kMiB, Access::kWrite, SIGSEGV).kind,
            FaultOutcome::Kind::kHandled);
  EXPECT_TRUE(space().store(*memory_, large + kMiB, 'l'));
  EXPECT_EQ(space().load(*memory_, large + kMiB + 1), 'f');
  EXPECT_LT(memory_->resident_bytes(), kMiB);
  EXPECT_TRUE(mm_->copy_in(bytes, text, 1).ok());
  EXPECT_EQ(bytes[0], 'f');
}

TEST_F(MemoryManagerTest, QuarantinedUntilAcknowledged) {
  space().hold_deferred = true;
  GuestAddr addr = map(16 * kMiB);
  EXPECT_TRUE(mm_->copy_out(addr, "secret", 6).ok());
  uint64_t before = memory_->allocated_bytes();
  ASSERT_TRUE(mm_->munmap(addr, 16 * kMiB).ok());
  EXPECT_EQ(memory_->allocated_bytes(), before);
  EXPECT_EQ(memory_->resident_bytes(), 4096u);
  space().run_deferred();
  EXPECT_EQ(memory_->allocated_bytes(), before - 16 * kMiB);
  memory_->trim();
  EXPECT_EQ(memory_->resident_bytes(), 0u);
}

TEST_F(MemoryManagerTest, ForkCopiesOnlyWhatIsResident) {
  GuestAddr addr = map(64 * kMiB);
  EXPECT_TRUE(mm_->copy_out(addr + 5 * kMiB, "parent", 6).ok());
  GuestAddr shared = map(8192, kRw, MAP_SHARED | MAP_ANONYMOUS);
  auto child = MUST(mm_->fork());
  EXPECT_EQ(memory_->resident_bytes(), 2 * 4096u);
  EXPECT_TRUE(mm_->copy_out(addr + 5 * kMiB, "PARENT", 6).ok());
  EXPECT_TRUE(child->copy_out(shared, "both", 4).ok());
  char bytes[6];
  EXPECT_TRUE(child->copy_in(bytes, addr + 5 * kMiB, 6).ok());
  EXPECT_EQ(std::string(bytes, 6), "parent");
  EXPECT_TRUE(mm_->copy_in(bytes, shared, 4).ok());
  EXPECT_EQ(std::string(bytes, 4), "both");
  EXPECT_EQ(child->usage().total, mm_->usage().total);
}

TEST_F(MemoryManagerTest, FutexWordsAndKeys) {
  GuestAddr own = map(4096);
  GuestAddr shared = map(8192, kRw, MAP_SHARED | MAP_ANONYMOUS);
  auto child = MUST(mm_->fork());
  EXPECT_EQ(mm_->load_u32(own).value(), 0u);
  EXPECT_EQ(mm_->compare_exchange_u32(own, 0, 7).value(), 0u);
  EXPECT_EQ(mm_->compare_exchange_u32(own, 0, 8).value(), 7u);
  EXPECT_EQ(mm_->load_u32(own).value(), 7u);
  EXPECT_EQ(mm_->load_u32(own + 2).error(), Errno(EINVAL));
  EXPECT_EQ(mm_->load_u32(0x1000).error(), Errno(EFAULT));
  EXPECT_TRUE(mm_->futex_key(shared + 4100, true).value() ==
              child->futex_key(shared + 4100, true).value());
  EXPECT_FALSE(mm_->futex_key(own, true).value() == child->futex_key(own, true).value());
  EXPECT_FALSE(mm_->futex_key(shared, false).value() == mm_->futex_key(shared, true).value());
  EXPECT_EQ(mm_->futex_key(0x1000, true).error(), Errno(EFAULT));
  EXPECT_EQ(mm_->futex_key(~uint64_t{3}, false).error(), Errno(EFAULT));
}

TEST_F(MemoryManagerTest, Strings) {
  GuestAddr addr = map(4096, kRw, kAnon);
  ASSERT_TRUE(mm_->munmap(addr - 4096, 4096).ok());
  map(4096, kRw, kAnon | MAP_FIXED, addr);
  EXPECT_TRUE(mm_->copy_out(addr + 4090, "hello", 6).ok());
  EXPECT_EQ(mm_->copy_in_string(addr + 4090, 4096).value(), "hello");
  EXPECT_EQ(mm_->copy_in_string(addr + 4090, 6).value(), "hello");
  EXPECT_EQ(mm_->copy_in_string(addr + 4090, 5).error(), Errno(ENAMETOOLONG));
  std::string longer(3000, 'y');
  EXPECT_TRUE(mm_->copy_out(addr, longer.c_str(), 3001).ok());
  EXPECT_EQ(mm_->copy_in_string(addr, 4096).value(), longer);
  ASSERT_TRUE(mm_->munmap(addr + 4096, 4096).ok());
  EXPECT_TRUE(mm_->copy_out(addr + 4095, "x", 1).ok());
  EXPECT_EQ(mm_->copy_in_string(addr + 4095, 10).error(), Errno(EFAULT));
  EXPECT_EQ(mm_->copy_in_string(~uint64_t{0}, 10).error(), Errno(EFAULT));
}

TEST_F(MemoryManagerTest, UserBuffers) {
  GuestAddr addr = map(8192);
  ASSERT_TRUE(mm_->munmap(addr + 4096, 4096).ok());
  struct {
    uint64_t base, length;
  } vector[] = {{addr + 100, 5}, {0, 0}, {addr + 4090, 20}};
  EXPECT_TRUE(mm_->copy_out(addr, vector, sizeof(vector)).ok());
  UserBuffer buffer = MUST(UserBuffer::create_vector(*mm_, addr, 3));
  EXPECT_EQ(buffer.size(), 25u);
  EXPECT_EQ(buffer.write("abc", 3).value(), 3u);
  EXPECT_EQ(buffer.write("defghijklmnopqrstuv", 19).value(), 8u);  // up to the fault
  EXPECT_EQ(buffer.done(), 11u);
  EXPECT_EQ(buffer.write("x", 1).error(), Errno(EFAULT));
  buffer.rewind(11);
  char bytes[32] = {};
  EXPECT_EQ(buffer.peek(bytes, 5).value(), 5u);
  EXPECT_EQ(buffer.read(bytes, 32).value(), 11u);
  EXPECT_STREQ(bytes, "abcdefghijk");
  EXPECT_EQ(buffer.read(bytes, 0).value(), 0u);
  EXPECT_EQ(UserBuffer::create_vector(*mm_, addr, 1025).error(), Errno(EINVAL));
  EXPECT_EQ(UserBuffer::create_vector(*mm_, 8, 1).error(), Errno(EFAULT));
  EXPECT_EQ(UserBuffer::create(*mm_, FakePlatform::kMax, 1).error(), Errno(EFAULT));
  uint64_t negative[2] = {addr, ~uint64_t{0}};
  EXPECT_TRUE(mm_->copy_out(addr, negative, sizeof(negative)).ok());
  EXPECT_EQ(UserBuffer::create_vector(*mm_, addr, 1).error(), Errno(EINVAL));
  EXPECT_EQ(UserBuffer::create(*mm_, addr, ~uint64_t{0} >> 1).value().size(),
            UserBuffer::kMaxBytes);
  std::byte own[4];
  UserBuffer kernel = UserBuffer::of_kernel(std::span<std::byte>(own));
  EXPECT_EQ(kernel.write("wxyz1", 5).value(), 4u);
  EXPECT_EQ(kernel.remaining(), 0u);
}

TEST_F(MemoryManagerTest, RemapRules) {
  GuestAddr addr = map(4 * 4096);
  EXPECT_TRUE(mm_->copy_out(addr + 4096, "moved", 5).ok());
  EXPECT_EQ(mm_->mremap(addr + 1, 4096, 4096, 0, 0).error(), Errno(EINVAL));
  EXPECT_EQ(mm_->mremap(addr, 4096, 0, 0, 0).error(), Errno(EINVAL));
  EXPECT_EQ(mm_->mremap(addr, 4096, 4096, MREMAP_FIXED, 0).error(), Errno(EINVAL));
  EXPECT_EQ(mm_->mremap(addr, 4096, 4096, 64, 0).error(), Errno(EINVAL));
  EXPECT_EQ(mm_->mremap(addr, 0, 4096, MREMAP_MAYMOVE, 0).error(), Errno(EINVAL));
  EXPECT_EQ(mm_->mremap(addr, 4 * 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, addr).error(),
            Errno(EINVAL));
  EXPECT_EQ(mm_->mremap(0x100000, 4096, 8192, MREMAP_MAYMOVE, 0).error(), Errno(EFAULT));
  map(4096, PROT_READ, kAnon | MAP_FIXED, addr + 4 * 4096);  // in the way
  EXPECT_EQ(mm_->mremap(addr, 4 * 4096, 8 * 4096, 0, 0).error(), Errno(ENOMEM));
  GuestAddr moved = mm_->mremap(addr, 4 * 4096, 8 * 4096, MREMAP_MAYMOVE, 0).value();
  EXPECT_NE(moved, addr);
  EXPECT_FALSE(mm_->is_mapped(addr));
  EXPECT_EQ(space().load(*memory_, moved + 4096), 'm');
  EXPECT_EQ(space().load(*memory_, moved + 7 * 4096), 0);
  EXPECT_EQ(mm_->mremap(moved, 8 * 4096, 2 * 4096, 0, 0).value(), moved);
  EXPECT_FALSE(mm_->is_mapped(moved + 2 * 4096));
  EXPECT_EQ(mm_->mremap(moved, 2 * 4096, 8 * 4096, 0, 0).value(), moved);  // grows in place
  EXPECT_TRUE(mm_->copy_out(moved + 7 * 4096, "x", 1).ok());
  GuestAddr kept = mm_->mremap(moved, 8 * 4096, 8 * 4096, MREMAP_MAYMOVE | 4, 0).value();
  char byte = 1;
  EXPECT_TRUE(mm_->copy_in(&byte, moved + 4096, 1).ok());
  EXPECT_EQ(byte, 0);
  EXPECT_TRUE(mm_->copy_in(&byte, kept + 4096, 1).ok());
  EXPECT_EQ(byte, 'm');
  // A shared mapping is duplicated by an old length of 0.
  GuestAddr shared = map(4096, kRw, MAP_SHARED | MAP_ANONYMOUS);
  GuestAddr twin = mm_->mremap(shared, 0, 4096, MREMAP_MAYMOVE, 0).value();
  EXPECT_TRUE(mm_->copy_out(shared, "t", 1).ok());
  EXPECT_TRUE(mm_->copy_in(&byte, twin, 1).ok());
  EXPECT_EQ(byte, 't');
}

TEST_F(MemoryManagerTest, AdviceAndCore) {
  GuestAddr addr = map(4 * 4096);
  uint8_t ones[4] = {1, 1, 1, 1};
  EXPECT_TRUE(mm_->copy_out(addr + 4096, ones, 4).ok());
  GuestAddr out = map(4096);
  EXPECT_TRUE(mm_->mincore(addr, 4 * 4096, out).ok());
  uint8_t core[4];
  EXPECT_TRUE(mm_->copy_in(core, out, 4).ok());
  EXPECT_EQ(core[0], 0);
  EXPECT_EQ(core[1], 1);
  EXPECT_EQ(mm_->mincore(addr, 4 * 4096, 8).error(), Errno(EFAULT));
  EXPECT_EQ(mm_->mincore(0x100000, 4096, out).error(), Errno(ENOMEM));
  EXPECT_EQ(mm_->mincore(addr, ~uint64_t{0}, out).error(), Errno(ENOMEM));
  EXPECT_TRUE(mm_->madvise(addr, 4 * 4096, MADV_DONTNEED).ok());
  EXPECT_EQ(space().load(*memory_, addr + 4096), 0);
  EXPECT_EQ(mm_->madvise(addr, 4096, 12345).error(), Errno(EINVAL));
  EXPECT_EQ(mm_->madvise(addr + 1, 4096, MADV_DONTNEED).error(), Errno(EINVAL));
  EXPECT_EQ(mm_->madvise(addr, 4096, MADV_REMOVE).error(), Errno(EINVAL));
  EXPECT_TRUE(mm_->madvise(addr, 4 * 4096, 23).ok());  // MADV_POPULATE_WRITE
  EXPECT_TRUE(mm_->mincore(addr, 4 * 4096, out).ok());
  EXPECT_TRUE(mm_->copy_in(core, out, 4).ok());
  EXPECT_EQ(core[3], 1);
  EXPECT_TRUE(mm_->mlock(addr, 4096, false, false).ok());
  EXPECT_EQ(mm_->madvise(addr, 4096, MADV_DONTNEED).error(), Errno(EINVAL));
  EXPECT_EQ(mm_->usage().locked, 4096u);
  EXPECT_TRUE(mm_->munlock(addr, 4096).ok());
  EXPECT_EQ(mm_->usage().locked, 0u);
  mm_->set_limits({.locked = 8192});
  EXPECT_EQ(mm_->mlock(addr, 4 * 4096, false, false).error(), Errno(ENOMEM));
  EXPECT_TRUE(mm_->mlock(addr, 4 * 4096, false, true).ok());
}

TEST_F(MemoryManagerTest, MapsText) {
  auto file = host_file(std::string(8192, 'f')).or_null();
  ASSERT_TRUE(
      mm_->mmap({0x400000, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, file, 4096}).ok());
  ASSERT_TRUE(mm_->mmap({0x600000, 4096, kRw, kAnon | MAP_FIXED, {}}).ok());
  ASSERT_TRUE(mm_->set_anonymous_name(0x600000, 4096, "name").ok());
  EXPECT_EQ(mm_->maps_text(),
            "00400000-00401000 r-xp 00001000 08:01 77                                 /bin/file\n"
            "00600000-00601000 rw-p 00000000 00:00 0                                  [anon:name]\n"
            "7fffff000000-7fffff002000 r-xp 00000000 00:00 0                          [vdso]\n");
  EXPECT_NE(mm_->smaps_text().find("VmFlags: rd wr mr mw me ac \n"), std::string::npos);
}

}  // namespace
}  // namespace caisson
