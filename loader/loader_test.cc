// Programs good and bad, loaded by us and executed by the host: both must agree on the outcome.
#include "loader/loader.h"

#include <elf.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <random>

#include "loader/script.h"
#include "loader/stack_image.h"
#include "mm/host_file_mappable.h"
#include "mm/testing/fake_platform.h"

namespace caisson {
namespace {

using testing::FakeAddressSpace;
using testing::FakePlatform;
using testing::make_memory_file;

class HostExecutable final : public ExecutableFile {
 public:
  HostExecutable(platform::Platform& platform, UniqueFd fd)
      : file_(adopt_ref(new HostFileMappable(platform, std::move(fd), {}))) {}
  uint64_t size() const override { return file_->size(); }
  Result<size_t> pread(uint64_t offset, std::span<std::byte> out) override {
    return file_->read_at(offset, out);
  }
  Result<Ref<Mappable>> mappable() override { return Ref<Mappable>(file_); }

 private:
  Ref<HostFileMappable> file_;
};

class HostOpener final : public ProgramOpener {
 public:
  explicit HostOpener(platform::Platform& platform) : platform_(platform) {}
  Result<Ref<ExecutableFile>> open_program(std::string_view path) override {
    UniqueFd fd(::open(std::string(path).c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!fd) return Errno(errno);
    struct stat status;
    if (::fstat(fd.get(), &status) != 0) return Errno(errno);
    if (!S_ISREG(status.st_mode) || (status.st_mode & 0111) == 0) return Errno(EACCES);
    return Ref<ExecutableFile>(adopt_ref(new HostExecutable(platform_, std::move(fd))));
  }

 private:
  platform::Platform& platform_;
};

// A program of one executable and one writable segment that exits with 42.
struct Image {
  Elf64_Ehdr header{};
  std::vector<Elf64_Phdr> segments;
  std::string interpreter;  // at kInterpreterAt
  size_t file_size = 0x2100;

  static constexpr size_t kCodeAt = 0x800;
  static constexpr size_t kInterpreterAt = 0x900;

  explicit Image(uint16_t type = ET_EXEC, uint64_t base = 0x400000) {
    if (type == ET_DYN) base = 0;
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_ident[EI_VERSION] = EV_CURRENT;
    header.e_type = type;
    header.e_machine = EM_X86_64;
    header.e_version = EV_CURRENT;
    header.e_entry = base + kCodeAt;
    header.e_phoff = sizeof(header);
    header.e_ehsize = sizeof(header);
    header.e_phentsize = sizeof(Elf64_Phdr);
    segments.push_back({PT_LOAD, PF_R | PF_X, 0, base, base, 0x1000, 0x1000, 0x1000});
    segments.push_back({PT_LOAD, PF_R | PF_W, 0x1000, base + 0x11000, 0, 0x1080, 0x4000, 0x1000});
  }
  void set_interpreter(const std::string& path) {
    interpreter = path + '\0';
    segments.push_back(
        {PT_INTERP, PF_R, kInterpreterAt, 0, 0, interpreter.size(), interpreter.size(), 1});
  }
  std::string bytes() const {
    std::string out(std::max<size_t>(file_size, 0x2100), '\0');
    Elf64_Ehdr copy = header;
    if (copy.e_phnum == 0) copy.e_phnum = static_cast<uint16_t>(segments.size());
    std::memcpy(out.data(), &copy, sizeof(copy));
    std::memcpy(out.data() + sizeof(copy), segments.data(), segments.size() * sizeof(Elf64_Phdr));
    const unsigned char code[] = {0xb8, 60, 0, 0, 0, 0xbf, 42, 0, 0, 0, 0x0f, 0x05};
    std::memcpy(out.data() + kCodeAt, code, sizeof(code));
    std::memcpy(out.data() + kInterpreterAt, interpreter.data(),
                std::min<size_t>(interpreter.size(), 0x700));
    std::memset(out.data() + 0x1000, 'd', 0x1100);
    out.resize(file_size);
    return out;
  }
};

class LoaderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/loader_test.XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    directory_ = name;
  }
  void TearDown() override {
    for (const std::string& file : files_) ::unlink(file.c_str());
    ::rmdir(directory_.c_str());
  }

