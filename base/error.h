// Error: a sentence for a person plus an Errno, for the rooms that talk to people (runtime/,
// embed/); what sys/ says of a start (StartError) becomes one.
//
// Reads "while doing X: cause: No such file or directory". Guest-visible rooms use plain Errno.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "base/errno.h"
#include "base/result.h"

namespace caisson {

class [[nodiscard]] Error {
 public:
  Error(std::string message, Errno code) : message_(std::move(message)), code_(code) {}

  // The whole sentence, with the errno's text at its end unless code() is 0.
  std::string text() const {
    if (code_.value() == 0) return message_;
    return message_ + ": " + std::string(code_.message());
  }
  const std::string& message() const { return message_; }
  Errno code() const { return code_; }

  // Puts "doing: " in front, outermost activity first.
  Error during(std::string_view doing) && {
    message_ = std::string(doing) + ": " + message_;
    return std::move(*this);
  }

 private:
  std::string message_;
  Errno code_;
};

}  // namespace caisson
