// What execve(2) makes of files: the auxiliary vector, the stack's protection, scripts at their
// limits, set-id bits, busy text, and the space for arguments to the byte.
#include <cpuid.h>
#include <elf.h>
#include <fcntl.h>
#include <grp.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <sstream>

#include "tests/util/child.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"
#include "tests/util/program.h"
#include "tests/util/temp_dir.h"

namespace caisson::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Strings = std::vector<std::string>;

struct Outcome {
  int status;
  std::string output;
};

// The exit status is 200 + errno when exec fails.
Outcome run(
    const std::string& path, const Strings& arguments, const Strings& environment = {},
    const std::function<void()>& before = [] {}) {
  Pipe pipe = must_pipe();
  Child child = Child::run([&] {
    must(dup2(pipe.write_end.get(), 1), "dup2");
    pipe.write_end.reset();
    pipe.read_end.reset();
    const auto argv = exec_vector(arguments), envp = exec_vector(environment);
    before();
    execve(path.c_str(), argv.data(), envp.data());
    return 200 + errno;
  });
  pipe.write_end.reset();
  Outcome outcome;
  outcome.output = read_all(pipe.read_end.get());
  outcome.status = child.wait();
  return outcome;
}

// The program that exec_test starts, beside this one: prints argc and argv, each on a line.
std::string printer() {
  const std::string& path = program_path();
  return path.substr(0, path.rfind('/') + 1) + "exec_probe";
}

std::vector<uint64_t> auxv_words() {
  const std::string text = read_file("/proc/self/auxv");
  std::vector<uint64_t> words(text.size() / 8);
  std::memcpy(words.data(), text.data(), words.size() * 8);
  return words;
}

TEST(Auxv, EntriesAndTheirOrder) {
  std::vector<uint64_t> types;
  const auto words = auxv_words();
  for (size_t i = 0; i < words.size(); i += 2) types.push_back(words[i]);
  ASSERT_FALSE(types.empty());
  EXPECT_EQ(types.back(), static_cast<uint64_t>(AT_NULL));
  types.pop_back();
  std::vector<uint64_t> expected = {
      AT_SYSINFO_EHDR, AT_MINSIGSTKSZ, AT_HWCAP,  AT_PAGESZ, AT_CLKTCK, AT_PHDR,    AT_PHENT,
      AT_PHNUM,        AT_BASE,        AT_FLAGS,  AT_ENTRY,  AT_UID,    AT_EUID,    AT_GID,
      AT_EGID,         AT_SECURE,      AT_RANDOM, AT_HWCAP2, AT_EXECFN, AT_PLATFORM};
  if (types.size() > expected.size()) {  // since 6.3
    expected.push_back(27);              // AT_RSEQ_FEATURE_SIZE
    expected.push_back(28);              // AT_RSEQ_ALIGN
  }
  EXPECT_EQ(types, expected);
}

TEST(Auxv, HardwareCapabilitiesAreCpuids) {
  unsigned a, b, c, d;
  ASSERT_NE(__get_cpuid(1, &a, &b, &c, &d), 0);
  const auto words = auxv_words();
  for (size_t i = 0; i < words.size(); i += 2) {
    if (words[i] == AT_HWCAP) {
      EXPECT_EQ(words[i + 1], d);
    }
    if (words[i] == 27) {
      EXPECT_GE(words[i + 1], 20u);
    }
    if (words[i] == 28) {
      EXPECT_EQ(words[i + 1] & (words[i + 1] - 1), 0u);
    }
  }
}

int print_stack(int, char**) {
  std::istringstream lines(read_file("/proc/self/maps"));
  for (std::string line; std::getline(lines, line);)
    if (line.ends_with("[stack]")) write_all(1, line.substr(line.find(' ') + 1, 4));
  return 0;
}
RegisterProbe print_stack_probe("stack", print_stack);