  std::string write_file(const std::string& name, const std::string& content, int mode = 0755) {
    std::string path = directory_ + "/" + name;
    ::unlink(path.c_str());
    UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, mode));
    EXPECT_EQ(::write(fd.get(), content.data(), content.size()),
              static_cast<ssize_t>(content.size()));
    files_.push_back(path);
    return path;
  }

  struct Outcome {
    int error = 0;        // errno of execve
    bool killed = false;  // by SIGSEGV (or SIGBUS), at the latest when it ran
    bool ran = false;     // exited with 42
    std::string text() const {
      return killed ? "killed" : ran ? "ran" : "errno " + std::to_string(error);
    }
  };

  // What the host's execve does with it.
  Outcome execute(const std::string& path, std::vector<std::string> arguments = {"program"}) {
    int report[2];
    EXPECT_EQ(::pipe2(report, O_CLOEXEC), 0);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    char* environment[] = {nullptr};
    pid_t pid = ::fork();
    if (pid == 0) {
      struct rlimit limit = {0, 0};
      ::setrlimit(RLIMIT_CORE, &limit);
      ::alarm(10);
      ::execve(path.c_str(), argv.data(), environment);
      int error = errno;
      (void)!::write(report[1], &error, sizeof(error));
      ::_exit(0);
    }
    ::close(report[1]);
    Outcome outcome;
    if (::read(report[0], &outcome.error, sizeof(outcome.error)) != sizeof(outcome.error))
      outcome.error = 0;
    ::close(report[0]);
    int status = 0;
    EXPECT_EQ(::waitpid(pid, &status, 0), pid);
    outcome.killed = WIFSIGNALED(status);
    outcome.ran = WIFEXITED(status) && outcome.error == 0;
    if (outcome.ran) {
      EXPECT_EQ(WEXITSTATUS(status), 42);
    }
    return outcome;
  }

  Result<LoadedProgram, LoadError> load(const std::string& path,
                                        std::vector<std::string> arguments = {"program"},
                                        std::vector<std::string> environment = {}) {
    Result<Ref<ExecutableFile>> file = opener_.open_program(path);
    if (!file.ok()) return LoadError(file.error());
    return load_program(platform_, *memory_,
                        {.file = std::move(file).value(),
                         .filename = path,
                         .arguments = std::move(arguments),
                         .environment = std::move(environment),
                         .opener = opener_,
                         .limits = {}});
  }

  // Ours as an Outcome: a loaded program "runs" if the exit code stands at its entry.
  Outcome try_load(const std::string& path) {
    Outcome outcome;
    Result<LoadedProgram, LoadError> loaded = load(path);
    if (!loaded.ok()) {
      outcome.killed = loaded.error().fatal;
      if (!outcome.killed) outcome.error = loaded.error().error.value();
      return outcome;
    }
    unsigned char code[2] = {};
    bool readable = loaded->mm->copy_in(code, loaded->entry, 2).ok();
    bool executable = loaded->mm->handle_fault(loaded->entry, Access::kExecute, SIGSEGV).kind ==
                      FaultOutcome::Kind::kHandled;
    outcome.ran = readable && executable && code[0] == 0xb8 && code[1] == 60;
    outcome.killed = !outcome.ran;
    return outcome;
  }

  Outcome expect_same(const std::string& what, const std::string& content) {
    std::string path = write_file("program", content);
    Outcome host = execute(path);
    Outcome ours = try_load(path);
    EXPECT_EQ(ours.text(), host.text()) << what;
    return host;
  }
  Outcome expect_same(const std::string& what, const std::function<void(Image&)>& change) {
    Outcome outcome;
    for (uint16_t type : {ET_EXEC, ET_DYN}) {
      Image image(type);
      change(image);
      outcome = expect_same(what + (type == ET_DYN ? " (pie)" : ""), image.bytes());
    }
    return outcome;
  }

  std::string directory_;
  std::vector<std::string> files_;
  FakePlatform platform_;
  std::unique_ptr<MemoryFile> memory_ = make_memory_file();
  HostOpener opener_{platform_};
};

