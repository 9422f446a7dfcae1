"""Each rule of the kernel process' seccomp filter is one that some code of that process needs."""

import re

from files import Finding, is_in, without_comments

FILTERS = ("runtime/kernel_filter.cc", "platform/systrap/systrap.cc")
# Whose code runs in the kernel process.
ROOMS = ("base", "host", "platform", "kernel", "mm", "vfs", "loader", "fs", "syscalls", "strace", "runtime")
# How the C library makes a call that has another name in the source.
BY_LIBRARY = {
    "brk": r"\bnew\b|make_ref", "mmap": r"\bnew\b|make_ref", "munmap": r"\bnew\b|make_ref",
    "mremap": r"std::vector", "madvise": r"\bnew\b|make_ref",
    "mprotect": r"std::thread", "clone3": r"std::thread", "set_robust_list": r"std::thread",
    "rseq": r"std::thread", "rt_sigprocmask": r"std::thread", "exit": r"std::thread",
    "newfstatat": r"::fstat\(", "pread64": r"\bpread\(", "pwrite64": r"\bpwrite\(",
    "sendto": r"\bsend\(", "recvfrom": r"\brecv\(", "exit_group": r"\b_exit\(",
    "rt_sigaction": r"\bsigaction\(", "rt_sigreturn": r"\bsigaction\(", "getcpu": r"\bsched_getcpu\(",
    "tgkill": r"\babort\(", "gettid": r"\babort\(", "getpid": r"\babort\(",
    "restart_syscall": r"SYS_futex",  # what a futex wait becomes after SIGCONT
}


def check(tree):
    code = {path: without_comments(tree.text(path)) for path in tree.paths
            if path.endswith((".cc", ".h")) and is_in(path, ROOMS) and not path.endswith("_test.cc")
            and "/testing/" not in path and "/stub/" not in path and "table_" not in path}
    findings = []
    for filter_path in FILTERS:
        if filter_path not in code:
            continue
        for number, line in enumerate(tree.text(filter_path).split("\n"), 1):
            rule = re.match(r"\s*\{SYS_(\w+),", line)
            if not rule:
                continue
            name = rule.group(1)
            use = re.compile(rf"\bSYS_{name}\b|(?<![\w.>]){name}\(|{BY_LIBRARY.get(name, '(?!)')}")
            if not any(use.search(text) for path, text in code.items() if path not in FILTERS):
                findings.append(Finding("filter-rules", filter_path, number,
                                        f"no code of the kernel process calls {name}"))
    return findings