// A copy of this program whose segment of `type` is changed.
std::string changed_copy(const TempDir& dir, uint32_t type,
                         const std::function<void(Elf64_Phdr&)>& change) {
  std::string bytes = read_file(program_path());
  Elf64_Ehdr header;
  std::memcpy(&header, bytes.data(), sizeof header);
  for (int i = 0; i < header.e_phnum; ++i) {
    Elf64_Phdr segment;
    char* at = bytes.data() + header.e_phoff + i * sizeof segment;
    std::memcpy(&segment, at, sizeof segment);
    if (segment.p_type == type) change(segment);
    std::memcpy(at, &segment, sizeof segment);
  }
  const std::string path = dir.file("changed");
  unlink(path.c_str());
  write_file(path, bytes, 0755);
  return path;
}

TEST(GnuStack, DecidesTheStacksProtection) {
  TempDir dir;
  const Strings arguments = {"x", "--probe=stack"};
  EXPECT_EQ(run(program_path(), arguments).output, "rw-p");
  auto flags = [&](uint32_t value) {
    return changed_copy(dir, PT_GNU_STACK, [value](Elf64_Phdr& s) { s.p_flags = value; });
  };
  EXPECT_EQ(run(flags(PF_R | PF_W), arguments).output, "rw-p");
  EXPECT_EQ(run(flags(PF_R | PF_W | PF_X), arguments).output, "rwxp");
  // Without one a 64-bit program's stack is not executable either.
  EXPECT_EQ(
      run(changed_copy(dir, PT_GNU_STACK, [](Elf64_Phdr& s) { s.p_type = PT_NULL; }), arguments)
          .output,
      "rw-p");
}

TEST(GnuStack, BrokenPropertyNotesAreIgnored) {
  TempDir dir;
  const Strings arguments = {"x", "--probe=stack"};
  EXPECT_EQ(
      run(changed_copy(dir, PT_NOTE, [](Elf64_Phdr& s) { s.p_type = PT_GNU_PROPERTY; }), arguments)
          .output,
      "rw-p");
}