TEST_F(LoaderTest, GoodProgramsRun) {
  EXPECT_TRUE(expect_same("plain", [](Image&) {}).ran);
  EXPECT_TRUE(expect_same("executable stack", [](Image& image) {
                image.segments.push_back({PT_GNU_STACK, PF_R | PF_W | PF_X, 0, 0, 0, 0, 0, 16});
              }).ran);
}

TEST_F(LoaderTest, SegmentsLieWhereTheyShould) {
  Result<LoadedProgram, LoadError> loaded = load(write_file("program", Image().bytes()));
  ASSERT_TRUE(loaded.ok());
  MemoryManager& mm = *loaded->mm;
  char bytes[3];
  EXPECT_TRUE(mm.copy_in(bytes, 0x41207f, 2).ok());
  EXPECT_EQ(bytes[0], 'd');
  EXPECT_EQ(bytes[1], 0);  // the rest of the page, although the file has more
  EXPECT_TRUE(mm.copy_out(0x414fff, "x", 1).ok());
  EXPECT_FALSE(mm.copy_out(0x415000, "x", 1).ok());
  EXPECT_FALSE(mm.copy_out(0x400000, "x", 1).ok());
  ProgramLayout layout = mm.program();
  EXPECT_EQ(layout.code_start, 0x400000u);
  EXPECT_EQ(layout.data_end, 0x412080u);
  EXPECT_GE(mm.brk(0), 0x415000u);
  EXPECT_EQ(loaded->command_name, "program");
}

TEST_F(LoaderTest, TruncatedFiles) {
  std::string whole = Image().bytes();
  for (size_t length : {0,   1,   3,   4,   16,    20,     63,     64,     65,     119,
                        120, 175, 176, 177, 0x7ff, 0x1000, 0x1800, 0x2000, 0x207f, 0x2080})
    expect_same("truncated to " + std::to_string(length), whole.substr(0, length));
}

TEST_F(LoaderTest, WrongHeaders) {
  expect_same("magic", [](Image& i) { i.header.e_ident[0] = 0x7e; });
  expect_same("class 32 in the identification", [](Image& i) { i.header.e_ident[EI_CLASS] = 1; });
  expect_same("machine", [](Image& i) { i.header.e_machine = EM_AARCH64; });
  expect_same("relocatable", [](Image& i) { i.header.e_type = ET_REL; });
  expect_same("core", [](Image& i) { i.header.e_type = ET_CORE; });
  expect_same("entry size", [](Image& i) { i.header.e_phentsize = 32; });
  expect_same("many segments", [](Image& i) { i.header.e_phnum = 65535; });
  expect_same("1170 segments", [](Image& i) { i.header.e_phnum = 1170; });
  expect_same("1171 segments", [](Image& i) { i.header.e_phnum = 1171; });
  expect_same("table behind the end", [](Image& i) { i.header.e_phoff = 1 << 20; });
  expect_same("table at -1", [](Image& i) { i.header.e_phoff = ~uint64_t{0}; });
  expect_same("table at 2^63", [](Image& i) { i.header.e_phoff = uint64_t{1} << 63; });
  expect_same("entry 0", [](Image& i) { i.header.e_entry = 0; });
  expect_same("entry in the kernel", [](Image& i) { i.header.e_entry = ~uint64_t{0} << 20; });
}

