"""Checks that run a tool on each file, remembered by content: formatting, and headers alone."""

import os
import re
import shutil
import subprocess

from files import Cache, Finding, in_parallel, included_file

INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)
FORMATTED = (".cc", ".h", ".c")


def clang_format():
    return shutil.which("clang-format-16") or "clang-format"


def check_format(tree, fix=False):
    cache = Cache(tree.root, "format")
    style = tree.text(".clang-format")

    def one(path):
        key = Cache.key(style, path, tree.text(path))
        if cache.has(key):
            return None
        command = [clang_format(), "-i"] if fix else [clang_format(), "--dry-run", "-Werror"]
        done = subprocess.run(command + [path], cwd=tree.root, capture_output=True, text=True)
        if done.returncode == 0:
            if not fix:
                cache.add(key)
            return None
        line = re.search(r":(\d+):\d+: error", done.stderr)
        return Finding("format", path, line.group(1) if line else 0,
                       "not as clang-format-16 writes it; ./dev fmt")

    findings = [f for f in in_parallel(one, tree.sources(FORMATTED)) if f]
    cache.save()
    return findings


def closure(tree, path, seen):
    """A header and all headers of ours that it includes, itself first."""
    if path is None or path in seen:
        return seen
    seen[path] = tree.text(path)
    for used in INCLUDE.findall(tree.text(path)):
        closure(tree, included_file(tree, used), seen)
    return seen


def check_headers_alone(tree):
    cache = Cache(tree.root, "headers")
    compiler = shutil.which("clang++-16") or "g++"
    command = [compiler, "-std=gnu++20", "-fsyntax-only", "-Wall", "-Wextra", "-Werror",
               "-Wno-unused-parameter", "-Wno-unused-function", "-Wno-unused-const-variable",
               "-I.", "-Iinclude", "-x", "c++", "-"]

    def one(path):
        parts = [text for name, text in sorted(closure(tree, path, {}).items())]
        key = Cache.key(" ".join(command), path, *parts)
        if cache.has(key):
            return None
        done = subprocess.run(command, cwd=tree.root, capture_output=True, text=True,
                              input=f'#include "{path}"\n#include "{path}"\n')
        if done.returncode == 0:
            cache.add(key)
            return None
        first = next((l for l in done.stderr.split("\n") if "error:" in l), done.stderr[:200])
        return Finding("headers-alone", path, 0, f"does not compile by itself: {first.strip()}")

    findings = [f for f in in_parallel(one, tree.sources((".h",))) if f]
    cache.save()
    return findings