int print_layout(int, char**) {
  char line[128];
  int on_stack = 0;
  void* mapping = mmap(nullptr, kPageSize, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  snprintf(line, sizeof line, "%p %p %p", static_cast<void*>(&on_stack), mapping, sbrk(0));
  write_all(1, line);
  return 0;
}
RegisterProbe print_layout_probe("layout", print_layout);

// Addresses of stack, mappings, heap, and of a position-independent program: of so many starts.
std::vector<std::set<std::string>> layouts(int starts, const std::function<void()>& before) {
  std::vector<std::set<std::string>> seen(4);
  for (int i = 0; i < starts; ++i) {
    std::istringstream words(run(program_path(), {"x", "--probe=layout"}, {}, before).output);
    for (size_t part = 0; part < 3; ++part) {
      std::string word;
      words >> word;
      seen[part].insert(word);
    }
    const std::string maps = run("/bin/cat", {"cat", "/proc/self/maps"}, {}, before).output;
    seen[3].insert(maps.substr(0, maps.find('-')));
  }
  return seen;
}

// The protection of what is mapped at `address`.
std::string protection_at(const void* address) {
  std::istringstream lines(read_file("/proc/self/maps"));
  const auto wanted = reinterpret_cast<unsigned long>(address);
  unsigned long start, end;
  char protection[8];
  for (std::string line; std::getline(lines, line);)
    if (sscanf(line.c_str(), "%lx-%lx %7s", &start, &end, protection) == 3 && start <= wanted &&
        wanted < end)
      return protection;
  return "";
}

int print_personality(int, char**) {
  write_all(1, std::to_string(personality(0xffffffff)));
  return 0;
}
RegisterProbe print_personality_probe("personality", print_personality);

TEST(Personality, ReadImpliesExecUntilTheNextProgram) {
  TempDir dir;
  write_file(dir.file("file"), "x");
  Child child = Child::run([&] {
    REQUIRE(personality(READ_IMPLIES_EXEC) == 0);
    auto map = [](int protection, int fd) {
      const int flags = MAP_PRIVATE | (fd < 0 ? MAP_ANONYMOUS : 0);
      return mmap(nullptr, kPageSize, protection, flags, fd, 0);
    };
    REQUIRE(protection_at(map(PROT_READ, -1)) == "r-xp");
    REQUIRE(protection_at(map(PROT_NONE, -1)) == "---p");
    REQUIRE(protection_at(map(PROT_READ, must_open(dir.file("file"), O_RDONLY).get())) == "r-xp");
    void* writable = map(PROT_WRITE, -1);
    REQUIRE(protection_at(writable) == "-w-p");
    REQUIRE(mprotect(writable, kPageSize, PROT_READ | PROT_WRITE) == 0);
    REQUIRE(protection_at(writable) == "rwxp");
    void* heap = sbrk(kPageSize);
    REQUIRE(protection_at(heap) == "rwxp");
    return 0;
  });
  EXPECT_THAT(child.wait(), ExitedWith(0));
  EXPECT_EQ(run(program_path(), {"x", "--probe=stack"}, {},
                [] { REQUIRE(personality(READ_IMPLIES_EXEC) == 0); })
                .output,
            "rw-p");
  EXPECT_EQ(run(program_path(), {"x", "--probe=personality"}, {},
                [] { REQUIRE(personality(READ_IMPLIES_EXEC) == 0); })
                .output,
            "0");
}

TEST(Layout, IsAnotherOneAtEachStart) {
  for (const auto& addresses : layouts(4, [] {})) EXPECT_GE(addresses.size(), 3u);
}

TEST(Layout, IsTheSameWithoutRandomisation) {
  auto before = [] { REQUIRE(personality(ADDR_NO_RANDOMIZE) != -1); };
  const auto seen = layouts(3, before);
  for (const auto& addresses : seen) EXPECT_EQ(addresses.size(), 1u);
  EXPECT_THAT(seen[3], ElementsAre("555555554000"));  // what debuggers' users know by heart
}

// What a script's line came to: the words that its interpreter saw, the script's path as "@".
std::string script_words(const std::string& line) {
  TempDir dir;
  const std::string path = dir.file("s");
  write_file(path, line, 0755);
  Outcome outcome = run(path, {"zero", "one"});
  if (outcome.status != 0) {
    return WIFEXITED(outcome.status) ? "E" + errno_name(WEXITSTATUS(outcome.status) - 200).substr(1)
                                     : "killed";
  }
  std::istringstream lines(outcome.output);
  std::string word, all;
  std::getline(lines, word);  // argc
  while (std::getline(lines, word)) all += (all.empty() ? "" : "|") + (word == path ? "@" : word);
  return all;
}

TEST(Script, OneArgumentWithItsBlanks) {
  const std::string p = printer();
  EXPECT_EQ(script_words("#!" + p + "\n"), p + "|@|one");
  EXPECT_EQ(script_words("#! \t" + p + " \t\n"), p + "|@|one");
  EXPECT_EQ(script_words("#!" + p + " a\n"), p + "|a|@|one");
  EXPECT_EQ(script_words("#!" + p + " \ta  b\tc \t\nrest"), p + "|a  b\tc|@|one");
  EXPECT_EQ(script_words("#!" + p), p + "|@|one");  // no end of line
  EXPECT_EQ(script_words("#!" + p + "\r\n"), "E" + errno_name(ENOENT).substr(1));
}

TEST(Script, LinesOf256Bytes) {
  const std::string p = printer();
  const std::string start = "#!" + p + " ";
  auto of_length = [&](size_t length) { return start + std::string(length - start.size(), 'a'); };
  auto argument = [&](size_t length) { return std::string(length - start.size(), 'a'); };
  for (size_t length : {200, 254, 255}) {
    EXPECT_EQ(script_words(of_length(length) + "\n"), p + "|" + argument(length) + "|@|one");
  }
  // What does not fit is cut off.
  for (size_t length : {256, 257, 300, 5000})
    EXPECT_EQ(script_words(of_length(length) + "\n"), p + "|" + argument(255) + "|@|one") << length;
  // But not in the interpreter's name.
  EXPECT_EQ(script_words("#!/" + std::string(300, 'n') + "\n"),
            "E" + errno_name(ENOEXEC).substr(1));
  EXPECT_EQ(script_words("#!" + std::string(300, ' ') + p + "\n"),
            "E" + errno_name(ENOEXEC).substr(1));
}

TEST(Script, NestedOnesKeepEachArgument) {
  TempDir dir;
  const std::string inner = dir.file("inner"), outer = dir.file("outer");
  write_file(inner, "#!" + printer() + " in\n", 0755);
  write_file(outer, "#!" + inner + " out\n", 0755);
  const Outcome outcome = run(outer, {"zero", "one"});
  EXPECT_EQ(outcome.output, "6\n" + printer() + "\nin\n" + inner + "\nout\n" + outer + "\none\n");
}

TEST(Script, SetIdBitsOfScriptsDoNotCount) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  TempDir dir;
  must(chmod(dir.path().c_str(), 0755), "chmod");
  const std::string script = dir.file("script");
  write_file(script, "#!" + program_path() + " --probe=ids\n", 0755);
  must(chmod(script.c_str(), 06755), "chmod");
  auto before = [] {
    REQUIRE(setgroups(0, nullptr) == 0 && setgid(1234) == 0 && setuid(1234) == 0);
  };
  EXPECT_EQ(run(script, {"x"}, {}, before).output, "1234 1234 1234 1234 0");
}