TEST_F(LoaderTest, WrongSegments) {
  auto both = [&](const std::string& what, std::function<void(Elf64_Phdr&)> change) {
    for (int index : {0, 1})
      expect_same(what + " in segment " + std::to_string(index),
                  [&](Image& image) { change(image.segments[index]); });
  };
  both("file size above memory size", [](Elf64_Phdr& s) { s.p_filesz = s.p_memsz + 1; });
  both("huge memory size", [](Elf64_Phdr& s) { s.p_memsz = ~uint64_t{0}; });
  both("memory size 2^47", [](Elf64_Phdr& s) { s.p_memsz = uint64_t{1} << 47; });
  both("all sizes huge", [](Elf64_Phdr& s) { s.p_memsz = s.p_filesz = ~uint64_t{0} - 8192; });
  both("offset not congruent", [](Elf64_Phdr& s) { s.p_offset += 8; });
  both("offset overflow", [](Elf64_Phdr& s) { s.p_offset = ~uint64_t{0} & ~uint64_t{4095}; });
  both("offset 2^63", [](Elf64_Phdr& s) { s.p_offset = uint64_t{1} << 63; });
  both("kernel address", [](Elf64_Phdr& s) { s.p_vaddr = 0xffff800000000000; });
  both("address near the top", [](Elf64_Phdr& s) { s.p_vaddr = ~uint64_t{0} & ~uint64_t{4095}; });
  both("nothing in the file", [](Elf64_Phdr& s) { s.p_filesz = 0; });
  both("nothing at all", [](Elf64_Phdr& s) { s.p_filesz = s.p_memsz = 0; });
  both("odd alignment", [](Elf64_Phdr& s) { s.p_align = 3; });
  both("huge alignment", [](Elf64_Phdr& s) { s.p_align = 1 << 21; });
  both("no protection", [](Elf64_Phdr& s) { s.p_flags = 0; });
  expect_same("overlap", [](Image& i) { i.segments[1].p_vaddr = i.segments[0].p_vaddr; });
  // The host's root may map the null page; guests never.
  Image null_page;
  null_page.segments[1].p_vaddr = 0;
  EXPECT_TRUE(try_load(write_file("program", null_page.bytes())).killed);
  expect_same("no segments to load",
              [](Image& i) { i.segments[0].p_type = i.segments[1].p_type = PT_NOTE; });
  expect_same("read-only with zeros", [](Image& i) { i.segments[1].p_flags = PF_R; });
}

TEST_F(LoaderTest, Interpreters) {
  std::string good = write_file("good", Image(ET_DYN).bytes());
  std::string fixed = write_file("fixed", Image(ET_EXEC, 0x10000000).bytes());
  std::string empty = write_file("empty", "");
  std::string tiny = write_file("tiny", Image(ET_DYN).bytes().substr(0, 63));
  std::string header_only = write_file("header", Image(ET_DYN).bytes().substr(0, 64));
  std::string text = write_file("text", std::string(4096, 't'));
  std::string locked = write_file("locked", Image(ET_DYN).bytes(), 0644);
  Image machine(ET_DYN);
  machine.header.e_machine = EM_ARM;
  std::string foreign = write_file("foreign", machine.bytes());
  Image relocatable(ET_DYN);
  relocatable.header.e_type = ET_REL;
  std::string object = write_file("object", relocatable.bytes());
  Image broken(ET_DYN);
  broken.segments[0].p_offset = 8;
  std::string bad_offset = write_file("bad_offset", broken.bytes());
  for (const std::string& path :
       {good, fixed, empty, tiny, header_only, text, locked, foreign, object, bad_offset,
        directory_, directory_ + "/missing", good + "/x", std::string("relative"), std::string(),
        std::string("/") + std::string(300, 'n')})
    expect_same("interpreter " + path, [&](Image& image) { image.set_interpreter(path); });
  expect_same("one byte", [](Image& i) {
    i.set_interpreter("");
    i.segments.back().p_filesz = 1;
  });
  expect_same("no NUL", [&](Image& i) {
    i.set_interpreter(good);
    i.segments.back().p_filesz -= 1;
  });
  expect_same("empty name", [](Image& i) {
    i.set_interpreter("");
    i.segments.back().p_filesz = 2;
  });
  expect_same("too long", [&](Image& i) {
    i.set_interpreter(good);
    i.segments.back().p_filesz = 4097;
  });
  expect_same("longest", [&](Image& i) {
    i.set_interpreter(good);
    i.segments.back().p_filesz = 4096;
  });
  expect_same("behind the end", [&](Image& i) {
    i.set_interpreter(good);
    i.segments.back().p_offset = 0x2100;
  });
  expect_same("offset overflow", [&](Image& i) {
    i.set_interpreter(good);
    i.segments.back().p_offset = ~uint64_t{0} - 1;
  });
  expect_same("first of two counts", [&](Image& i) {
    i.set_interpreter(good);
    i.segments.push_back(i.segments.back());
    i.segments.back().p_filesz = 0;
  });
}

