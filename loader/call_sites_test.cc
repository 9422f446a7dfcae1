// Which calls are found in small files made by hand, in this host's libc, and in files with
// nonsense in them.
#include "loader/call_sites.h"

#include <elf.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

namespace caisson {
namespace {

using platform::CallShape;
using Bytes = std::vector<uint8_t>;

class FileInMemory final : public Mappable {
 public:
  explicit FileInMemory(Bytes bytes) : bytes_(std::move(bytes)) {}
  Kind kind() const override { return Kind::kHostFile; }
  uint64_t size() const override { return bytes_.size(); }
  Result<size_t> read_at(uint64_t offset, std::span<std::byte> out) override {
    if (offset >= bytes_.size()) return size_t{0};
    size_t length = std::min(out.size(), bytes_.size() - offset);
    memcpy(out.data(), bytes_.data() + offset, length);
    return length;
  }
  MappedFileInfo info() const override { return {}; }

 private:
  Bytes bytes_;
};

struct Function {
  uint64_t at, size;  // in the text
};

constexpr uint64_t kTextOffset = 0x1000, kTextAddress = 0x3000;
constexpr uint64_t kFramesOffset = 0x200, kFramesAddress = 0x1200;
constexpr size_t kHeadSize = 64 + 3 * 56;

template <typename T>
void put(Bytes& bytes, uint64_t at, const T& value) {
  if (bytes.size() < at + sizeof value) bytes.resize(at + sizeof value);
  memcpy(bytes.data() + at, &value, sizeof value);
}

// A file with `text`, and frame descriptions for `functions`.
Bytes make_file(const Bytes& text, const std::vector<Function>& functions) {
  Bytes file(kTextOffset);
  Elf64_Ehdr header = {};
  memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_machine = EM_X86_64;
  header.e_phoff = sizeof header;
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phnum = 3;
  put(file, 0, header);
  uint64_t table = kFramesOffset;                               // of .eh_frame_hdr
  uint64_t frames = kFramesOffset + 12 + functions.size() * 8;  // of .eh_frame
  uint64_t end = frames + functions.size() * 16;
  auto address = [](uint64_t offset) { return kFramesAddress + (offset - kFramesOffset); };
  Elf64_Phdr segments[3] = {};
  segments[0] = {PT_LOAD, PF_R, kFramesOffset, kFramesAddress, 0, end - kFramesOffset, 0, 0};
  segments[1] = {PT_LOAD, PF_R | PF_X, kTextOffset, kTextAddress, 0, text.size(), 0, 0};
  segments[2] = {PT_GNU_EH_FRAME, PF_R, table, address(table), 0, frames - table, 0, 0};
  put(file, sizeof header, segments);
  constexpr uint8_t kHead[4] = {1, 0x1b, 0x03, 0x3b};
  put(file, table, kHead);
  put(file, table + 8, static_cast<uint32_t>(functions.size()));
  for (size_t i = 0; i < functions.size(); ++i) {
    uint64_t place = frames + i * 16;
    uint64_t start = kTextAddress + functions[i].at;
    put(file, table + 12 + i * 8, static_cast<int32_t>(start - address(table)));
    put(file, table + 16 + i * 8, static_cast<int32_t>(address(place) - address(table)));
    put(file, place, uint32_t{12});
    put(file, place + 4, uint32_t{4});
    put(file, place + 8, static_cast<int32_t>(start - (address(place) + 8)));
    put(file, place + 12, static_cast<uint32_t>(functions[i].size));
  }
  file.insert(file.end(), text.begin(), text.end());
  return file;
}

// The same with sections, and no table of where functions begin. `augmentation` is the common
// part's string, `data` what it says.
Bytes make_static_file(const Bytes& text, const std::vector<Function>& functions,
                       const std::string& augmentation = "zR", const Bytes& data = {0x1b}) {
  Bytes file = make_file(text, {});
  put(file, sizeof(Elf64_Ehdr) + 2 * sizeof(Elf64_Phdr), Elf64_Phdr{});
  uint64_t at = kFramesOffset;
  put(file, at + 4, uint32_t{0});
  uint64_t end = at + 8;
  auto add = [&](uint8_t byte) { put(file, end++, byte); };
  add(1);
  for (char letter : augmentation) add(static_cast<uint8_t>(letter));
  for (uint8_t byte : {0, 1, 0x78, 16}) add(byte);
  add(static_cast<uint8_t>(data.size()));
  for (uint8_t byte : data) add(byte);
  put(file, at, static_cast<uint32_t>(end - at - 4));
  for (const Function& function : functions) {
    put(file, end, uint32_t{12});
    put(file, end + 4, static_cast<uint32_t>(end + 4 - at));
    uint64_t place = kFramesAddress + (end + 8 - kFramesOffset);
    put(file, end + 8, static_cast<int32_t>(kTextAddress + function.at - place));
    put(file, end + 12, static_cast<uint32_t>(function.size));
    end += 16;
  }
  put(file, end, uint32_t{0});
  end += 4;
  constexpr char kNames[] = "\0.shstrtab\0.eh_frame";
  Elf64_Shdr sections[3] = {};
  sections[1].sh_name = 1;
  sections[1].sh_type = SHT_STRTAB;
  sections[1].sh_offset = file.size();
  sections[1].sh_size = sizeof kNames;
  sections[2].sh_name = 11;
  sections[2].sh_type = SHT_PROGBITS;
  sections[2].sh_flags = SHF_ALLOC;
  sections[2].sh_addr = kFramesAddress;
  sections[2].sh_offset = kFramesOffset;
  sections[2].sh_size = end - kFramesOffset;
  put(file, file.size(), kNames);
  auto header = *reinterpret_cast<const Elf64_Ehdr*>(file.data());
  header.e_shoff = file.size();
  header.e_shentsize = sizeof(Elf64_Shdr);
  header.e_shnum = 3;
  header.e_shstrndx = 1;
  put(file, 0, header);
  put(file, file.size(), sections);
  return file;
}

std::vector<CallSite> find(Bytes file, uint64_t offset = kTextOffset) {
  Ref<FileInMemory> mappable = make_ref<FileInMemory>(std::move(file));
  auto calls = find_call_sites(*mappable, offset);
  return calls.ok() ? calls.value().sites : std::vector<CallSite>{};
}

// nop; mov $39,%eax; syscall; ret
const Bytes kMov = {0x90, 0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xc3};
// xor %eax,%eax; syscall; cmp $-4096,%rax; ret
const Bytes kXor = {0x31, 0xc0, 0x0f, 0x05, 0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff, 0xc3};

TEST(CallSites, BothShapes) {
  Bytes text = kMov;
  text.insert(text.end(), kXor.begin(), kXor.end());
  auto sites = find(make_file(text, {{0, kMov.size()}, {kMov.size(), kXor.size()}}));
  ASSERT_EQ(sites.size(), 2u);
  EXPECT_EQ(sites[0].offset, kTextOffset + 1);
  EXPECT_EQ(sites[0].shape, CallShape::kMov);
  EXPECT_EQ(sites[0].value, 39u);
  EXPECT_EQ(sites[1].offset, kTextOffset + kMov.size() + 2);
  EXPECT_EQ(sites[1].shape, CallShape::kCompare);
  EXPECT_EQ(sites[1].value, 0xfffff000u);
}

TEST(CallSites, TheWideNumber) {
  // nop; mov $15,%rax; syscall
  auto sites = find(make_file({0x90, 0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05}, {{0, 10}}));
  ASSERT_EQ(sites.size(), 1u);
  EXPECT_EQ(sites[0].shape, CallShape::kMovWide);
  EXPECT_EQ(sites[0].offset, kTextOffset + 1);
  EXPECT_EQ(sites[0].value, 15u);
}

TEST(CallSites, OnlyInKnownFunctions) {
  EXPECT_TRUE(find(make_file(kMov, {})).empty());
  EXPECT_TRUE(find(make_file(kMov, {{0, 1}})).empty());
  EXPECT_TRUE(find(make_file(kMov, {{8, 1}})).empty());
  EXPECT_TRUE(find(make_file(kMov, {{0, 7}})).empty()) << "cut off";
  EXPECT_TRUE(find(make_file(kMov, {{0, 100}})).empty()) << "longer than the text";
  EXPECT_EQ(find(make_file(kMov, {{0, 8}})).size(), 1u);
}

TEST(CallSites, WithoutATableOfFunctions) {
  Bytes text = kXor;
  text.insert(text.end(), kMov.begin(), kMov.end());
  std::vector<Function> both = {{kXor.size(), kMov.size()}, {0, kXor.size()}};  // in any order
  EXPECT_EQ(find(make_static_file(text, both)).size(), 2u);
  EXPECT_EQ(find(make_static_file(text, {{0, kXor.size()}})).size(), 1u);
  EXPECT_TRUE(find(make_static_file(text, {})).empty());
  EXPECT_TRUE(find(make_static_file(text, {{1, kXor.size() - 1}})).empty()) << "not a beginning";
  // A personality routine and a table of the function's own come before.
  EXPECT_EQ(find(make_static_file(text, both, "zPLR", {0x9b, 1, 2, 3, 4, 0x1b, 0x1b})).size(), 2u);
  // Starts that are said in another way, and descriptions of which nothing is known.
  EXPECT_TRUE(find(make_static_file(text, both, "zR", {0x00})).empty());
  EXPECT_TRUE(
      find(make_static_file(text, both, "zPR", {0x00, 1, 2, 3, 4, 5, 6, 7, 8, 0x1b})).empty());
  EXPECT_TRUE(find(make_static_file(text, both, "zQR", {0, 0x1b})).empty());
  EXPECT_TRUE(find(make_static_file(text, both, "", {0x1b})).empty());
  EXPECT_TRUE(find(make_static_file(text, both, "zLLLLLLLLLR", Bytes(10, 0x1b))).empty());
}

TEST(CallSites, WhatOnlyLooksLikeACall) {
  // mov $39,%r8d; syscall: the same bytes behind a prefix
  EXPECT_TRUE(find(make_file({0x41, 0xb8, 39, 0, 0, 0, 0x0f, 0x05}, {{0, 8}})).empty());
  // movabs $..., %rax: the bytes are a number
  EXPECT_TRUE(
      find(make_file({0x48, 0xb8, 0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0, 0xc3}, {{0, 11}})).empty());
  // an unknown instruction before it
  EXPECT_TRUE(find(make_file({0x06, 0xb8, 39, 0, 0, 0, 0x0f, 0x05}, {{0, 8}})).empty());
  // a number that is none
  EXPECT_TRUE(find(make_file({0xb8, 39, 0, 1, 0, 0x0f, 0x05}, {{0, 7}})).empty());
}

TEST(CallSites, NotWhereTheFunctionJumpsIntoIt) {
  for (int8_t to = -9; to <= -2; ++to) {
    Bytes text = {0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xeb, static_cast<uint8_t>(to)};  // jmp
    bool inside = to > -9 && to < -2;
    EXPECT_EQ(find(make_file(text, {{0, text.size()}})).size(), inside ? 0u : 1u) << int{to};
  }
  for (uint8_t to = 0; to < kXor.size(); ++to) {
    Bytes text = kXor;
    auto back = static_cast<uint8_t>(to - kXor.size() - 6);
    text.insert(text.end(), {0x0f, 0x84, back, 0xff, 0xff, 0xff});  // je
    bool inside = to > 2 && to < 10;
    EXPECT_EQ(find(make_file(text, {{0, text.size()}})).size(), inside ? 0u : 1u) << int{to};
  }
}

// Where the number comes from does not matter if the result is compared at once.
TEST(CallSites, TheComparison) {
  // mov $257,%eax; mov %rdi,%rsi; syscall; then something
  auto shapes_with = [](std::initializer_list<uint8_t> then) {
    Bytes text = {0xb8, 1, 1, 0, 0, 0x48, 0x89, 0xfe, 0x0f, 0x05};
    text.insert(text.end(), then);
    text.push_back(0xc3);
    return find(make_file(text, {{0, text.size()}}));
  };
  for (uint8_t low : {0x00, 0x01}) {
    auto sites = shapes_with({0x48, 0x3d, low, 0xf0, 0xff, 0xff});
    ASSERT_EQ(sites.size(), 1u);
    EXPECT_EQ(sites[0].offset, kTextOffset + 8);
    EXPECT_EQ(sites[0].shape, CallShape::kCompare);
    EXPECT_EQ(sites[0].value, 0xfffff000u + low);
  }
  EXPECT_TRUE(shapes_with({0x48, 0x83, 0xf8, 0xfc}).empty()) << "cmp $-4, %rax: too short";
  EXPECT_TRUE(shapes_with({0x3d, 0x00, 0xf0, 0xff, 0xff}).empty()) << "cmp $-4096, %eax";
  EXPECT_TRUE(shapes_with({0x49, 0x3d, 0x00, 0xf0, 0xff, 0xff}).empty()) << "another prefix";
  EXPECT_TRUE(shapes_with({0x85, 0xc0}).empty()) << "test %eax, %eax";
  EXPECT_TRUE(shapes_with({0x48, 0x3d, 0x00, 0xf0}).empty()) << "cut off";
  // mov $39,%eax directly before it: one patch, over the number
  auto sites = find(make_file(
      {0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff, 0xc3}, {{0, 14}}));
  ASSERT_EQ(sites.size(), 1u);
  EXPECT_EQ(sites[0].shape, CallShape::kMov);
}

// The guest may have one of the pages replaced: half a patch would be left.
TEST(CallSites, NotAcrossPages) {
  for (const Bytes& call : {kMov, kXor}) {
    bool is_mov = call[0] == 0x90;
    size_t skipped = is_mov ? 1 : 2, size = is_mov ? 7 : 8;
    for (size_t start = 4096 - 12; start <= 4096; ++start) {
      Bytes text(start - skipped, 0x90);
      text.insert(text.end(), call.begin(), call.end());
      bool crosses = start < 4096 && start + size > 4096;
      EXPECT_EQ(find(make_file(text, {{0, text.size()}})).size(), crosses ? 0u : 1u)
          << start << " " << size;
    }
  }
}

TEST(CallSites, Refused) {
  auto error = [](Bytes file, uint64_t offset = kTextOffset) {
    Ref<FileInMemory> mappable = make_ref<FileInMemory>(std::move(file));
    auto calls = find_call_sites(*mappable, offset);
    return calls.ok() ? 0 : calls.error().value();
  };
  Bytes good = make_file(kMov, {{0, 8}});
  EXPECT_EQ(error(good), 0);
  EXPECT_EQ(error({}), ENOEXEC);
  EXPECT_EQ(error(good, 0x10), ENOEXEC) << "not text";
  EXPECT_EQ(error(good, kTextOffset + 100), ENOEXEC);
  Bytes unsorted = make_file(kMov, {{4, 4}, {0, 4}});
  EXPECT_EQ(error(unsorted), ENOEXEC);
  Bytes too_many = good;
  put(too_many, kFramesOffset + 8, uint32_t{1000});
  EXPECT_EQ(error(too_many), ENOEXEC);
}

Bytes read_file(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// The calls that `bytes`, a file of the host, has in its text.
std::vector<CallSite> find_in_text(const Bytes& bytes) {
  const auto* header = reinterpret_cast<const Elf64_Ehdr*>(bytes.data());
  const auto* segments = reinterpret_cast<const Elf64_Phdr*>(bytes.data() + header->e_phoff);
  uint64_t offset = 0;
  for (int i = 0; i < header->e_phnum; ++i)
    if (segments[i].p_type == PT_LOAD && (segments[i].p_flags & PF_X) != 0)
      offset = segments[i].p_offset;
  auto sites = find(bytes, offset);
  for (const CallSite& site : sites) {
    size_t call = site.offset + platform::layout_of(site.shape).call;
    EXPECT_EQ(bytes[call], 0x0f);
    EXPECT_EQ(bytes[call + 1], 0x05);
  }
  return sites;
}

TEST(CallSites, TheHostsLibc) {
  Bytes bytes = read_file("/lib/x86_64-linux-gnu/libc.so.6");
  if (bytes.empty()) GTEST_SKIP() << "no libc.so.6";
  auto sites = find_in_text(bytes);
  EXPECT_GT(sites.size(), 200u);
  EXPECT_TRUE(std::any_of(sites.begin(), sites.end(),
                          [](const CallSite& site) { return site.value == SYS_rt_sigreturn; }));
}

// Debian's: static, stripped, no .eh_frame_hdr.
TEST(CallSites, TheHostsBusybox) {
  Bytes bytes = read_file("/bin/busybox");
  if (bytes.empty()) GTEST_SKIP() << "no busybox";
  EXPECT_GT(find_in_text(bytes).size(), 100u);
}

TEST(CallSites, Nonsense) {
  const Bytes all_good[] = {make_file(kMov, {{0, 4}, {4, 4}, {8, 1}}),
                            make_static_file(kMov, {{0, 4}, {4, 4}, {8, 1}})};
  std::mt19937_64 random(1);
  for (int i = 0; i < 20'000; ++i) {
    Bytes bad = all_good[i % 2];
    if (i % 16 == 1) {  // and its sections
      size_t tail = 3 * sizeof(Elf64_Shdr) + 20;
      bad[bad.size() - 1 - random() % tail] = static_cast<uint8_t>(random());
    }
    for (int k = 0; k < 3; ++k) {
      size_t at = random() % (kFramesOffset + 100);
      bad[at < kHeadSize ? at : at % kHeadSize + kFramesOffset] = static_cast<uint8_t>(random());
    }
    if (i % 7 == 0) bad.resize(random() % bad.size());
    find(std::move(bad));
  }
}

}  // namespace
}  // namespace caisson