int print_ids(int, char**) {
  char line[128];
  snprintf(line, sizeof line, "%d %d %d %d %ld", getuid(), geteuid(), getgid(), getegid(),
           static_cast<long>(getauxval(AT_SECURE)));
  write_all(1, line);
  return 0;
}
RegisterProbe print_ids_probe("ids", print_ids);

TEST(SetId, FilesGiveTheirOwnersIds) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  TempDir dir;
  must(chmod(dir.path().c_str(), 0755), "chmod");
  const std::string copy = dir.file("copy");
  write_file(copy, read_file(program_path()), 0755);
  auto ids = [&](mode_t mode, bool no_new_privileges = false) {
    must(chmod(copy.c_str(), mode), "chmod");
    return run(copy, {"x", "--probe=ids"}, {},
               [&] {
                 REQUIRE(setgroups(0, nullptr) == 0 && setgid(1234) == 0 && setuid(1234) == 0);
                 if (no_new_privileges) REQUIRE(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
               })
        .output;
  };
  must(chown(copy.c_str(), 777, 888), "chown");
  EXPECT_EQ(ids(0755), "1234 1234 1234 1234 0");
  EXPECT_EQ(ids(04755), "1234 777 1234 1234 1");
  EXPECT_EQ(ids(02755), "1234 1234 1234 888 1");
  EXPECT_EQ(ids(02745), "1234 1234 1234 1234 0");  // mandatory locking, once
  EXPECT_EQ(ids(06755), "1234 777 1234 888 1");
  EXPECT_EQ(ids(06755, true), "1234 1234 1234 1234 0");
}

int wait_for_end(int, char**) {
  write_all(1, "r");
  read_all(0);
  return 0;
}
RegisterProbe wait_for_end_probe("wait", wait_for_end);