TEST_F(LoaderTest, RandomDamage) {
  std::mt19937 random(7);
  Image image;
  image.set_interpreter(write_file("good", Image(ET_DYN).bytes()));
  std::string with_interpreter = image.bytes();
  std::string plain = Image(ET_DYN).bytes();
  for (int round = 0; round < 150; ++round) {
    std::string bytes = round % 2 == 0 ? plain : with_interpreter;
    int changes = 1 + static_cast<int>(random() % 3);
    for (int i = 0; i < changes; ++i) {
      size_t at = random() % (sizeof(Elf64_Ehdr) + 3 * sizeof(Elf64_Phdr));
      if (at >= 24 && at < 32) continue;  // not the entry: anything could run
      const unsigned char values[] = {0, 1, 0x7f, 0x80, 0xff, 0x10, 0x40};
      bytes[at] = static_cast<char>(values[random() % 7]);
    }
    expect_same("round " + std::to_string(round), bytes);
  }
}

TEST_F(LoaderTest, ScriptsFailAsOnTheHost) {
  std::string good = write_file("good", Image().bytes());
  std::string locked = write_file("locked", Image().bytes(), 0644);
  for (const std::string& head :
       {std::string("#!"), std::string("#!\n"), std::string("#! \t \n"), "#!" + good,
        "#! " + good + " argument\n", "#!" + good + "\t\n", "#!" + locked + "\n",
        std::string("#!/missing/interpreter\n"), "#!" + directory_ + "\n", std::string("#"),
        "#!" + good + "\r\n", "#!" + std::string(253, ' ') + good + "\n",
        "#!" + std::string(254, 'x') + "\n", "#!" + good + std::string(300, ' ') + "\n",
        "#!" + good + " " + std::string(300, 'a') + "\n",
        "#!" + good + std::string(1, '\0') + "x\n", "#!" + std::string(1, '\0') + good + "\n",
        std::string("echo text\n"), "#!" + std::string(300, ' ')})
    expect_same("script " + head.substr(0, 80), head);
}

TEST_F(LoaderTest, NestedScripts) {
  std::string path = write_file("level0", Image().bytes());
  for (int level = 1; level <= 7; ++level) {
    path = write_file("level" + std::to_string(level),
                      "#!" + path + " a" + std::to_string(level) + "\n");
    EXPECT_EQ(try_load(path).text(), execute(path).text()) << level;
  }
  std::string self = write_file("self", "#!" + directory_ + "/self\n");
  EXPECT_EQ(try_load(self).text(), execute(self).text());
}

std::vector<std::string> strings_at(MemoryManager& mm, GuestAddr vector) {
  std::vector<std::string> strings;
  for (;; vector += 8) {
    uint64_t addr = MUST(mm.copy_in(UserIn<uint64_t>(vector)));
    if (addr == 0) return strings;
    strings.push_back(MUST(mm.copy_in_string(addr, 1 << 20)));
  }
}

