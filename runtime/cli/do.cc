// caisson do: runs one program in a fresh sandbox whose root is the host's, with changes kept in
// memory.
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <limits>
#include <memory>

#include "runtime/cli/commands.h"
#include "runtime/cli/size.h"
#include "runtime/launcher.h"

extern char** environ;

namespace caisson::cli {
namespace {

struct Arguments {
  runtime::SandboxOptions options;
  std::string memory;
  std::string posture;
  std::vector<std::string> set_env;
  bool clear_env = false;
};

void set_variable(std::vector<std::string>& environment, const std::string& assignment) {
  std::string name = assignment.substr(0, assignment.find('=') + 1);
  std::erase_if(environment, [&](const std::string& entry) { return entry.starts_with(name); });
  environment.push_back(assignment);
}

int run(Arguments& arguments) {
  runtime::SandboxOptions& options = arguments.options;
  if (!arguments.clear_env) {
    for (char** entry = environ; *entry != nullptr; ++entry)
      options.environment.emplace_back(*entry);
  }
  for (const std::string& assignment : arguments.set_env)
    set_variable(options.environment, assignment);
  if (!arguments.memory.empty()) options.memory_bytes = *parse_size(arguments.memory);
  if (!arguments.posture.empty())
    options.required_posture = *runtime::parse_posture(arguments.posture);
  options.directory_required = !options.directory.empty();
  if (options.directory.empty()) {
    std::error_code error;
    auto here = std::filesystem::current_path(error);
    options.directory = error ? "/" : here.string();
  }
  return runtime::launch(options);
}

}  // namespace

void add_do(CLI::App& app, Action& action) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = app.add_subcommand("do", "Run a program: caisson do [options] -- CMD [ARGS]");
  verb->add_option("command", arguments->options.command, "The program and its arguments")
      ->required();
  verb->add_flag("--strace", arguments->options.strace,
                 "Print every system call to standard error");
  verb->add_flag(
      "--no-stub-calls", arguments->options.no_stub_calls,
      "Guest threads make no host calls for themselves: slower, less of the host exposed");
  verb->add_option("--patch-calls-after", arguments->options.patch_calls_after,
                   "Patch the system calls of a file after so many trapped ones; 0: never")
      ->type_name("N");
  verb->add_option("--memory", arguments->memory,
                   "Limit of the sandbox's memory, such as 512M or 2G")
      ->check([](const std::string& text) {
        auto size = parse_size(text);
        if (!size) return "'" + text + "' is not a size such as 512M or 2G";
        if (*size < (uint64_t{16} << 20)) return "'" + text + "' is less than the least, 16M";
        return std::string();
      });
  verb->add_option("--cpus", arguments->options.cpus,
                   "How many of the host's CPUs the sandbox may use")
      ->check(CLI::Range(1, 1024));
  verb->add_option("--hostname", arguments->options.hostname, "The name that uname(2) gives")
      ->check([](const std::string& name) {
        return name.empty() || name.size() > 64 ? std::string("a host name has 1 to 64 characters")
                                                : std::string();
      });
  verb->add_option("--cwd", arguments->options.directory, "Working directory inside")
      ->check([](const std::string& path) {
        return path.starts_with('/') ? std::string() : "'" + path + "' is not an absolute path";
      });
  verb->add_option("--env", arguments->set_env, "NAME=VALUE for the program's environment")
      ->take_all()
      ->allow_extra_args(false)
      ->check([](const std::string& text) {
        auto equals = text.find('=');
        return equals == std::string::npos || equals == 0 ? "'" + text + "' is not NAME=VALUE"
                                                          : std::string();
      });
  verb->add_flag("--clear-env", arguments->clear_env, "Start with an empty environment");
  verb->add_option("--require-posture", arguments->posture,
                   "Refuse to run below: full, no-namespaces or nested")
      ->check([](const std::string& name) {
        return runtime::parse_posture(name)
                   ? std::string()
                   : "'" + name + "' is not one of full, no-namespaces, nested";
      });
  // Everything from the program's name on is the program's, dashes or not.
  verb->prefix_command(false);
  verb->positionals_at_end();
  verb->callback([arguments, &action] { action = [arguments] { return run(*arguments); }; });
}

}  // namespace caisson::cli
