#include "loader/script.h"

#include <algorithm>
#include <cstring>

namespace caisson {

namespace {

bool is_blank(char c) { return c == ' ' || c == '\t'; }

// Both look at [first, last], the last included, and return null if there is none.
const char* skip_blanks(const char* first, const char* last) {
  for (; first <= last; ++first)
    if (!is_blank(*first)) return first;
  return nullptr;
}
const char* find_terminator(const char* first, const char* last) {
  for (; first <= last; ++first)
    if (is_blank(*first) || *first == '\0') return first;
  return nullptr;
}

// What a C string that begins at `first` and is cut off at `end` holds.
std::string c_string(const char* first, const char* end) {
  return std::string(first, std::find(first, end, '\0'));
}

}  // namespace

Result<ScriptLine> parse_script(std::span<const char, kFileHeadSize> head) {
  if (head[0] != '#' || head[1] != '!') return Errno(ENOEXEC);
  const char* begin = head.data() + 2;
  const char* last = head.data() + head.size() - 1;
  const auto* end = static_cast<const char*>(std::memchr(head.data(), '\n', head.size()));
  if (const void* nul = std::memchr(head.data(), '\0', head.size()); end != nullptr && nul < end) {
    if (nul != nullptr) end = nullptr;  // the line's end is looked for in the C string
  }
  if (end == nullptr) {
    const char* name = skip_blanks(begin, last);
    // Without an end after the name, the path may have been cut off.
    if (name == nullptr || find_terminator(name, last) == nullptr) return Errno(ENOEXEC);
    end = last;
  }
  while (is_blank(end[-1])) --end;
  const char* name = skip_blanks(begin, end);
  if (name == nullptr || name == end) return Errno(ENOEXEC);
  const char* separator = find_terminator(name, end);
  ScriptLine line;
  const char* argument = nullptr;
  if (separator != nullptr && *separator != '\0') argument = skip_blanks(separator, end);
  if (argument != nullptr) {
    line.interpreter = c_string(name, separator);
    line.argument = c_string(argument, std::max(argument, end));
  } else {
    line.interpreter = c_string(name, end);
  }
  return line;
}

}  // namespace caisson