TEST_F(LoaderTest, ScriptArguments) {
  std::string program = write_file("program", Image().bytes());
  std::string inner = write_file("inner", "#! " + program + "  one two \n");
  std::string outer = write_file("outer", "#!" + inner + "\n");
  Result<LoadedProgram, LoadError> loaded = load(outer, {"name", "x", "y"}, {"A=1", "B=2"});
  ASSERT_TRUE(loaded.ok());
  MemoryManager& mm = *loaded->mm;
  GuestAddr sp = loaded->stack_pointer;
  EXPECT_EQ(sp % 16, 0u);
  EXPECT_EQ(MUST(mm.copy_in(UserIn<uint64_t>(sp))), 6u);
  EXPECT_EQ(strings_at(mm, sp + 8),
            (std::vector<std::string>{program, "one two", inner, outer, "x", "y"}));
  EXPECT_EQ(strings_at(mm, sp + 8 * 8), (std::vector<std::string>{"A=1", "B=2"}));
  EXPECT_EQ(loaded->command_name, "outer");
  ProgramLayout layout = mm.program();
  EXPECT_EQ(layout.environment_end - layout.environment_start, 8u);
  auto value = [&](uint64_t type) {
    for (size_t i = 0; i < layout.auxv.size(); i += 2)
      if (layout.auxv[i] == type) return layout.auxv[i + 1];
    return ~uint64_t{0};
  };
  EXPECT_EQ(MUST(mm.copy_in_string(value(AT_EXECFN), 4096)), outer);
  EXPECT_EQ(MUST(mm.copy_in_string(value(AT_PLATFORM), 4096)), "x86_64");
  EXPECT_EQ(value(AT_PHDR), 0x400040u);
  EXPECT_EQ(value(AT_ENTRY), 0x400800u);
  EXPECT_EQ(value(AT_SYSINFO_EHDR), platform_.vdso_address());
  EXPECT_EQ(layout.auxv[layout.auxv.size() - 2], static_cast<uint64_t>(AT_NULL));
  std::vector<uint64_t> on_stack(layout.auxv.size());
  EXPECT_TRUE(mm.copy_in(on_stack.data(), sp + 8 * 11, on_stack.size() * 8).ok());
  EXPECT_EQ(on_stack, layout.auxv);
}

TEST_F(LoaderTest, ArgumentLimits) {
  std::string program = write_file("program", Image().bytes());
  auto error = [&](std::vector<std::string> arguments) {
    Result<LoadedProgram, LoadError> loaded = load(program, arguments);
    int ours = loaded.ok() ? 0 : loaded.error().error.value();
    EXPECT_EQ(ours, execute(program, arguments).error) << arguments.size();
    return ours;
  };
  EXPECT_EQ(error({std::string(kMaxArgumentString - 1, 'a')}), 0);
  EXPECT_EQ(error({std::string(kMaxArgumentString, 'a')}), E2BIG);
  // 2 MiB in all with the default stack limit.
  struct rlimit stack;
  ASSERT_EQ(::getrlimit(RLIMIT_STACK, &stack), 0);
  if (stack.rlim_cur == 8 * 1024 * 1024) {
    uint64_t rest = 2 * 1024 * 1024 - 17 * 8 - (program.size() + 1);
    std::vector<std::string> many(16, std::string(128 * 1024 - 64, 'm'));
    many.push_back("");
    uint64_t used = 0;
    for (auto& text : many) used += text.size() + 1;
    many.back() = std::string(rest - used, 'z');
    EXPECT_LT(many.back().size(), kMaxArgumentString);
    EXPECT_EQ(error(many), 0);
    many.back() += 'z';
    EXPECT_EQ(error(many), E2BIG);
  }
  EXPECT_EQ(error({}), 0);  // gets an empty name
}

TEST_F(LoaderTest, NothingIsLeftBehind) {
  std::string program = write_file("program", Image(ET_DYN).bytes());
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(load(program).ok());
    EXPECT_FALSE(load(program + "x").ok());
  }
  EXPECT_EQ(memory_->allocated_bytes(), 0u);
  memory_->trim();
  EXPECT_EQ(memory_->resident_bytes(), 0u);
}

}  // namespace
}  // namespace caisson
