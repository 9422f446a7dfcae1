// execve(2): what the new program finds, what is reset and what is kept, every refusal, scripts.
#include <elf.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>

#include "tests/util/child.h"
#include "tests/util/memory.h"
#include "tests/util/must.h"
#include "tests/util/program.h"
#include "tests/util/signals.h"
#include "tests/util/temp_dir.h"

namespace caisson::test {
namespace {

using Strings = std::vector<std::string>;

// Where the probe lies: beside this program.
std::string probe(const char* name = "exec_probe") {
  const std::string& path = program_path();
  return path.substr(0, path.rfind('/') + 1) + name;
}

struct Outcome {
  int status;
  std::string output;
};

// Runs it in a child; the exit status is 200 + errno when exec fails (errnos below 56 only).
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

class ExecKinds : public ::testing::TestWithParam<const char*> {};

TEST_P(ExecKinds, PassesArgumentsAndEnvironment) {
  const Outcome outcome =
      run(probe(GetParam()), {"name", "args", "", "two words"}, {"A=1", "EMPTY=", "NOEQUALS"});
  EXPECT_THAT(outcome.status, ExitedWith(0));
  EXPECT_EQ(outcome.output, "4\nname\nargs\n\ntwo words\nA=1\nEMPTY=\nNOEQUALS\n");
}

TEST_P(ExecKinds, AuxiliaryVector) {
  EXPECT_THAT(run(probe(GetParam()), {"x", "auxv"}).status, ExitedWith(0));
}

TEST_P(ExecKinds, TwentyInARow) {
  for (int i = 0; i < 20; ++i) {
    EXPECT_THAT(run(probe(GetParam()), {"x", "exit", std::to_string(i)}).status, ExitedWith(i));
  }
}

INSTANTIATE_TEST_SUITE_P(Links, ExecKinds, ::testing::Values("exec_probe", "exec_probe_pie"),
                         [](const auto& info) { return std::string(info.param); });

// Linux supplies an empty argv[0].
TEST(Exec, EmptyArgumentVector) {
  const Outcome outcome = run(probe(), {});
  EXPECT_THAT(outcome.status, ExitedWith(0));
  EXPECT_EQ(outcome.output, "1\n\n");
}

TEST(Exec, NullVectors) {
  Pipe pipe = must_pipe();
  Child child = Child::run([&] {
    dup2(pipe.write_end.get(), 1);
    pipe.write_end.reset();
    execve(probe().c_str(), nullptr, nullptr);
    return 90;
  });
  pipe.write_end.reset();
  EXPECT_EQ(read_all(pipe.read_end.get()), "1\n\n");
  EXPECT_THAT(child.wait(), ExitedWith(0));
}

TEST(Exec, LongArgumentsArriveWhole) {
  const std::string argument(100'000, 'L');
  const Outcome outcome = run(probe(), {"x", "args", argument, argument});
  EXPECT_EQ(outcome.output, "4\nx\nargs\n" + argument + "\n" + argument + "\n");
}

TEST(Exec, TooBig) {
  const int too_big = 200 + E2BIG;
  // One string above 32 pages; many strings above the stack's quarter.
  EXPECT_THAT(run(probe(), {"x", std::string(32 * kPageSize, 'x')}).status, ExitedWith(too_big));
  EXPECT_THAT(run(probe(), Strings(40, std::string(100'000, 'x')), {},
                  [] {
                    const rlimit limit = {8 << 20, 8 << 20};
                    setrlimit(RLIMIT_STACK, &limit);
                  })
                  .status,
              ExitedWith(too_big));
}

TEST(Exec, Refusals) {
  TempDir dir;
  write_file(dir.file("text"), "plain text, no magic", 0755);
  write_file(dir.file("closed"),
             "\x7f"
             "ELF",
             0644);
  write_file(dir.file("short"),
             "\x7f"
             "ELF",
             0755);
  write_file(dir.file("empty"), "", 0755);
  const struct {
    std::string path;
    int error;
  } cases[] = {
      {dir.file("none"), ENOENT},
      {"", ENOENT},
      {dir.file("text/below"), ENOTDIR},
      {dir.path(), EACCES},
      {dir.file("closed"), EACCES},
      {dir.file("text"), ENOEXEC},
      {dir.file("short"), ENOEXEC},
      {dir.file("empty"), ENOEXEC},
      {"/dev/null", EACCES},
  };
  for (const auto& one : cases) {
    EXPECT_THAT(run(one.path, {"x"}).status, ExitedWith(200 + one.error)) << one.path;
  }
}

TEST(Exec, BadPointers) {
  const std::string path = probe();
  char name[] = "x";
  char* bad_element[] = {name, bad_pointer_to<char>(), nullptr};
  EXPECT_THAT(syscall(SYS_execve, bad_pointer(), nullptr, nullptr), FailsWith(EFAULT));
  EXPECT_THAT(syscall(SYS_execve, path.c_str(), bad_pointer(), nullptr), FailsWith(EFAULT));
  EXPECT_THAT(syscall(SYS_execve, path.c_str(), bad_element, nullptr), FailsWith(EFAULT));
  EXPECT_THAT(syscall(SYS_execve, path.c_str(), nullptr, bad_element), FailsWith(EFAULT));
  GuardedPages pages;
  EXPECT_THAT(syscall(SYS_execve, pages.put_unterminated("/bin/sh"), nullptr, nullptr),
              FailsWith(EFAULT));
  // A vector that runs into the guard without a null.
  auto** vector = reinterpret_cast<char**>(pages.last(8));
  *vector = name;
  EXPECT_THAT(syscall(SYS_execve, path.c_str(), vector, nullptr), FailsWith(EFAULT));
}

// Damaged copies of a good program are refused before anything is lost.
class ExecDamaged : public ::testing::Test {
 protected:
  template <typename Change>
  int outcome_of(Change change) {
    std::string bytes = read_file(probe(program_));
    change(bytes, *reinterpret_cast<Elf64_Ehdr*>(bytes.data()));
    const std::string path = dir_.file("damaged" + std::to_string(count_++));
    write_file(path, bytes, 0755);
    return run(path, {"x", "exit", "7"}).status;
  }
  TempDir dir_;
  const char* program_ = "exec_probe";
  int count_ = 0;
};

TEST_F(ExecDamaged, HeaderFields) {
  EXPECT_THAT(outcome_of([](std::string&, Elf64_Ehdr&) {}), ExitedWith(7));
  EXPECT_THAT(outcome_of([](std::string&, Elf64_Ehdr& header) { header.e_machine = EM_AARCH64; }),
              ExitedWith(200 + ENOEXEC));
  EXPECT_THAT(outcome_of([](std::string&, Elf64_Ehdr& header) { header.e_type = ET_REL; }),
              ExitedWith(200 + ENOEXEC));
  EXPECT_THAT(outcome_of([](std::string&, Elf64_Ehdr& header) { header.e_phentsize = 1; }),
              ExitedWith(200 + ENOEXEC));
  EXPECT_THAT(outcome_of([](std::string&, Elf64_Ehdr& header) { header.e_phnum = 0; }),
              ExitedWith(200 + ENOEXEC));
  EXPECT_THAT(outcome_of([](std::string& bytes, Elf64_Ehdr&) { bytes.resize(40); }),
              ExitedWith(200 + ENOEXEC));
}

// Turns the segment of type PT_GNU_STACK into an empty one within the text.
TEST_F(ExecDamaged, EmptySegmentsHideNothing) {
  EXPECT_THAT(outcome_of([](std::string& bytes, Elf64_Ehdr& header) {
                auto* segments = reinterpret_cast<Elf64_Phdr*>(bytes.data() + header.e_phoff);
                Elf64_Phdr text{};
                for (int i = 0; i < header.e_phnum; ++i)
                  if (segments[i].p_type == PT_LOAD && (segments[i].p_flags & PF_X) != 0)
                    text = segments[i];
                ASSERT_NE(text.p_filesz, 0u);
                for (int i = 0; i < header.e_phnum; ++i) {
                  if (segments[i].p_type != PT_GNU_STACK) continue;
                  segments[i] = text;
                  segments[i].p_vaddr += 8;
                  segments[i].p_offset += 8;
                  segments[i].p_filesz = segments[i].p_memsz = 0;
                }
              }),
              ExitedWith(7));
}

TEST_F(ExecDamaged, AlignmentsBeyondWhatIsFree) {
  program_ = "exec_probe_pie";
  for (int shift : {21, 30, 40, 45, 46}) {
    EXPECT_THAT(outcome_of([&](std::string& bytes, Elf64_Ehdr& header) {
                  auto* segments = reinterpret_cast<Elf64_Phdr*>(bytes.data() + header.e_phoff);
                  for (int i = 0; i < header.e_phnum; ++i)
                    if (segments[i].p_type == PT_LOAD) segments[i].p_align = uint64_t{1} << shift;
                }),
                ExitedWith(7))
        << shift;
  }
}

TEST(Exec, ScriptsRunTheirInterpreter) {
  TempDir dir;
  const std::string script = dir.file("script");
  write_file(script, "#!" + probe() + " args\nignored\n", 0755);
  Outcome outcome = run(script, {"zero", "one", "two"}, {"E=1"});
  EXPECT_THAT(outcome.status, ExitedWith(0));
  EXPECT_EQ(outcome.output, "5\n" + probe() + "\nargs\n" + script + "\none\ntwo\nE=1\n");
  // All after the first word is one argument; blanks around it go.
  write_file(script, "#! \t" + probe() + "   args and more \n", 0755);
  outcome = run(script, {"zero"});
  EXPECT_EQ(outcome.output, "3\n" + probe() + "\nargs and more\n" + script + "\n");
}

TEST(Exec, ScriptErrors) {
  TempDir dir;
  const std::string script = dir.file("script");
  write_file(script, "#!/nonexistent/interpreter\n", 0755);
  EXPECT_THAT(run(script, {"x"}).status, ExitedWith(200 + ENOENT));
  write_file(script, "#!\n", 0755);
  EXPECT_THAT(run(script, {"x"}).status, ExitedWith(200 + ENOEXEC));
  write_file(script, "#!" + dir.path() + "\n", 0755);
  EXPECT_THAT(run(script, {"x"}).status, ExitedWith(200 + EACCES));
  // Scripts as interpreters of scripts, up to a depth.
  std::string interpreter = probe() + " args";
  for (int depth = 0; depth < 7; ++depth) {
    const std::string path = dir.file("level" + std::to_string(depth));
    write_file(path, "#!" + interpreter + "\n", 0755);
    const int status = run(path, {"x"}).status;
    if (depth < 5) {
      EXPECT_THAT(status, ExitedWith(0)) << depth;
    } else {
      EXPECT_THAT(status, ExitedWith(200 + ELOOP)) << depth;
    }
    interpreter = path;
  }
}

TEST(Exec, SignalStateCarriedOver) {
  const Outcome outcome = run(probe(), {"x", "signals"}, {}, [] {
    signal(SIGUSR1, [](int) {});
    signal(SIGUSR2, SIG_IGN);
    const sigset_t set = signal_set({SIGTERM});
    sigprocmask(SIG_BLOCK, &set, nullptr);
    raise(SIGTERM);
  });
  EXPECT_THAT(outcome.status, ExitedWith(1 | 2 | 4 | 8));
}

int report_kept(int, char** argv) {
  stack_t stack;
  sigaltstack(nullptr, &stack);
  return (getpid() == std::atoi(argv[2])) | (stack.ss_flags == SS_DISABLE) << 1 |
         (umask(0) == 0123) << 2 | (getpriority(PRIO_PROCESS, 0) == 3) << 3;
}
RegisterProbe report_kept_probe("kept", report_kept);

TEST(Exec, ProcessAttributesKeptOrReset) {
  Child child = Child::run([] {
    static char memory[65536];
    const stack_t stack = {.ss_sp = memory, .ss_flags = 0, .ss_size = sizeof(memory)};
    sigaltstack(&stack, nullptr);
    umask(0123);
    setpriority(PRIO_PROCESS, 0, 3);
    const auto command = probe_command("kept", {std::to_string(getpid())});
    const auto arguments = exec_vector(command);
    execv(arguments[0], arguments.data());
    return 90;
  });
  EXPECT_THAT(child.wait(), ExitedWith(1 | 2 | 4 | 8));
}

TEST(Exec, ExecveatForms) {
  UniqueFd file = must_open(probe(), O_RDONLY | O_CLOEXEC);
  const std::string directory = probe().substr(0, probe().rfind('/'));
  UniqueFd dir = must_open(directory, O_RDONLY | O_DIRECTORY);
  const Strings strings = {"x", "exit", "9"};
  const auto arguments = exec_vector(strings);
  Child by_fd = Child::run([&] {
    syscall(SYS_execveat, file.get(), "", arguments.data(), nullptr, AT_EMPTY_PATH);
    return 90;
  });
  EXPECT_THAT(by_fd.wait(), ExitedWith(9));
  Child by_dir = Child::run([&] {
    syscall(SYS_execveat, dir.get(), "exec_probe", arguments.data(), nullptr, 0);
    return 90;
  });
  EXPECT_THAT(by_dir.wait(), ExitedWith(9));
  EXPECT_THAT(syscall(SYS_execveat, file.get(), "", arguments.data(), nullptr, 0),
              FailsWith(ENOENT));
  EXPECT_THAT(syscall(SYS_execveat, -5, "x", arguments.data(), nullptr, 0), FailsWith(EBADF));
  EXPECT_THAT(syscall(SYS_execveat, dir.get(), "exec_probe", arguments.data(), nullptr, 0x40000),
              FailsWith(EINVAL));
}

TEST(Exec, ThroughSymlink) {
  TempDir dir;
  must(symlink(probe().c_str(), dir.file("link").c_str()), "symlink");
  EXPECT_THAT(run(dir.file("link"), {"x", "exit", "5"}).status, ExitedWith(5));
}

TEST(Exec, TextIsBusyWhileOpenForWriting) {
  TempDir dir;
  const std::string copy = dir.file("copy");
  write_file(copy, read_file(probe()), 0755);
  UniqueFd writer = must_open(copy, O_RDWR);
  EXPECT_THAT(run(copy, {"x", "exit", "5"}).status, ExitedWith(200 + ETXTBSY));
  writer.reset();
  EXPECT_THAT(run(copy, {"x", "exit", "5"}).status, ExitedWith(5));
}

TEST(Exec, MemoryOfTheOldProgramIsGone) {
  // The child maps much, execs, and the parent sees no trouble doing so again and again.
  for (int i = 0; i < 5; ++i) {
    EXPECT_THAT(run(probe(), {"x", "exit", "6"}, {},
                    [] {
                      auto* big = static_cast<char*>(mmap(nullptr, 32 << 20, PROT_READ | PROT_WRITE,
                                                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
                      for (size_t at = 0; at < 32 << 20; at += kPageSize) big[at] = 1;
                    })
                    .status,
                ExitedWith(6));
  }
}

}  // namespace
}  // namespace caisson::test
