// Message: one line for standard error, built without libc: it may be written in a signal handler
// or in a forked child of a threaded process.
#pragma once

#include <cstddef>

namespace caisson::psx::internal {

class Message {
 public:
  Message& text(const char* words);
  Message& number(long value);
  // A kernel result: the value, or for -4095..-1 the value and the error's name.
  Message& result(long value);
  // The name of the call if we have it, and its number.
  Message& call(long nr);
  // "psx: ", the line and a newline, in one write(2); nothing if standard error takes nothing for
  // 0.1 s.
  void print();

 private:
  char buffer_[512];
  size_t length_ = 0;
};

}  // namespace caisson::psx::internal
