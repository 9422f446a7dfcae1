#include "mm/memory_file.h"

#include <gtest/gtest.h>

#include <random>

#include "mm/testing/fake_platform.h"

namespace caisson {
namespace {

using testing::make_memory_file;

TEST(MemoryFile, RefusesNonsense) {
  EXPECT_EQ(MemoryFile::create(host::make_memory_fd("m").value(), 4096).error(), Errno(EINVAL));
  EXPECT_EQ(MemoryFile::create(UniqueFd(), kHugePageSize).error(), Errno(EBADF));
  auto memory = make_memory_file(kHugePageSize * 4);
  EXPECT_EQ(memory->allocate(0).error(), Errno(ENOMEM));
  EXPECT_EQ(memory->allocate(100).error(), Errno(ENOMEM));
  EXPECT_EQ(memory->allocate(kHugePageSize * 5).error(), Errno(ENOMEM));
  EXPECT_EQ(memory->allocate(~uint64_t{0} << 12).error(), Errno(ENOMEM));
}

TEST(MemoryFile, FreedPagesComeBackAsZeros) {
  auto memory = make_memory_file(kHugePageSize * 2);
  MemoryRange range = MUST(memory->allocate(8 * kPageSize));
  *memory->at(range.offset) = std::byte{7};
  *memory->at(range.end() - 1) = std::byte{8};
  EXPECT_EQ(memory->resident_bytes(), 2 * kPageSize);
  memory->release(range);
  memory->trim();
  EXPECT_EQ(memory->resident_bytes(), 0u);
  MemoryRange again = MUST(memory->allocate(8 * kPageSize));
  EXPECT_EQ(again, range);
  EXPECT_EQ(*memory->at(range.offset), std::byte{0});
}

TEST(MemoryFile, KeepsABoundedNumberOfFreePages) {
  auto memory = make_memory_file();
  constexpr uint64_t kLength = 256 * 1024;
  std::vector<MemoryRange> ranges;
  for (int i = 0; i < 64; ++i) {
    ranges.push_back(MUST(memory->allocate(kLength)));
    for (uint64_t at = 0; at < kLength; at += kPageSize)
      *memory->at(ranges.back().offset + at) = std::byte{9};
  }
  for (const MemoryRange& range : ranges) memory->release(range);
  uint64_t warm = memory->resident_bytes();
  EXPECT_GT(warm, 0u);
  EXPECT_LE(warm, 4u * 1024 * 1024);
  MemoryRange all = MUST(memory->allocate(64 * kLength));
  for (uint64_t at = 0; at < all.length; at += kPageSize)
    ASSERT_EQ(*memory->at(all.offset + at), std::byte{0});
  memory->release(all);
  memory->trim();
  EXPECT_EQ(memory->resident_bytes(), 0u);
}

TEST(MemoryFile, KnowsWhatItsOwnerHasNotTouched) {
  auto memory = make_memory_file();
  auto untouched = [&](MemoryRange range) {
    std::vector<MemoryRange> found;
    memory->find_untouched(range, [&](MemoryRange part) { found.push_back(part); });
    return found;
  };
  auto fill = [&](MemoryRange range) {
    for (uint64_t at = 0; at < range.length; at += kPageSize)
      *memory->at(range.offset + at) = std::byte{1};
  };
  MemoryRange range = MUST(memory->allocate(8 * kPageSize));
  fill(range);
  EXPECT_TRUE(untouched(range).empty());
  memory->release(range);
  ASSERT_EQ(MUST(memory->allocate(8 * kPageSize)), range);  // warm
  EXPECT_EQ(untouched(range), std::vector{range});
  *memory->at(range.offset + 3 * kPageSize) = std::byte{1};
  const std::vector around{MemoryRange{range.offset, 3 * kPageSize},
                           MemoryRange{range.offset + 4 * kPageSize, 4 * kPageSize}};
  EXPECT_EQ(untouched(range), around);
  // Touched once is touched for ever, even if only zeros are left.
  *memory->at(range.offset + 3 * kPageSize) = std::byte{0};
  EXPECT_EQ(untouched(range), around);
  ASSERT_TRUE(memory->populate({range.offset, kPageSize}).ok());
  EXPECT_EQ(untouched({range.offset, 3 * kPageSize}),
            std::vector({MemoryRange{range.offset + kPageSize, 2 * kPageSize}}));
  memory->discard(range);
  EXPECT_TRUE(untouched(range).empty());
  fill(range);
  memory->clear(range);
  EXPECT_EQ(untouched(range), std::vector{range});
  memory->release(range);
  EXPECT_TRUE(untouched(range).empty());
}

TEST(MemoryFile, CopiesIntoPagesThatAreThereAndThatAreNot) {
  auto memory = make_memory_file();
  std::vector<std::byte> data(600 * 1024);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i * 2654435761u >> 24);
  for (uint64_t within : {0, 1, 4095}) {
    MemoryRange range = MUST(memory->allocate(1024 * 1024));
    for (uint64_t page : {3, 4, 60, 140})
      *memory->at(range.offset + page * kPageSize) = std::byte{7};
    std::byte* to = memory->at(range.offset + within);
    EXPECT_EQ(memory->copy_out(to, data.data(), data.size()), 0u);
    EXPECT_EQ(std::memcmp(to, data.data(), data.size()), 0);
    for (uint64_t i = 0; i < within; ++i) EXPECT_EQ(*memory->at(range.offset + i), std::byte{0});
    for (size_t i = 0; i < kPageSize; ++i) EXPECT_EQ(to[data.size() + i], std::byte{0});
    memory->release(range);
    memory->trim();
  }
}

TEST(MemoryFile, TheReserveIsSpentAndPutByAgain) {
  auto memory = make_memory_file();
  EXPECT_FALSE(memory->spend_reserve());  // there is none
  constexpr uint64_t kLength = 100 * 1024;
  ASSERT_TRUE(memory->keep_reserve(kLength).ok());
  EXPECT_EQ(memory->resident_bytes(), kLength);
  EXPECT_FALSE(memory->is_short());
  EXPECT_TRUE(memory->spend_reserve());
  EXPECT_TRUE(memory->is_short());
  EXPECT_LT(memory->resident_bytes(), kLength);
  EXPECT_TRUE(memory->spend_reserve());
  EXPECT_EQ(memory->resident_bytes(), 0u);
  EXPECT_FALSE(memory->spend_reserve());
  EXPECT_TRUE(memory->refill_reserve());
  EXPECT_FALSE(memory->is_short());
  EXPECT_EQ(memory->resident_bytes(), kLength);
}

TEST(MemoryFile, ALimitOfOurOwnIsKept) {
  auto memory = make_memory_file();
  EXPECT_FALSE(memory->has_limit_of_host());
  constexpr uint64_t kLimit = 4 * 1024 * 1024;
  constexpr uint64_t kHalf = kLimit / 2;
  memory->limit_to(kLimit);
  MemoryRange range = MUST(memory->allocate(2 * kLimit));
  EXPECT_FALSE(memory->has_room_for_huge(kHalf + kPageSize));
  EXPECT_TRUE(memory->has_room({range.offset, kLimit}));
  EXPECT_FALSE(memory->has_room({range.offset, kLimit + kPageSize}));
  ASSERT_TRUE(memory->populate({range.offset, kHalf}).ok());
  EXPECT_TRUE(memory->has_room({range.offset, kLimit}));  // half of it is there
  EXPECT_FALSE(memory->has_room({range.offset + kHalf, kHalf + kPageSize}));
  std::vector<std::byte> data(kLimit, std::byte{5});
  EXPECT_EQ(memory->write(range.offset + kHalf, data).error(), Errno(kEMEMORYLIMIT));
  EXPECT_EQ(memory->resident_bytes(), kLimit);
  EXPECT_TRUE(memory->write(range.offset, data).ok());  // nothing new
  EXPECT_EQ(memory->populate({range.offset, 2 * kLimit}).error(), Errno(ENOMEM));
  EXPECT_EQ(memory->resident_bytes(), kLimit);
  memory->release(range);
}

TEST(MemoryFile, ReferencesCountPerByteRange) {
  auto memory = make_memory_file();
  MemoryRange range = MUST(memory->allocate(10 * kPageSize));
  for (uint64_t i = 0; i < 10; ++i) *memory->at(range.offset + i * kPageSize) = std::byte{1};
  MemoryRange middle{range.offset + 3 * kPageSize, 4 * kPageSize};
  memory->add_reference(middle);
  memory->release(range);
  memory->trim();
  EXPECT_EQ(memory->resident_bytes(), middle.length);
  EXPECT_EQ(memory->allocated_bytes(), middle.length);
  memory->release(middle);
  memory->trim();
  EXPECT_EQ(memory->resident_bytes(), 0u);
  EXPECT_EQ(memory->allocated_bytes(), 0u);
}

TEST(MemoryFile, LargeRangesAreCongruent) {
  auto memory = make_memory_file();
  (void)MUST(memory->allocate(kPageSize));
  MemoryRange range = MUST(memory->allocate(3 * kHugePageSize, 0x7f0000005000));
  EXPECT_EQ(range.offset % kHugePageSize, 0x5000u);
}

TEST(MemoryFile, FindsAndCopiesData) {
  auto memory = make_memory_file();
  MemoryRange source = MUST(memory->allocate(64 * kPageSize));
  MemoryRange target = MUST(memory->allocate(64 * kPageSize));
  EXPECT_TRUE(memory->next_data(source).empty());
  *memory->at(source.offset + 5 * kPageSize) = std::byte{42};
  *memory->at(source.offset + 6 * kPageSize) = std::byte{43};
  MemoryRange data = memory->next_data(source);
  EXPECT_EQ(data, (MemoryRange{source.offset + 5 * kPageSize, 2 * kPageSize}));
  ASSERT_TRUE(memory->copy_pages(target.offset + 5 * kPageSize, data.offset, data.length).ok());
  EXPECT_EQ(*memory->at(target.offset + 6 * kPageSize), std::byte{43});
  memory->discard(source);
  EXPECT_TRUE(memory->next_data(source).empty());
}

TEST(MemoryFile, RandomUseKeepsRangesApart) {
  auto memory = make_memory_file(kHugePageSize * 64);
  std::mt19937_64 random(1);
  struct Owned {
    MemoryRange range;
    uint8_t tag;
  };
  std::vector<Owned> owned;
  uint8_t next_tag = 1;
  for (int i = 0; i < 4000; ++i) {
    if (owned.empty() || random() % 2 == 0) {
      uint64_t pages = 1 + random() % (random() % 10 == 0 ? 2000 : 20);
      Result<MemoryRange> range = memory->allocate(pages * kPageSize, random() << 12);
      if (!range.ok()) continue;
      ASSERT_EQ(*memory->at(range->offset), std::byte{0});
      *memory->at(range->offset) = std::byte{next_tag};
      *memory->at(range->end() - 1) = std::byte{next_tag};
      owned.push_back({range.value(), next_tag});
      next_tag = static_cast<uint8_t>(next_tag % 255 + 1);
    } else {
      std::swap(owned[random() % owned.size()], owned.back());
      auto [range, tag] = owned.back();
      ASSERT_EQ(*memory->at(range.offset), std::byte{tag});
      ASSERT_EQ(*memory->at(range.end() - 1), std::byte{tag});
      owned.pop_back();
      memory->release(range);
    }
  }
  for (const Owned& left : owned) memory->release(left.range);
  EXPECT_EQ(memory->allocated_bytes(), 0u);
  memory->trim();
  EXPECT_EQ(memory->resident_bytes(), 0u);
  // Everything is one free extent again.
  EXPECT_TRUE(memory->allocate(kHugePageSize * 64).ok());
}

}  // namespace
}  // namespace caisson
