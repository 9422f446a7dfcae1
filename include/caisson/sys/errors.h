// What an Errno means: the classes that callers branch on, so that they need no lists of numbers.
//
// Errno itself (its number, name() and message()) is base/errno.h.
#pragma once

#include <cstdint>

#include "base/errno.h"
#include "base/error.h"
#include "base/result.h"

namespace caisson::sys {

using caisson::Errno;

enum class ErrorClass : uint8_t {
  kPermission,   // EACCES, EPERM
  kExist,        // EEXIST, ENOTEMPTY
  kNotExist,     // ENOENT
  kUnsupported,  // ENOSYS, EOPNOTSUPP (= ENOTSUP)
};

// "No such file or directory".
inline std::string_view message(Errno error) { return error.message(); }
bool is(Errno error, ErrorClass kind);
// The same call may succeed later: EINTR, EMFILE, ENFILE and every timeout.
bool is_temporary(Errno error);
// EAGAIN (= EWOULDBLOCK), ETIMEDOUT.
bool is_timeout(Errno error);

}  // namespace caisson::sys
