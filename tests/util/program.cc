// main() of every behaviour test.
//   PROGRAM [--skip=Suite.Test=reason]... [gtest flags]
//   PROGRAM --probe=NAME [arguments]
#include "tests/util/program.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <climits>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string_view>

namespace caisson::test {
namespace {

std::string& path_of_program() {
  static std::string path;
  return path;
}
std::map<std::string, Probe>& probes() {
  static std::map<std::string, Probe> all;
  return all;
}

// Shows every expected failure as a skipped test with its reason.
class SkipListener : public ::testing::EmptyTestEventListener {
 public:
  explicit SkipListener(std::map<std::string, std::string> reasons)
      : reasons_(std::move(reasons)) {}
  void OnTestStart(const ::testing::TestInfo& info) override {
    const std::string suite = info.test_suite_name();
    auto found = reasons_.find(suite + "." + info.name());
    if (found == reasons_.end()) found = reasons_.find(suite + ".*");
    if (found != reasons_.end()) GTEST_SKIP() << "expected failure: " << found->second;
  }

 private:
  std::map<std::string, std::string> reasons_;
};

std::map<std::string, std::string> take_skips(int* argc, char** argv) {
  constexpr std::string_view kFlag = "--skip=";
  std::map<std::string, std::string> reasons;
  int kept = 1;
  for (int i = 1; i < *argc; ++i) {
    const std::string_view argument = argv[i];
    if (!argument.starts_with(kFlag)) {
      argv[kept++] = argv[i];
      continue;
    }
    const std::string_view rest = argument.substr(kFlag.size());
    const size_t equals = rest.find('=');
    reasons[std::string(rest.substr(0, equals))] =
        equals == std::string_view::npos ? "no reason given" : std::string(rest.substr(equals + 1));
  }
  argv[kept] = nullptr;
  *argc = kept;
  return reasons;
}

std::string absolute(const char* name) {
  if (name[0] == '/') return name;
  char cwd[PATH_MAX];
  if (getcwd(cwd, sizeof(cwd)) == nullptr) return name;
  return std::string(cwd) + "/" + name;
}

}  // namespace

const std::string& program_path() { return path_of_program(); }

RegisterProbe::RegisterProbe(const char* name, Probe probe) { probes()[name] = probe; }

std::vector<std::string> probe_command(const std::string& name,
                                       const std::vector<std::string>& rest) {
  std::vector<std::string> command = {program_path(), "--probe=" + name};
  command.insert(command.end(), rest.begin(), rest.end());
  return command;
}

std::vector<char*> exec_vector(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (const std::string& text : strings) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

}  // namespace caisson::test

int main(int argc, char** argv) {
  using namespace caisson::test;
  constexpr std::string_view kProbe = "--probe=";
  path_of_program() = absolute(argv[0]);
  if (argc > 1 && std::string_view(argv[1]).starts_with(kProbe)) {
    const auto probe = probes().find(argv[1] + kProbe.size());
    if (probe == probes().end()) {
      std::fprintf(stderr, "no probe %s\n", argv[1]);
      return 98;
    }
    return probe->second(argc, argv);
  }
  auto skips = take_skips(&argc, argv);
  ::testing::InitGoogleTest(&argc, argv);
  ::testing::UnitTest::GetInstance()->listeners().Append(new SkipListener(std::move(skips)));
  return RUN_ALL_TESTS();
}
