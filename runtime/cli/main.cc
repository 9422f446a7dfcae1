// caisson: runs untrusted Linux programs in a kernel of their own.
#include <unistd.h>

#include <cstdio>
#include <string>

#include "runtime/cli/commands.h"
#include "runtime/protocol.h"

#ifndef CAISSON_VERSION
#define CAISSON_VERSION "development"
#endif

int main(int argc, char** argv) {
  using caisson::runtime::kExitInternal;
  CLI::App app{"Runs unmodified, untrusted Linux programs by being their kernel."};
  app.set_version_flag("--version", "caisson " CAISSON_VERSION);
  app.require_subcommand(1);
  caisson::cli::Action action;
  caisson::cli::add_do(app, action);
  caisson::cli::add_posture(app, action);
  caisson::cli::add_syscalls(app, action);
  std::string first = argc > 1 ? argv[1] : "";
  if (first.starts_with('-') && app.get_option_no_throw(first) == nullptr) {
    std::fprintf(stderr, "caisson: unknown option '%s'; see caisson --help\n", first.c_str());
    return kExitInternal;
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {  // --help, --version
    return app.exit(success);
  } catch (const CLI::Error& error) {
    std::fprintf(stderr, "caisson: %s; see caisson --help\n", error.what());
    return kExitInternal;
  }
  return action();
}
