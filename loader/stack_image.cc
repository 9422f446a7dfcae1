#include "loader/stack_image.h"

#include <elf.h>

#include <cstring>

#include "host/memory.h"

namespace caisson {

namespace {

constexpr char kPlatform[] = "x86_64";
constexpr size_t kRandomBytes = 16;

}  // namespace

StackImage build_stack(const StackContents& contents, GuestAddr top, bool randomize) {
  size_t strings = contents.filename.size() + 1;
  for (const std::string& text : contents.arguments) strings += text.size() + 1;
  for (const std::string& text : contents.environment) strings += text.size() + 1;

  // From above: 8 zero bytes, file name, environment, arguments.
  GuestAddr strings_start = top - 8 - strings;
  uint16_t gap = 0;
  if (randomize) host::fill_random(std::as_writable_bytes(std::span(&gap, 1)));
  GuestAddr at = (strings_start - gap % 8192) & ~uint64_t{15};
  GuestAddr platform = at -= sizeof(kPlatform);
  GuestAddr random = at -= kRandomBytes;

  StackImage image;
  GuestAddr filename = top - 8 - (contents.filename.size() + 1);
  // What lies on the stack goes where Linux has it among the rest.
  for (auto [type, value] : contents.auxv) {
    image.auxv.insert(image.auxv.end(), {type, value});
    if (type == AT_SECURE) image.auxv.insert(image.auxv.end(), {AT_RANDOM, random});
    if (type == AT_HWCAP2)
      image.auxv.insert(image.auxv.end(), {AT_EXECFN, filename, AT_PLATFORM, platform});
  }
  image.auxv.insert(image.auxv.end(), {AT_NULL, 0});
  size_t words =
      1 + contents.arguments.size() + 1 + contents.environment.size() + 1 + image.auxv.size();
  image.stack_pointer = (at - words * sizeof(uint64_t)) & ~uint64_t{15};

  image.bytes.resize(top - image.stack_pointer);
  auto place = [&](GuestAddr addr) { return image.bytes.data() + (addr - image.stack_pointer); };
  auto put_string = [&](GuestAddr addr, const std::string& text) {
    std::memcpy(place(addr), text.c_str(), text.size() + 1);
    return addr + text.size() + 1;
  };
  GuestAddr word_at = image.stack_pointer;
  auto put_word = [&](uint64_t value) {
    std::memcpy(place(word_at), &value, sizeof(value));
    word_at += sizeof(value);
  };

  put_word(contents.arguments.size());
  GuestAddr string_at = strings_start;
  image.arguments_start = string_at;
  for (const std::string& text : contents.arguments) {
    put_word(string_at);
    string_at = put_string(string_at, text);
  }
  put_word(0);
  image.arguments_end = image.environment_start = string_at;
  for (const std::string& text : contents.environment) {
    put_word(string_at);
    string_at = put_string(string_at, text);
  }
  put_word(0);
  image.environment_end = string_at;
  put_string(string_at, contents.filename);
  for (uint64_t value : image.auxv) put_word(value);
  std::memcpy(place(platform), kPlatform, sizeof(kPlatform));
  host::fill_random({place(random), kRandomBytes});
  return image;
}

}  // namespace caisson
