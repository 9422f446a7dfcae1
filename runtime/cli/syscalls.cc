// caisson syscalls: the table of system calls as JSON; what the documentation is made from.
#include <cstdio>
#include <nlohmann/json.hpp>

#include "runtime/cli/commands.h"
#include "syscalls/table.h"

namespace caisson::cli {
namespace {

const char* support_name(Support support) {
  switch (support) {
    case Support::kFull:
      return "full";
    case Support::kPartial:
      return "partial";
    case Support::kRefused:
      return "refused";
  }
  return "?";
}

}  // namespace

void add_syscalls(CLI::App& app, Action& action) {
  CLI::App* verb =
      app.add_subcommand("syscalls", "Print the system calls that programs find, as JSON");
  verb->callback([&action] {
    action = [] {
      nlohmann::json list = nlohmann::json::array();
      for (const SyscallEntry& entry : amd64_syscalls()) {
        list.push_back({{"number", entry.number},
                        {"name", entry.name},
                        {"support", support_name(entry.support)},
                        {"note", entry.note}});
      }
      std::puts(list.dump(2).c_str());
      return 0;
    };
  });
}

}  // namespace caisson::cli
