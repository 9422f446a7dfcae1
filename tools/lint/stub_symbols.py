"""stub-code: what runs inside stubs needs no symbol from outside and touches no vector register.

The guest's vector and x87 state stays in the CPU while stub code runs, so one stray SSE instruction
corrupts the guest. Looks at every archive, object and program in build/ whose name starts with
caisson_stub or libcaisson_stub.
"""

import os
import re
import subprocess

from files import Finding

SOURCES = "platform/systrap/stub/"
# xmm, ymm, zmm, mmx, x87 and mask registers as objdump names them in AT&T syntax.
VECTOR = re.compile(r"%([xyz]mm\d+|mm[0-7]|st\b|st\(\d\)|k[0-7]\b)")
X87 = re.compile(r"^\s*f(ld|st|add|sub|mul|div|com|ild|ist|sin|cos|init|ninit)\w*(\s|$)|^\s*emms")
BUILT = re.compile(r"^(lib)?caisson_stub(?!\w*_test)[\w.-]*$")


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def built_files(build):
    """Final products first; loose objects only where nothing was linked or archived."""
    products, objects = [], []
    for folder, _, names in os.walk(build):
        in_target = re.search(r"/caisson_stub[\w-]*\.dir(/|$)", folder)
        for name in names:
            path = os.path.join(folder, name)
            if name.endswith(".o") and (in_target or BUILT.match(name)):
                objects.append(path)
            elif BUILT.match(name) and "." not in name.replace(".a", "").replace(".elf", ""):
                products.append(path)
    return products or objects


def is_elf_or_archive(path):
    with open(path, "rb") as file:
        start = file.read(8)
    return start[:4] == b"\x7fELF" or start == b"!<arch>\n"


def undefined_symbols(path):
    """Names that no member of the file defines."""
    undefined, defined, weak = set(), set(), set()
    for line in run("nm", path).split("\n"):
        fields = line.split()
        if len(fields) == 2 and fields[0] in "Uvw":
            (undefined if fields[0] == "U" else weak).add(fields[1])
        elif len(fields) == 3:
            defined.add(fields[2])
    # The linker itself defines this one where position-independent code wants it.
    return sorted((undefined | weak) - defined - {"_GLOBAL_OFFSET_TABLE_"})


def vector_instructions(disassembly):
    """[(function, instruction)] that name a vector or x87 register."""
    found, function = [], "?"
    for line in disassembly.split("\n"):
        head = re.match(r"^[0-9a-f]+ <(.+)>:$", line)
        if head:
            function = head.group(1)
            continue
        fields = line.split("\t")
        if len(fields) >= 2 and (VECTOR.search(fields[-1]) or X87.match(fields[-1])):
            found.append((function, " ".join(fields[-1].split())))
    return found


def check(tree, build):
    if not any(path.startswith(SOURCES) and path.endswith((".cc", ".c", ".S"))
               for path in tree.paths):
        return [Finding("stub-code", SOURCES, 0, "no stub code yet, nothing looked at", warning=True)]
    files = [path for path in built_files(build) if is_elf_or_archive(path)]
    if not files:
        return [Finding("stub-code", SOURCES, 0, "no built caisson_stub found in build/")]
    findings = []
    for path in files:
        shown = os.path.relpath(path, tree.root)
        for name in undefined_symbols(path):
            findings.append(Finding("stub-code", shown, 0, f"undefined symbol {name}"))
        disassembly = run("objdump", "-d", "--no-show-raw-insn", path)
        for function, instruction in vector_instructions(disassembly)[:20]:
            findings.append(Finding("stub-code", shown, 0, f"{function}: {instruction}"))
    return findings
