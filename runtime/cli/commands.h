// The verbs of the command line, a file each. Each adds its subcommand and says what to run for it.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace caisson::cli {

// What main() runs after a successful parse; returns the exit status.
using Action = std::function<int()>;

void add_do(CLI::App& app, Action& action);
void add_posture(CLI::App& app, Action& action);
void add_syscalls(CLI::App& app, Action& action);

}  // namespace caisson::cli
