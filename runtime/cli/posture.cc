// caisson posture: how well a sandbox would be shut in on this host.
#include <cstdio>

#include "runtime/cli/commands.h"
#include "runtime/launcher.h"

namespace caisson::cli {

void add_posture(CLI::App& app, Action& action) {
  CLI::App* verb =
      app.add_subcommand("posture", "Print how well a sandbox is shut in on this host");
  verb->callback([&action] {
    action = [] {
      std::puts(std::string(runtime::posture_name(runtime::probe_posture())).c_str());
      return 0;
    };
  });
}

}  // namespace caisson::cli
