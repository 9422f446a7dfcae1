#include "runtime/posture.h"

namespace caisson::runtime {

std::string_view posture_name(Posture posture) {
  switch (posture) {
    case Posture::kNested:
      return "nested";
    case Posture::kNoNamespaces:
      return "no-namespaces";
    case Posture::kFull:
      return "full";
  }
  return "?";
}

std::optional<Posture> parse_posture(std::string_view name) {
  for (Posture posture : {Posture::kNested, Posture::kNoNamespaces, Posture::kFull}) {
    if (posture_name(posture) == name) return posture;
  }
  return std::nullopt;
}

bool satisfies(Posture posture, Posture required) {
  return static_cast<int>(posture) >= static_cast<int>(required);
}

}  // namespace caisson::runtime