TEST(TextBusy, ARunningProgramCannotBeWritten) {
  TempDir dir;
  const std::string copy = dir.file("copy");
  write_file(copy, read_file(program_path()), 0755);
  Pipe input = must_pipe(), output = must_pipe();
  Child child = Child::run([&] {
    REQUIRE(dup2(input.read_end.get(), 0) == 0 && dup2(output.write_end.get(), 1) == 1);
    input.write_end.reset();
    const auto argv = exec_vector({"x", "--probe=wait"});
    execv(copy.c_str(), argv.data());
    return 200 + errno;
  });
  char ready;
  ASSERT_THAT(read(output.read_end.get(), &ready, 1), SucceedsWith(1));
  EXPECT_THAT(open(copy.c_str(), O_WRONLY), FailsWith(ETXTBSY));
  EXPECT_THAT(open(copy.c_str(), O_RDWR), FailsWith(ETXTBSY));
  EXPECT_THAT(open(copy.c_str(), O_RDONLY | O_TRUNC), FailsWith(ETXTBSY));
  EXPECT_THAT(truncate(copy.c_str(), 0), FailsWith(ETXTBSY));
  EXPECT_THAT(open(copy.c_str(), O_RDONLY), Succeeds());
  // Others may take its name.
  const std::string other = dir.file("other");
  write_file(other, "text");
  EXPECT_THAT(rename(other.c_str(), copy.c_str()), SucceedsWith(0));
  EXPECT_THAT(open(copy.c_str(), O_WRONLY), Succeeds());
  input.write_end.reset();
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

TEST(TextBusy, EndsWithTheProgram) {
  TempDir dir;
  const std::string copy = dir.file("copy");
  write_file(copy, read_file(printer()), 0755);
  EXPECT_THAT(run(copy, {"x", "exit", "3"}).status, ExitedWith(3));
  EXPECT_THAT(open(copy.c_str(), O_WRONLY | O_TRUNC), Succeeds());
  EXPECT_THAT(run(copy, {"x"}).status, ::testing::Not(ExitedWith(3)));
}

TEST(ArgumentSpace, OneStringOf32Pages) {
  const size_t most = 32 * kPageSize - 1;  // with its end
  EXPECT_THAT(run(printer(), {"x", "exit", "3", std::string(most, 'a')}).status, ExitedWith(3));
  EXPECT_THAT(run(printer(), {"x", "exit", "3", std::string(most + 1, 'a')}).status,
              ExitedWith(200 + E2BIG));
  EXPECT_THAT(run(printer(), {"x", "exit", "3"}, {std::string(most + 1, 'e')}).status,
              ExitedWith(200 + E2BIG));
}

// A quarter of the stack's limit for strings and pointers, exactly; at least 128 KiB, at most 6
// MiB.
TEST(ArgumentSpace, AQuarterOfTheStackToTheByte) {
  struct Case {
    size_t stack, space;
  };
  for (const Case& each :
       {Case{1 << 20, 256 << 10}, Case{256 << 10, 128 << 10}, Case{64 << 20, 6 << 20}}) {
    auto status = [&](long beyond) {
      Strings arguments = {"x", "exit", "3"};
      const std::string path = printer();
      size_t used = path.size() + 1 + 2 + 5 + 2 + 3 * sizeof(char*);
      const size_t goal = each.space + beyond;
      while (used < goal) {
        // Each costs its bytes, its end and its pointer.
        size_t length = std::min<size_t>(goal - used, 100'000) - 9;
        if (goal - used > 100'000 && goal - used < 100'100) length -= 200;
        arguments.emplace_back(length, 'a');
        used += length + 9;
      }
      return run(path, arguments, {},
                 [&] {
                   const rlimit limit = {each.stack, RLIM_INFINITY};
                   setrlimit(RLIMIT_STACK, &limit);
                 })
          .status;
    };
    EXPECT_THAT(status(0), ExitedWith(3)) << each.stack;
    EXPECT_THAT(status(1), ExitedWith(200 + E2BIG)) << each.stack;
  }
}

TEST(ArgumentSpace, ScriptsMakeItSmaller) {
  TempDir dir;
  const std::string script = dir.file("script");
  write_file(script, "#!" + printer() + "\n", 0755);
  Strings arguments(1300, std::string(92, 'a'));  // 101 bytes each of 131072
  auto before = [] {
    const rlimit limit = {256 << 10, RLIM_INFINITY};
    setrlimit(RLIMIT_STACK, &limit);
  };
  EXPECT_THAT(run(script, arguments, {}, before).status, ExitedWith(200 + E2BIG));
  arguments.resize(1200);
  EXPECT_THAT(run(script, arguments, {}, before).status, ExitedWith(0));
}

}  // namespace
}  // namespace caisson::test
