#include "base/errno.h"

#include <cstring>

namespace caisson {

std::string_view Errno::name() const {
  switch (value_) {
    case kERESTARTSYS:
      return "ERESTARTSYS";
    case kERESTARTNOINTR:
      return "ERESTARTNOINTR";
    case kERESTARTNOHAND:
      return "ERESTARTNOHAND";
    case kERESTART_RESTARTBLOCK:
      return "ERESTART_RESTARTBLOCK";
    case kEMEMORYLIMIT:
      return "EMEMORYLIMIT";
    default:
      break;
  }
  const char* name = strerrorname_np(value_);
  return name != nullptr ? name : "E?";
}

std::string_view Errno::message() const {
  const char* text = strerrordesc_np(value_);
  return text != nullptr ? text : "Unknown error";
}

}  // namespace caisson
