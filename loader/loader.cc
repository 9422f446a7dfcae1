#include "loader/loader.h"

#include <cpuid.h>
#include <elf.h>

#include <algorithm>
#include <array>

#include "host/memory.h"
#include "loader/elf_file.h"
#include "loader/elf_mapper.h"
#include "loader/script.h"
#include "loader/stack_image.h"

namespace caisson {

namespace {

constexpr uint64_t kDefaultStack = 8 * 1024 * 1024;  // Linux's _STK_LIM
constexpr uint64_t kMinArgumentSpace = 128 * 1024;   // ARG_MAX
// Files that are looked at before a chain of interpreters is given up.
constexpr int kMaxNesting = 5;

#ifndef AT_MINSIGSTKSZ
#define AT_MINSIGSTKSZ 51
#endif
#ifndef AT_RSEQ_FEATURE_SIZE
#define AT_RSEQ_FEATURE_SIZE 27
#define AT_RSEQ_ALIGN 28
#endif

// Linux's bprm_stack_limits(): strings and pointers together must fit.
Result<void> check_argument_space(const ProgramRequest& request) {
  uint64_t limit = argument_space_limit(request.limits);
  uint64_t pointers =
      (std::max<uint64_t>(request.arguments.size(), 1) + request.environment.size()) *
      sizeof(uint64_t);
  if (limit <= pointers) return Errno(E2BIG);
  uint64_t bytes = request.filename.size() + 1;
  for (const std::vector<std::string>* strings : {&request.arguments, &request.environment}) {
    for (const std::string& text : *strings) {
      if (text.size() + 1 > kMaxArgumentString) return Errno(E2BIG);
      bytes += text.size() + 1;
    }
  }
  if (bytes > limit - pointers) return Errno(E2BIG);
  return {};
}

// The kernel's own look-up of an empty path finds the working directory, which can't be executed.
Result<Ref<ExecutableFile>> open_interpreter(ProgramOpener& opener, const std::string& path) {
  if (path.empty()) return Errno(EACCES);
  return opener.open_program(path);
}

// Follows #! lines until a file that is not a script; changes the arguments as Linux does.
Result<void> resolve_scripts(ProgramRequest& request) {
  std::string path = request.filename;
  for (int depth = 0;; ++depth) {
    if (depth > kMaxNesting) return Errno(ELOOP);
    std::array<char, kFileHeadSize> head{};
    (void)TRY(request.file->pread(0, std::as_writable_bytes(std::span(head))));
    Result<ScriptLine> line = parse_script(head);
    if (!line.ok()) return {};  // something else, or nothing that runs: the next format tells
    std::vector<std::string> arguments{line->interpreter};
    if (line->argument) arguments.push_back(*line->argument);
    arguments.push_back(path);
    arguments.insert(arguments.end(), std::make_move_iterator(request.arguments.begin() + 1),
                     std::make_move_iterator(request.arguments.end()));
    request.arguments = std::move(arguments);
    TRY(check_argument_space(request));
    path = line->interpreter;
    request.file = TRY(open_interpreter(request.opener, path));
  }
}

// As Linux: what cpuid says of the first features. A static libc hides the value of its own vector.
// Asked once: in a virtual machine cpuid costs tens of microseconds.
uint64_t hardware_capabilities() {
  static const uint64_t features = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    __get_cpuid(1, &a, &b, &c, &d);
    return d;
  }();
  return features;
}

std::vector<std::pair<uint64_t, uint64_t>> build_auxv(const platform::Platform& platform,
                                                      const ProgramRequest& request,
                                                      const ElfFile& elf, const MappedElf& program,
                                                      GuestAddr interpreter_base) {
  std::vector<std::pair<uint64_t, uint64_t>> auxv;
  auto add = [&auxv](uint64_t type, uint64_t value) { auxv.emplace_back(type, value); };
  if (platform.vdso_address() != 0) add(AT_SYSINFO_EHDR, platform.vdso_address());
  add(AT_MINSIGSTKSZ, host::auxiliary_value(AT_MINSIGSTKSZ));
  add(AT_HWCAP, hardware_capabilities());
  add(AT_PAGESZ, kPageSize);
  add(AT_CLKTCK, 100);
  add(AT_PHDR, program.segment_table);
  add(AT_PHENT, sizeof(Elf64_Phdr));
  add(AT_PHNUM, elf.header.e_phnum);
  add(AT_BASE, interpreter_base);
  add(AT_FLAGS, 0);
  add(AT_ENTRY, program.entry);
  add(AT_UID, request.uid);
  add(AT_EUID, request.euid);
  add(AT_GID, request.gid);
  add(AT_EGID, request.egid);
  add(AT_SECURE, request.secure ? 1 : 0);
  add(AT_HWCAP2, host::auxiliary_value(AT_HWCAP2));
  std::optional<platform::RseqSupport> rseq = platform.rseq_support();
  if (rseq && rseq->feature_size != 0) {
    add(AT_RSEQ_FEATURE_SIZE, rseq->feature_size);
    add(AT_RSEQ_ALIGN, rseq->alignment);
  }
  return auxv;
}

struct Program {
  ElfFile elf;
  std::optional<ElfFile> interpreter;
};

// Everything before Linux's point of no return.
Result<Program> read_program(ProgramRequest& request) {
  if (request.arguments.empty()) request.arguments.emplace_back();
  TRY(check_argument_space(request));
  TRY(resolve_scripts(request));
  if (request.choose_ids) request.choose_ids(request);
  Program program{TRY(read_elf_program(request.file)), std::nullopt};
  if (!program.elf.interpreter) return program;
  Ref<ExecutableFile> file = TRY(open_interpreter(request.opener, *program.elf.interpreter));
  program.interpreter.emplace(TRY(read_elf_interpreter(std::move(file))));
  return program;
}

// Everything after it.
Result<LoadedProgram> build(platform::Platform& platform, MemoryFile& memory,
                            ProgramRequest& request, const ElfFile& elf,
                            const std::optional<ElfFile>& interpreter) {
  Ref<MemoryManager> mm = TRY(MemoryManager::create(platform, memory, request.limits,
                                                    request.trust_domain, request.randomize));
  GuestAddr stack_top = TRY(mm->make_stack(elf.executable_stack));
  MappedElf program =
      TRY(map_elf(*mm, elf, interpreter ? Placement::kProgram : Placement::kMappingArea,
                  MmapOrigin::kExecProgram));
  GuestAddr entry = program.entry;
  GuestAddr interpreter_base = 0;
  if (interpreter) {
    if (interpreter->header.e_type != ET_EXEC && interpreter->header.e_type != ET_DYN)
      return Errno(ENOEXEC);
    MappedElf mapped =
        TRY(map_elf(*mm, *interpreter, Placement::kMappingArea, MmapOrigin::kExecInterpreter));
    entry = mapped.entry;
    interpreter_base = mapped.bias;
    mm->map_libraries_ahead(mapped.bias);
  }
  // A static position-independent program lies in the mapping area: its heap gets room elsewhere.
  bool move_heap = elf.is_position_independent() && !interpreter;
  mm->set_brk_start(move_heap ? mm->random_program_base() : program.end);
  mm->map_heap_ahead();

  StackContents contents;
  contents.filename = request.filename;
  contents.arguments = std::move(request.arguments);
  contents.environment = std::move(request.environment);
  contents.auxv = build_auxv(platform, request, elf, program, interpreter_base);
  StackImage stack = build_stack(contents, stack_top, request.randomize);
  TRY(mm->copy_out(stack.stack_pointer, stack.bytes.data(), stack.bytes.size()).result());

  ProgramLayout layout;
  layout.code_start = program.code_start;
  layout.code_end = program.code_end;
  layout.data_start = program.data_start;
  layout.data_end = program.data_end;
  layout.brk_start = mm->brk(0);
  layout.stack_start = stack.stack_pointer;
  layout.arguments_start = stack.arguments_start;
  layout.arguments_end = stack.arguments_end;
  layout.environment_start = stack.environment_start;
  layout.environment_end = stack.environment_end;
  layout.auxv = std::move(stack.auxv);
  mm->set_program(std::move(layout));

  size_t slash = request.filename.rfind('/');
  return LoadedProgram{std::move(mm), entry, stack.stack_pointer, request.file,
                       request.filename.substr(slash == std::string::npos ? 0 : slash + 1)};
}

}  // namespace

uint64_t argument_space_limit(const MemoryLimits& limits) {
  uint64_t limit = std::min(kDefaultStack / 4 * 3, limits.stack / 4);
  return std::max(limit, kMinArgumentSpace);
}

Result<LoadedProgram, LoadError> load_program(platform::Platform& platform, MemoryFile& memory,
                                              ProgramRequest request) {
  Result<Program> program = read_program(request);
  if (!program.ok()) return LoadError(program.error());
  Result<LoadedProgram> loaded =
      build(platform, memory, request, program->elf, program->interpreter);
  if (!loaded.ok()) return LoadError(loaded.error(), true);
  return std::move(loaded).value();
}

}  // namespace caisson
