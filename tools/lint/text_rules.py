"""Checks that read text: file sizes, poisoned names, unranked locks, words that stay out."""

import re

from files import Finding, is_in, without_comments

SOFT_LINES, HARD_LINES = 500, 800

# Rooms whose code stands for Linux: host headers and host calls have no place in them.
KERNEL_ROOMS = ("abi", "arch", "mm", "kernel", "vfs", "fs", "net", "loader", "syscalls", "strace")
# Programs that are guests of ours: they use Linux as every program does.
GUEST_ROOMS = ("tests", "bench")


class Poison:
    """A pattern that may not stand in code of some rooms."""

    def __init__(self, rule, pattern, message, rooms=None, exempt=(), unit_tests=False):
        self.rule, self.pattern, self.message = rule, re.compile(pattern), message
        self.rooms, self.exempt, self.unit_tests = rooms, exempt, unit_tests

    def applies(self, path):
        if self.rooms is not None and not is_in(path, self.rooms):
            return False
        if (path.endswith("_test.cc") or "/testing/" in path) and not self.unit_tests:
            return False
        return not is_in(path, self.exempt)


POISONS = [
    Poison("host-calls-in-host", r"(?<![\w.:>])(::)?syscall\s*\(",
           "host system calls are made in host/ (typed wrappers) and by psx, sys and the platform",
           exempt=("host", "psx", "sys", "seccomp", "platform") + GUEST_ROOMS),
    Poison("host-calls-in-host", r"(asm|__asm__)\b[^;]*\bsyscall\b",
           "host system calls are made in host/ (typed wrappers) and by psx, sys and the platform",
           exempt=("host", "psx", "sys", "platform") + GUEST_ROOMS),
    Poison("starts-through-sys",
           r"(?<![\w.>])(::|std::)?(v?fork|clone[23]?|posix_spawnp?|exec(l|lp|le|v|vp|vpe|ve|veat)|fexecve|system|"
           r"popen|daemon)\s*\(|\bSYS_(v?fork|clone3?|execve(at)?)\b(?!, \")",  # followed by a reason: a filter's rule
           "processes and programs are started through sys/ (start_process, start_function)",
           rooms=("runtime",)),
    # Those of glibc's headers whose structures are not the kernel's.
    Poison("abi-room",
           r"#\s*include\s*<(c?signal(\.h)?|ucontext\.h|termios\.h|mqueue\.h|"
           r"sys/(signal|ucontext|termios|ipc|sem|shm|msg|user|ptrace|timex)\.h)>",
           "glibc's structures there are not the kernel's; take abi/ or <linux/...>",
           rooms=KERNEL_ROOMS, exempt=("abi", "mm", "fs/stdio")),  # the host's SIGBUS, the host's terminals
    Poison("user-memory", r"\bmem(cpy|move|set|cmp|chr)\s*\([^;]*reinterpret_cast",
           "guest memory is reached through copy_in, copy_out and load_atomic only",
           rooms=tuple(r for r in KERNEL_ROOMS if r not in ("abi", "arch", "mm"))),
    Poison("rank-every-lock",
           r"\b(std::(recursive_|shared_|timed_|recursive_timed_|shared_timed_)?mutex|"
           r"std::condition_variable(_any)?|pthread_(mutex|cond|rwlock|spinlock)_t)\b",
           "every lock is a Mutex<LockRank::k...> (base/mutex.h)",
           exempt=("base",) + GUEST_ROOMS),
    Poison("no-exceptions", r"(^|[^\w])(throw\s+[\w:]+|try\s*\{|catch\s*\()",
           "errors are Result and TRY; exceptions are off", rooms=KERNEL_ROOMS + ("base", "host")),
]

# What the project does not speak of. The pieces are joined so that this file passes its own rule.
WORDS = [
    (re.compile(r"(?<![\w.])/(wo" r"rk|fa" r"rm)/"), "a path of one machine"),
    (re.compile(r"\biss" r"ue #?\d+", re.I), "an iss" "ue by number"),
    (re.compile(r"\b(this|next|last|previous) ses" r"sion of\b", re.I), "how the work is organised"),
    (re.compile(r"\b(col" r"league|co-?worker agent|help" r"er agent)s?\b", re.I),
     "how the work is organised"),
    (re.compile(r"\bshared/(DESIGN|STYLE|seeds|reference)\b"), "a file outside the project"),
]
WORDS_EXEMPT = ("docs/coverage.tsv",)


def size_exemptions(text):
    return {line.split()[0] for line in text.split("\n") if line.strip() and line[0] != "#"}


def check_sizes(tree, exempt):
    findings = []
    for path in tree.sources():
        lines = tree.text(path).count("\n")
        if lines > HARD_LINES and path not in exempt:
            findings.append(Finding("file-size", path, 0,
                                    f"{lines} lines, the limit is {HARD_LINES}: split it by verb "
                                    "or family"))
        elif lines > SOFT_LINES and path not in exempt:
            findings.append(Finding("file-size", path, 0, f"{lines} lines, soft limit {SOFT_LINES}",
                                    warning=True))
    for path in sorted(exempt):
        if path not in tree.paths or tree.text(path).count("\n") <= HARD_LINES:
            findings.append(Finding("file-size", path, 0, "needs no exemption any more"))
    return findings


def check_poison(tree):
    findings = []
    for path in tree.sources((".cc", ".h", ".c")):
        rules = [rule for rule in POISONS if rule.applies(path)]
        if not rules:
            continue
        for number, line in enumerate(without_comments(tree.text(path)).split("\n"), 1):
            for rule in rules:
                if rule.pattern.search(line):
                    findings.append(Finding(rule.rule, path, number, rule.message))
    return findings


def check_pragma_once(tree):
    return [Finding("pragma-once", path, 1, "a header begins with #pragma once after its comment")
            for path in tree.sources((".h",)) if "\n#pragma once\n" not in "\n" + tree.text(path)]


def check_words(tree):
    findings = []
    for path in tree.paths:
        if path in WORDS_EXEMPT:
            continue
        for number, line in tree.lines(path):
            for pattern, what in WORDS:
                if pattern.search(line):
                    findings.append(Finding("speaks-of-itself", path, number, f"names {what}"))
    return findings
