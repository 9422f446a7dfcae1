// Posture: how well the kernel process is shut in on this host. `caisson posture` prints it.
//
// The boundary between a guest and our kernel (stubs, their filters, memory) is the same at every
// level; the level says what an attacker would find who had taken over the kernel process itself.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace caisson::runtime {

enum class Posture {
  kNested,        // some namespaces are refused, e.g. inside another sandbox; the filter is on
  kNoNamespaces,  // no namespace of its own; the filter is on, no privileges
  kFull,  // own user, PID, mount, network, IPC and UTS namespaces, an empty root, no capabilities,
          // the filter
};

std::string_view posture_name(Posture posture);
std::optional<Posture> parse_posture(std::string_view name);
// Is `posture` at least as strong as `required`?
bool satisfies(Posture posture, Posture required);

}  // namespace caisson::runtime
