#include "loader/call_sites.h"

#include <elf.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <span>
#include <string_view>

#include "loader/instruction_length.h"
#include "mm/memory_file.h"

namespace caisson {
namespace {

constexpr uint64_t kMaxText = 16 << 20;
constexpr uint64_t kMaxFunctions = 1 << 20;
constexpr size_t kMaxSegments = 64;
constexpr size_t kMaxSites = 2048;
constexpr uint32_t kMaxNumber = 0x1000;
constexpr size_t kMaxPattern = 16;  // bytes, at least as long as any of kPatterns

Result<void> read_exactly(Mappable& file, uint64_t offset, void* to, size_t length) {
  for (size_t done = 0; done < length;) {
    size_t got =
        TRY(file.read_at(offset + done, {static_cast<std::byte*>(to) + done, length - done}));
    if (got == 0) return Errno(ENOEXEC);
    done += got;
  }
  return {};
}

template <typename T>
std::optional<T> load(std::span<const std::byte> bytes, uint64_t at) {
  if (at > bytes.size() || bytes.size() - at < sizeof(T)) return std::nullopt;
  T value;
  memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

struct Segment {
  uint64_t offset = 0;
  uint64_t address = 0;
  std::vector<std::byte> bytes;
};

Result<Segment> read_segment(Mappable& file, const Elf64_Phdr& header, uint64_t limit) {
  if (header.p_filesz > limit) return Errno(EFBIG);
  uint64_t size = file.size();
  if (header.p_offset > size || size - header.p_offset < header.p_filesz) return Errno(ENOEXEC);
  Segment segment{header.p_offset, header.p_vaddr, std::vector<std::byte>(header.p_filesz)};
  TRY(read_exactly(file, segment.offset, segment.bytes.data(), segment.bytes.size()));
  return segment;
}

// The table of .eh_frame_hdr: where functions begin, in ascending order, and their frame
// descriptions. Where there is none, as in static programs in C, it is made of the descriptions.
class Functions {
 public:
  struct Entry {
    int32_t start;  // both relative to the header
    int32_t description;
  };

  static Result<Functions> create(Segment header, Segment frames) {
    constexpr uint8_t kVersion = 1, kUdata4 = 0x03, kDatarelSdata4 = 0x3b;
    constexpr size_t kFixed = 12;
    Functions functions{std::move(header), std::move(frames)};
    std::span<const std::byte> bytes = functions.header_.bytes;
    if (bytes.size() < kFixed || bytes[0] != std::byte{kVersion} ||
        bytes[2] != std::byte{kUdata4} || bytes[3] != std::byte{kDatarelSdata4})
      return Errno(ENOEXEC);
    uint32_t count = *load<uint32_t>(bytes, 8);
    if (count > kMaxFunctions || (bytes.size() - kFixed) / sizeof(Entry) < count)
      return Errno(ENOEXEC);
    functions.entries_.resize(count);
    if (count != 0) memcpy(functions.entries_.data(), bytes.data() + kFixed, count * sizeof(Entry));
    if (!std::is_sorted(functions.entries_.begin(), functions.entries_.end(),
                        [](const Entry& a, const Entry& b) { return a.start < b.start; }))
      return Errno(ENOEXEC);
    return functions;
  }

  static Result<Functions> create_without_header(Segment frames) {
    Functions functions{Segment{frames.offset, frames.address, {}}, std::move(frames)};
    std::span<const std::byte> bytes = functions.frames_.bytes;
    uint64_t next = 0;
    for (uint64_t at = 0; at < bytes.size(); at = next) {
      auto length = load<uint32_t>(bytes, at);
      if (!length) return Errno(ENOEXEC);
      if (*length == 0) break;
      auto common = load<uint32_t>(bytes, at + 4);
      auto begin = load<int32_t>(bytes, at + 8);
      if (!common || !begin || *length == 0xffffffff) return Errno(ENOEXEC);
      next = at + 4 + *length;
      if (*common == 0 || !has_relative_starts(bytes, at + 4 - *common)) continue;
      int64_t start = static_cast<int64_t>(at + 8) + *begin;
      if (start != static_cast<int32_t>(start) || at > INT32_MAX) continue;
      if (functions.entries_.size() == kMaxFunctions) return Errno(ENOEXEC);
      functions.entries_.push_back({static_cast<int32_t>(start), static_cast<int32_t>(at)});
    }
    std::sort(functions.entries_.begin(), functions.entries_.end(),
              [](const Entry& a, const Entry& b) { return a.start < b.start; });
    return functions;
  }

  // The function that holds `address`: its first address and its size.
  std::optional<std::pair<uint64_t, uint64_t>> find(uint64_t address) const {
    int64_t relative = static_cast<int64_t>(address - header_.address);
    auto it =
        std::upper_bound(entries_.begin(), entries_.end(), relative,
                         [](int64_t value, const Entry& entry) { return value < entry.start; });
    if (it == entries_.begin()) return std::nullopt;
    --it;
    uint64_t start = header_.address + static_cast<uint64_t>(int64_t{it->start});
    uint64_t description = header_.address + static_cast<uint64_t>(int64_t{it->description});
    // length, offset of the common part, start relative to its place, size: four bytes each, unless
    // encoded otherwise.
    uint64_t at = description - frames_.address;
    auto length = load<uint32_t>(frames_.bytes, at);
    auto common = load<uint32_t>(frames_.bytes, at + 4);
    auto begin = load<int32_t>(frames_.bytes, at + 8);
    auto size = load<uint32_t>(frames_.bytes, at + 12);
    if (!length || !common || !begin || !size || *length == 0xffffffff || *length < 12 ||
        *common == 0)
      return std::nullopt;
    if (description + 8 + static_cast<uint64_t>(int64_t{*begin}) != start) return std::nullopt;
    uint64_t end = *size;
    // They do not overlap, so that all together are not longer than the text.
    if (auto after = std::next(it); after != entries_.end())
      end = std::min(end, static_cast<uint64_t>(int64_t{after->start} - int64_t{it->start}));
    if (address - start >= end) return std::nullopt;
    // libc says that its rt_sigreturn(2) begins a byte early, for unwinders that look one back.
    if (end > 1 && is_signal_frame(at + 4 - *common)) ++start, --end;
    return std::pair{start, end};
  }

 private:
  // The augmentation of a common part of descriptions is a short string, behind length, number and
  // version.
  static constexpr uint64_t kAugmentation = 9, kLongest = 8;

  // Whether what the common part at `at` is for says where functions start as everybody does: four
  // bytes, relative to their place. It does so in bytes after the string and four numbers.
  static bool has_relative_starts(std::span<const std::byte> bytes, uint64_t at) {
    constexpr uint8_t kRelative4 = 0x1b;
    auto common = load<uint32_t>(bytes, at + 4);
    if (!common || *common != 0 || load<char>(bytes, at + kAugmentation) != 'z') return false;
    uint64_t letters = at + kAugmentation + 1;
    uint64_t data = letters;
    while (data - letters < kLongest && load<uint8_t>(bytes, data).value_or(0) != 0) ++data;
    if (load<uint8_t>(bytes, data++) != 0) return false;
    for (int number = 0; number < 4; ++number)  // LEB128
      while (load<uint8_t>(bytes, data++).value_or(0) >= 0x80) {
      }
    for (; auto letter = load<char>(bytes, letters); ++letters, ++data) {
      auto encoding = load<uint8_t>(bytes, data);
      if (!encoding) return false;
      switch (*letter) {
        case 'R':
          return *encoding == kRelative4;
        case 'L':
          break;
        case 'P':
          if ((*encoding & 0x07) != 0x03) return false;  // four bytes
          data += 4;
          break;
        default:
          return false;
      }
    }
    return false;
  }

  bool is_signal_frame(uint64_t at) const {
    for (uint64_t i = 0; i < kLongest; ++i) {
      auto letter = load<char>(frames_.bytes, at + kAugmentation + i);
      if (!letter || *letter == 0) return false;
      if (*letter == 'S') return true;
    }
    return false;
  }

  Functions(Segment header, Segment frames)
      : header_(std::move(header)), frames_(std::move(frames)) {}

  Segment header_;
  Segment frames_;
  std::vector<Entry> entries_;
};

// What is looked for: the lengths of the instructions, and the bytes but for the value.
struct Pattern {
  platform::CallShape shape;
  size_t value_at;  // of CallSite::value
  std::vector<size_t> lengths;
  std::vector<int> bytes;  // -1: of the value
  size_t size() const { return bytes.size(); }
};
const Pattern kPatterns[] = {
    {platform::CallShape::kMov, 1, {5, 2}, {0xb8, -1, -1, -1, -1, 0x0f, 0x05}},
    {platform::CallShape::kMovWide, 3, {7, 2}, {0x48, 0xc7, 0xc0, -1, -1, -1, -1, 0x0f, 0x05}},
    {platform::CallShape::kCompare, 4, {2, 6}, {0x0f, 0x05, 0x48, 0x3d, -1, -1, -1, -1}},
};

// Whether pages of their own hold parts of it: each may be replaced by the file's own, or by what
// the guest maps there.
bool crosses_pages(uint64_t at, const Pattern& pattern) {
  return page_down(at) != page_down(at + pattern.size() - 1);
}

bool matches(const Pattern& pattern, std::span<const std::byte> text) {
  if (text[0] != static_cast<std::byte>(pattern.bytes[0]) || text.size() < pattern.size())
    return false;
  for (size_t i = 0; i < pattern.size(); ++i)
    if (pattern.bytes[i] >= 0 && text[i] != static_cast<std::byte>(pattern.bytes[i])) return false;
  return true;
}

// The section of this name that lies in memory as it does in the file; needed by nobody who runs
// the file, so it may be missing.
Result<Segment> read_section(Mappable& file, const Elf64_Ehdr& header, std::string_view name,
                             uint64_t limit) {
  constexpr size_t kMaxSections = 256, kMaxNames = 64 << 10;
  if (header.e_shentsize != sizeof(Elf64_Shdr) || header.e_shnum > kMaxSections ||
      header.e_shstrndx >= header.e_shnum)
    return Errno(ENOEXEC);
  std::vector<Elf64_Shdr> sections(header.e_shnum);
  TRY(read_exactly(file, header.e_shoff, sections.data(), sections.size() * sizeof(Elf64_Shdr)));
  auto read = [&](const Elf64_Shdr& section, uint64_t most) {
    Elf64_Phdr as_segment = {};
    as_segment.p_offset = section.sh_offset;
    as_segment.p_vaddr = section.sh_addr;
    as_segment.p_filesz = section.sh_size;
    return read_segment(file, as_segment, most);
  };
  Segment names = TRY(read(sections[header.e_shstrndx], kMaxNames));
  for (const Elf64_Shdr& section : sections) {
    if ((section.sh_flags & SHF_ALLOC) == 0 || section.sh_type == SHT_NOBITS ||
        section.sh_name > names.bytes.size() || names.bytes.size() - section.sh_name <= name.size())
      continue;
    const std::byte* own = names.bytes.data() + section.sh_name;
    if (memcmp(own, name.data(), name.size()) == 0 && own[name.size()] == std::byte{0})
      return read(section, limit);
  }
  return Errno(ENOEXEC);
}

struct Candidate {
  uint64_t at = 0;  // in the text
  const Pattern* pattern = nullptr;
};

// Which of `candidates`, ascending, are what they look like in the function [start, end) of `text`.
// None if its instructions are not all known.
std::vector<Candidate> certain_ones(std::span<const std::byte> text, uint64_t start, uint64_t end,
                                    std::span<const Candidate> candidates) {
  std::vector<uint64_t> targets;
  std::vector<Candidate> found;
  size_t next_candidate = 0;
  size_t part = 0;  // instructions of the last of `found` that were seen
  bool inside = false;
  for (uint64_t at = start; at < end;) {
    auto shape = decode_instruction(text.subspan(at, end - at));
    if (!shape) return {};
    if (inside) {
      if (shape->length != found.back().pattern->lengths[part]) return {};
      inside = ++part < found.back().pattern->lengths.size();
    } else {
      while (next_candidate < candidates.size() && candidates[next_candidate].at < at)
        ++next_candidate;
      if (next_candidate < candidates.size() && candidates[next_candidate].at == at) {
        found.push_back(candidates[next_candidate]);
        if (shape->length != found.back().pattern->lengths[0]) return {};
        inside = true;
        part = 1;
      }
    }
    at += shape->length;
    if (!shape->branch) continue;
    // Only those near a candidate, as a file may be all jumps.
    uint64_t target = at + static_cast<uint64_t>(int64_t{*shape->branch});
    auto after = std::upper_bound(candidates.begin(), candidates.end(), target,
                                  [](uint64_t t, const Candidate& c) { return t < c.at; });
    if (after != candidates.begin() && target - std::prev(after)->at < kMaxPattern)
      targets.push_back(target);
  }
  if (inside) return {};
  std::sort(targets.begin(), targets.end());
  std::erase_if(found, [&](const Candidate& candidate) {
    auto target = std::upper_bound(targets.begin(), targets.end(), candidate.at);
    return target != targets.end() && *target < candidate.at + candidate.pattern->size();
  });
  return found;
}

}  // namespace

Result<TextCalls> find_call_sites(Mappable& file, uint64_t offset) {
  Elf64_Ehdr header;
  TRY(read_exactly(file, 0, &header, sizeof header));
  if (memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64 ||
      header.e_machine != EM_X86_64 || header.e_phentsize != sizeof(Elf64_Phdr) ||
      header.e_phnum > kMaxSegments)
    return Errno(ENOEXEC);
  std::vector<Elf64_Phdr> headers(header.e_phnum);
  TRY(read_exactly(file, header.e_phoff, headers.data(), headers.size() * sizeof(Elf64_Phdr)));

  auto holds = [](const Elf64_Phdr& segment, uint64_t at, uint64_t first) {
    return segment.p_type == PT_LOAD && at - first < segment.p_filesz;
  };
  auto text = std::find_if(headers.begin(), headers.end(), [&](const Elf64_Phdr& segment) {
    return (segment.p_flags & (PF_X | PF_W)) == PF_X && holds(segment, offset, segment.p_offset);
  });
  auto unwind = std::find_if(headers.begin(), headers.end(), [](const Elf64_Phdr& segment) {
    return segment.p_type == PT_GNU_EH_FRAME;
  });
  if (text == headers.end()) return Errno(ENOEXEC);
  auto find_functions = [&]() -> Result<Functions> {
    if (unwind == headers.end())
      return Functions::create_without_header(
          TRY(read_section(file, header, ".eh_frame", 2 * kMaxText)));
    // .eh_frame lies in the same segment as its header.
    auto frames = std::find_if(headers.begin(), headers.end(), [&](const Elf64_Phdr& segment) {
      return holds(segment, unwind->p_vaddr, segment.p_vaddr);
    });
    if (frames == headers.end()) return Errno(ENOEXEC);
    return Functions::create(TRY(read_segment(file, *unwind, kMaxText)),
                             TRY(read_segment(file, *frames, 2 * kMaxText)));
  };
  Functions functions = TRY(find_functions());

  TextCalls calls;
  calls.offset = page_down(text->p_offset);
  uint64_t end = std::min(page_up(text->p_offset + text->p_filesz), file.size());
  if (end <= calls.offset || end - calls.offset > kMaxText) return Errno(EFBIG);
  calls.text.resize(end - calls.offset);
  TRY(read_exactly(file, calls.offset, calls.text.data(), calls.text.size()));
  std::span<const std::byte> bytes = calls.text;
  uint64_t address = text->p_vaddr - (text->p_offset - calls.offset);  // of the first byte read

  std::vector<Candidate> candidates;
  for (uint64_t at = 0; at < bytes.size() && candidates.size() < kMaxSites; ++at)
    for (const Pattern& pattern : kPatterns)
      if (matches(pattern, bytes.subspan(at)) && !crosses_pages(at, pattern))
        candidates.push_back({at, &pattern});
  for (size_t i = 0; i < candidates.size();) {
    size_t next = i + 1;
    if (auto function = functions.find(address + candidates[i].at)) {
      uint64_t start = function->first - address;
      uint64_t end = start + function->second;
      while (next < candidates.size() && candidates[next].at < end) ++next;
      if (start < bytes.size() && end <= bytes.size()) {
        for (const Candidate& one :
             certain_ones(bytes, start, end, std::span(candidates).subspan(i, next - i))) {
          const Pattern& pattern = *one.pattern;
          auto value = *load<uint32_t>(bytes, one.at + pattern.value_at);
          if (value < kMaxNumber || pattern.shape == platform::CallShape::kCompare)
            calls.sites.push_back({calls.offset + one.at, pattern.shape, value});
        }
      }
    }
    i = next;
  }
  return calls;
}

}  // namespace caisson
